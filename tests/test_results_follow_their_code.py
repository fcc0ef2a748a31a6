"""A cell's key holds the digest of exactly the code that its experiment reaches by imports."""

import shutil

import pytest

from validations import publish, sources
from validations.claims import CLAIMS, EXPERIMENTS, named


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_an_experiment_reaches_the_lab_beneath_it_and_not_the_lab_above_it(kind):
    found = sources.reached(EXPERIMENTS[kind].module)
    beneath = {"validations.claims.shared.setting"}
    if not EXPERIMENTS[kind].protocols:  # which have models of their own, and reach what they are made of
        beneath |= {"theory.ensemble", "tuning.subjects", "probes.reach.response"}
    assert beneath | {EXPERIMENTS[kind].module} <= found
    assert not any(name.startswith(("reports", "validations.run")) or name.endswith(".claim") for name in found)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_claim_names_its_own_file_and_no_cell_depends_on_it(claim):
    assert claim.module.startswith("validations.claims.") and claim.module.endswith(".claim")
    assert f'id="{claim.id}"' in sources._file(claim.module).read_text(encoding="utf-8")
    assert claim.module not in sources.reached(claim.experiment.module)


@pytest.mark.slow
def test_another_experiment_changes_nothing_and_what_is_imported_changes_the_digest(tmp_path, monkeypatch):
    for room in sources.ROOMS:
        shutil.copytree(sources.ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    monkeypatch.setattr(sources, "ROOT", tmp_path)

    def now() -> str:
        sources.reached.cache_clear()
        return sources.digest(["validations.claims.sites.experiment"])

    def judged_by(claim: str) -> str:
        sources.reached.cache_clear()
        return publish.judged_by([named(claim)])

    try:
        first = now()
        own, other = judged_by("ablation-frozen"), judged_by("energy-profile")
        for text in ("# another bar\n", "# another word\n"):
            path = tmp_path / "validations" / "claims" / "ablation" / "claim.py"
            path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
            assert judged_by("ablation-frozen") != own and judged_by("energy-profile") == other and now() == first
            own = judged_by("ablation-frozen")
        for other in ("validations/claims/loop/experiment.py", "validations/claims/tuned/claim.py", "reports/style.py"):
            (tmp_path / other).write_text("x = 1\n", encoding="utf-8")
        assert now() == first
        path = tmp_path / "theory" / "ensemble.py"
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        assert now() != first
    finally:
        sources.reached.cache_clear()
