"""One law of what deltas read and move: where the logits are linear in it, training under the price ends at the law."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo

from theory.loss import CrossEntropy
from tuning import IA3, Adapter, LoRA, Prefix
from tuning.own_signals import told
from tuning.training import fit
from validations.claims.onelaw.experiment import EXPERIMENT, curvatures, objective, price_of, reaches
from validations.claims.onelaw.gains import Form, as_gains, observe, trained
from validations.claims.onelaw.plants import SIZE, WIDTH, network
from validations.claims.shared.training import at_start
from validations.statistics import cosine

LAST = (1,)  # the last block, behind which the plant is linear in a gain at one place
ALONE = {
    "lora": LoRA(WIDTH, targets=("o",), blocks=LAST),
    "ia3": IA3(targets=("o",), inputs=(), blocks=LAST),
    "ia3 before the map": IA3(targets=("down",), inputs=("down",), blocks=LAST),
    "parallel": Adapter(WIDTH, placement="parallel", ports=("attention",), blocks=LAST, activation="identity"),
    "sequential": Adapter(WIDTH, ports=("attention",), blocks=LAST, activation="identity"),
}
alone = pytest.mark.parametrize("delta", ALONE.values(), ids=ALONE)


def met(delta, share=0.3):
    """A plant with a delta of one place, what its laws read and move, the loss, and a price."""
    setting = network(3, 0, delta)
    seen = observe(setting.subjects["delta"], setting.train)
    r = share * curvatures(setting.subjects["delta"], seen, setting.train)[0]
    return setting, seen, CrossEntropy(setting.train.labels.numpy()), r


@alone
def test_training_under_the_price_ends_at_the_law(delta):
    setting, seen, loss, r = met(delta)
    made = setting.subjects["delta"]
    fitted = fit(objective(made, seen, setting.train, r), at_start(made), tolerance=1e-5, max_evaluations=3000)
    with torch.no_grad():
        found = seen.whitened(as_gains(trained(made, fitted.params, seen)))
    law = seen.whitened(seen.law(loss, r))
    assert cosine(law, found) > 0.9999
    assert abs(np.linalg.norm(law) / np.linalg.norm(found) - 1.0) < 1e-2
    assert abs(fitted.value - loss.value(seen.reached(seen.law(loss, r))).mean() - r / 2 * law @ law) < 1e-6
    assert cosine(seen.whitened(seen.first(loss, r)), found) < 0.999  # which the first step is not


@alone
def test_the_objective_is_the_loss_and_the_price_of_the_gains(delta):
    setting, seen, loss, _ = met(delta)
    made = setting.subjects["delta"]
    params = zoo.moved(at_start(made))
    found = as_gains(trained(made, params, seen))
    with torch.no_grad():
        value, outputs = float(objective(made, seen, setting.train, 0.7)(params)), made.outputs(params, setting.train).numpy()
    assert np.isclose(value, loss.value(outputs).mean() + 0.35 * np.sum(seen.whitened(found) ** 2), rtol=1e-10)
    assert np.allclose(outputs, seen.reached(found), atol=1e-10)  # exact where one place alone acts
    assert np.allclose(outputs, reaches(made, seen, found, setting.train), atol=1e-10)


@alone
def test_curvatures_are_the_ends_of_the_hessian_in_units_of_the_price(delta):
    """Logits are linear in the law here, so that the Hessian is Gauss-Newton: the ends of (1/N) X' H X."""
    setting, seen, loss, _ = met(delta)
    largest, smallest = curvatures(setting.subjects["delta"], seen, setting.train)
    roots = [np.linalg.inv(np.linalg.cholesky(S)) for S in seen.prices]
    (g,), (f,), (root,) = seen.ensemble.G, seen.ensemble.phi, roots
    if seen.form.rank is None:
        X = np.einsum("nctm,ntm->ncm", g, f) / np.sqrt(np.diag(seen.prices[0]))
    else:
        X = np.einsum("nctm,ntq->ncmq", g, f @ root.T).reshape(*g.shape[:2], -1)
        X = np.concatenate([X, g.sum(2)], -1) if seen.form.constant else X
    values = np.linalg.eigvalsh(np.einsum("ncm,ncd,ndk->mk", X, loss.hessian(seen.ensemble.y0), X) / SIZE)
    assert np.isclose(largest, values[-1], rtol=0.02)
    assert abs(smallest) < 0.02 * largest  # convex


@alone
def test_a_law_of_a_large_price_is_the_first_order_law(delta):
    _, seen, loss, r = met(delta, 1e6)
    law, first = (seen.whitened(gains) for gains in (seen.law(loss, r), seen.first(loss, r)))
    assert np.linalg.norm(law - first) < 1e-5 * np.linalg.norm(law)


@alone
def test_a_law_along_its_own_directions_is_all_of_it_and_half_of_it_is_half(delta):
    _, seen, loss, r = met(delta)
    law = seen.law(loss, r)
    own, again = seen.along(law, law)
    half = [replace(g, k=g.k / 2, parts=(g.parts[0] / 2, *g.parts[1:])) for g in law]
    assert np.allclose(own, again) and np.allclose(seen.along(law, half)[1], own / 2)
    if seen.form.rank is not None:
        constants = np.concatenate([g.k for g in law])
        assert np.isclose(np.sum(own**2) + constants @ constants, np.sum(seen.whitened(law) ** 2))


def test_the_price_keeps_the_law_in_the_regime_or_is_the_curvatures_floor():
    setting, seen, loss, _ = met(LoRA(4, targets=("mlp",)))
    largest, smallest = curvatures(setting.subjects["delta"], seen, setting.train)
    for regime in (0.01, 0.1):
        r, eta = price_of(replace(setting, regime=regime), seen, loss)
        assert r >= 1.5 * max(0.0, -smallest) and (eta <= regime or np.isclose(r, largest) or np.isclose(r, -1.5 * smallest))


LISTENED = ("lora", "lora-qv", "ia3", "adapter", "parallel")


@pytest.mark.parametrize("name", LISTENED)
def test_a_listener_changes_nothing_and_hears_what_a_delta_adds(name):
    made = zoo.subject_of(zoo.backbone_of("bert"), zoo.DELTAS[name])
    params, batch = zoo.moved(at_start(made)), zoo.batch_of()
    with torch.no_grad():
        found, outputs = told(made, params, batch)
        assert torch.equal(outputs, made.outputs(params, batch))
        frozen, _ = told(made, at_start(made), batch)
    assert all(not place.signal.any() for place in frozen.values())
    if "lora" in name:
        place = found["outputs/encoder.layer.1.attention.self.query"]
        A, B = (params[f"1.attention.q.{factor}"] for factor in "AB")
        assert torch.allclose(place.signal, made.delta.scale * place.read @ A.T @ B.T, atol=1e-6)


def test_laws_are_refused_where_a_delta_is_of_another_form():
    with pytest.raises(ValueError, match="expected a LoRA, IA3 or an adapter, got prefix-2: name one of these"):
        Form.of(Prefix(2))
    with pytest.raises(ValueError, match="functions at places, such as a LoRA, IA3 or an adapter, got prefix-2: name one"):
        made = zoo.subject_of(zoo.backbone_of("bert"), Prefix(2))
        told(made, at_start(made), zoo.batch_of())
    for targets, said in ((("v",), "a fused map is changed in part"), (("q", "v"), "name a fused map as a whole")):
        with pytest.raises(ValueError, match=said):
            observe(zoo.subject_of(zoo.backbone_of("gpt2"), LoRA(2, targets=targets)), zoo.batch_of())
    whole = observe(zoo.subject_of(zoo.backbone_of("gpt2"), LoRA(2, targets=("qkv",))), zoo.batch_of())
    assert [g.shape[-1] for g in whole.ensemble.G] == [48, 48]


def test_predictions_know_nothing_of_training():
    setting = network(0, 0)
    untrainable = replace(setting, evaluations=1)
    one, other = (EXPERIMENT.predict(given) for given in (setting, untrainable))
    assert one.values == other.values
