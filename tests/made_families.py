"""Tables of the claims on found subspaces and on layer scales written by hand: numbers for tests only."""

CLAIMS = (
    (
        "found-subspaces",
        "optimization",
        "Curvature finds smaller subspaces than chance",
        "In the leading Gauss–Newton directions training needs as many octaves fewer dimensions as predicted.",
        'log_2 frac(d_"90"^"random", d_"90"^"found")',
        "the base-two logarithm of the ratio of threshold dimensions",
        "octaves saved",
        5.0,
        "octaves",
        1.0,
        0.5,
        "supported",
    ),
    (
        "layer-scales",
        "optimization",
        "A scale per layer lowers the threshold dimension",
        "Random subspaces with a trained scale per layer need fewer dimensions than those without.",
        'log_2 frac(d_"90"^"random", d_"90"^"scaled") > 0',
        "the octaves saved by the scales are positive",
        "octaves saved by the scales",
        0.4,
        "octaves",
        0.25,
        0.1,
        "undecided",
    ),
)


def tables(tasks, deltas, seeds, rng):
    """The rows and parts of the two claims, keyed by (claim, part)."""
    found, scales, curves = [], [], []
    half = {"random": 400, "said": 300, "gauss-newton": 3, "reachable": 4, "principal": 12, "trajectory": 1}
    half |= {"turned": 40, "foreign": 20}
    few = (1, 2, 4, 8, 16, 32, 64)
    many = {"random": (4, 16, 115, 326, 548, 775, 922), "principal": (1, 2, 3), "turned": (4, 16), "foreign": (4, 16)}
    for cell in [{"task": t, "delta": d, "seed": s} for t in tasks for d in deltas for s in range(seeds)]:
        cell["eta"] = float(rng.lognormal(-2, 0.5))
        cell["inside"] = cell["eta"] <= 0.3
        saved = {"measured": 5.0, "predicted": 5.1, "saved_reachable": 4.4, "saved_said": 0.4}
        saved |= {"saved_rank": 4.0, "saved_participation": 8.2}
        found.append(cell | {name: value + 0.3 * float(rng.standard_normal()) for name, value in saved.items()})
        without = 700 * float(rng.lognormal(0, 0.1))
        gain = 0.4 + 0.2 * float(rng.standard_normal())
        scales.append(
            cell
            | {"random": without, "said": without / 2**gain, "saved": gain, "saved_scaled": gain + 0.1, "saved_first": -0.01}
            | {"saved_counted": -0.01}
        )
        for family, middle in half.items():
            for d in many["random"] if family == "said" else many.get(family, few):
                share = d / (d + middle) * float(rng.uniform(0.97, 1.03))
                known = None if family == "trajectory" else d / (d + middle)
                curves.append(cell | {"family": family, "dimension": d, "measured": share, "predicted": known})
    return {
        ("found-subspaces", "rows"): found,
        ("found-subspaces", "curves"): curves,
        ("layer-scales", "rows"): scales,
        ("layer-scales", "curves"): curves,
    }
