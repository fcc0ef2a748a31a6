"""Tables of the claims on sweeps over random subspaces written by hand: numbers for tests only."""

CLAIMS = (
    (
        "sweep-curve",
        "optimization",
        "The head alone explains the curve",
        "The share of the gain that a random subspace reaches is that of the head alone.",
        "s(d) = 1 - J_d \\/ J_0",
        "the share at d is one minus the ratio of objectives",
        "error of the share",
        0.03,
        "",
        0.05,
        0.1,
        "supported",
    ),
    (
        "low-dimension",
        "optimization",
        "Tuning needs few directions",
        "Accuracy is reached in a tenth of the numbers.",
        "d_90 <= D \\/ 10",
        "d ninety is at most D over ten",
        "octaves below the tuned numbers",
        4.1,
        "octaves",
        3.3,
        2.0,
        "supported",
    ),
    (
        "dimensions-alike",
        "optimization",
        "The notions of dimension order tasks alike",
        "Tasks with the larger threshold dimension have the larger effective dimension.",
        "rho > 0",
        "the rank correlation is positive",
        "rank correlation",
        0.4,
        "ρ",
        0.3,
        0.0,
        "undecided",
    ),
)


def tables(tasks, deltas, seeds, rng):
    """The rows and parts of the three claims, keyed by (claim, part)."""
    curves, low, alike = [], [], []
    for place in [{"task": t, "delta": d, "seed": s} for t in tasks for d in deltas for s in range(seeds)]:
        size = 4354 * (1 + 400 * (place["delta"] == deltas[-1]))
        middle = float(rng.lognormal(5, 0.5))
        for d in (8, 32, 128, 512, 2048):
            share = d / (d + middle)
            numbers = {"dimension": d, "curve": share, "measured": min(1.0, share + 0.04 * float(rng.standard_normal()))}
            curves.append(place | numbers)
        measured = middle * float(rng.lognormal(0, 0.3))
        ends = {"low": measured / 1.4, "high": measured * 1.5, "reached": size < 10_000, "closed": size < 10_000}
        low.append(place | {"measured": measured, "predicted": middle, "parameters": size, "head": 258.0} | ends)
        notions = {"effective": 0.2 * middle, "coefficient": 0.5 * middle, "features": 9.0}
        alike.append(place | {"accuracy": measured} | {k: v * float(rng.lognormal(0, 0.2)) for k, v in notions.items()})
    return {("sweep-curve", "curves"): curves, ("low-dimension", "rows"): low, ("dimensions-alike", "rows"): alike}
