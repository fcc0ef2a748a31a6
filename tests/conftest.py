"""Fixtures and options shared by every law."""

import os
import pathlib

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch load: default threads are ten times slower under xdist

import pytest  # noqa: E402
import seeds  # noqa: E402


def pytest_addoption(parser):
    shift = int(os.environ.get(seeds.NAME, 0))
    parser.addoption("--seed-shift", type=int, default=shift, help="move every seed that the tests draw from by N strides")
    parser.addoption("--cases", type=int, help="run every law on at most N of its cases, spread over them (default: on all)")


def pytest_configure(config):
    os.environ[seeds.NAME] = str(config.getoption("seed_shift"))
    seeds.install()
    config.addinivalue_line("markers", "recorded_draws(why): expected values belong to these very seeds, which no shift moves")


def pytest_collection_modifyitems(config, items):
    """Keep of every law, a test function, so many of its cases: the first, the last and others evenly between."""
    wanted = config.getoption("cases")
    if not wanted:
        return
    laws: dict[str, list] = {}
    for item in items:
        laws.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {cases[k * (len(cases) - 1) // max(wanted - 1, 1)] for cases in laws.values() for k in range(wanted)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.fixture(autouse=True)
def _recorded_draws(request, monkeypatch):
    if request.node.get_closest_marker("recorded_draws"):
        monkeypatch.setenv(seeds.NAME, "0")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of development data beside the checkout; tests that need it are skipped where it is absent."""
    path = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("the development data folder ../shared is not here")
    return path
