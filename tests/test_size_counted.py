"""A delta's size is the number of numbers it trains, and agrees with the formulas of the papers."""

import pytest
import zoo

from tuning import (
    IA3,
    Adapter,
    BitFit,
    DoRA,
    Full,
    LastLayers,
    LNTuning,
    LoKr,
    LoRA,
    PortBias,
    Prefix,
    ProjectedPrefix,
    Prompt,
    SHiRA,
    VeRA,
    place_of,
)


@pytest.fixture(scope="module", params=zoo.KINDS)
def backbone(request):
    return zoo.backbone_of(request.param)


@pytest.mark.parametrize("name", zoo.DELTAS)
def test_size_is_the_count(backbone, name):
    delta = zoo.DELTAS[name]
    initial = delta.initial(backbone, 0)
    assert {key: tuple(value.shape) for key, value in initial.items()} == delta.shapes(backbone)
    assert delta.size(backbone) == sum(value.numel() for value in initial.values())
    assert all(value.dtype == backbone.dtype for value in initial.values())


@pytest.mark.parametrize("name", zoo.DELTAS)
def test_every_parameter_says_where_it_acts(backbone, name):
    places = {port.key for port in backbone.ports} | {"embedding", "final"} | ({"memory"} if backbone.layout.second else set())
    assert {place_of(key) for key in zoo.DELTAS[name].shapes(backbone)} <= places


def test_sizes_of_the_papers():
    """He et al. 2022, per sublayer: prefix 2 l d, adapter 2 r d (+ biases r + d), LoRA on q and v 4 r d."""
    backbone, d, blocks = zoo.backbone_of("bert"), 16, 2
    assert Prompt(5).size(backbone) == 5 * d
    assert Prefix(5).size(backbone) == blocks * 2 * 5 * d
    assert LoRA(3).size(backbone) == blocks * 4 * 3 * d
    assert Adapter(3).size(backbone) == 2 * blocks * (2 * 3 * d + 3 + d)
    assert PortBias().size(backbone) == 2 * blocks * d
    assert IA3().size(backbone) == blocks * (2 * d + 24)
    assert BitFit().size(backbone) == d + blocks * (4 * d + d + 24 + d + d)
    assert Full().size(backbone) == sum(p.numel() for p in backbone.model.parameters())
    assert DoRA(3).size(backbone) == LoRA(3).size(backbone) + blocks * 2 * d
    assert VeRA(7).size(backbone) == blocks * 2 * (7 + d)
    assert SHiRA(3).size(backbone) == LoRA(3).size(backbone)
    assert ProjectedPrefix(5, hidden=7).size(backbone) == 5 * d + 7 * (d + 1) + blocks * 2 * d * (7 + 1)
    assert LoKr(1).size(backbone) == blocks * 2 * (4 * 4 + 2 * 4) and LoKr(2).size(backbone) == blocks * 2 * (4 * 4 + 4 * 4)
    assert LNTuning().size(backbone) == 2 * d + blocks * 2 * 2 * d
    assert LNTuning(blocks=(1,)).size(backbone) == 2 * 2 * d
    grouped = zoo.backbone_of("llama")
    assert Prefix(5).size(grouped) == blocks * 2 * 5 * d // 2
    assert LoRA(3).size(grouped) == blocks * 3 * (2 * d + d + d // 2)


def test_the_last_layers_are_the_rest_of_the_network(backbone):
    """All blocks and what stands before them are full tuning, no number twice; what follows the last block is moved with it."""
    keys = {count: set(LastLayers(count).shapes(backbone)) for count in range(1, backbone.blocks + 1)}
    rest = set(Full().shapes(backbone)) - keys[backbone.blocks]
    assert {place_of(key) for key in rest} <= {"embedding", "memory"}
    for count in range(1, backbone.blocks):
        assert keys[count] < keys[count + 1]
        assert {key.partition(".")[0] for key in keys[count + 1] - keys[count]} == {str(backbone.blocks - count - 1)}


def test_ln_tuning_is_every_gain_and_its_bias(backbone):
    """Weights of one axis that are no bias are gains of normalisations, in every architecture."""
    weights = dict(backbone.model.named_parameters())
    gains = {name for name, value in weights.items() if value.ndim == 1 and not name.endswith(".bias")}
    biases = {name.removesuffix("weight") + "bias" for name in gains} & set(weights)
    assert set(LNTuning().parameters(backbone).values()) == gains | biases


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prefix(0), "positive length"),
        (lambda: Prompt(-1), "positive length"),
        (lambda: LoRA(0), "positive rank"),
        (lambda: SHiRA(9).shapes(zoo.backbone_of("bert")), "at most the 256 entries"),
        (lambda: LoKr(1, factor=0), "positive factor"),
        (lambda: ProjectedPrefix(0), "positive length"),
        (lambda: ProjectedPrefix(1, hidden=0), "positive number of hidden units"),
        (lambda: DoRA(0), "positive rank"),
        (lambda: DoRA(1, targets=("w",)), "DoRA targets among"),
        (lambda: LoRA(1, targets=("w",)), "targets among"),
        (lambda: Adapter(0), "positive bottleneck"),
        (lambda: Adapter(1, placement="beside"), "placement"),
        (lambda: Adapter(1, activation="step"), "activation among"),
        (lambda: Adapter(1, ports=("2.mlp",)).shapes(zoo.backbone_of("bert")), "expected ports among"),
        (lambda: Prefix(1, blocks=(7,)).shapes(zoo.backbone_of("bert")), "expected blocks between"),
        (lambda: LastLayers(0), "positive count"),
        (lambda: LastLayers(3).shapes(zoo.backbone_of("bert")), "at most the 2 blocks"),
        (lambda: LNTuning(blocks=(2,)).shapes(zoo.backbone_of("bert")), "expected blocks between"),
        (lambda: Full(("nothing",)).shapes(zoo.backbone_of("bert")), "match none"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
