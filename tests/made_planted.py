"""Tables of the claim on planted dimensions written by hand: numbers for tests only."""

CLAIMS = (
    (
        "planted-dimension",
        "optimization",
        "The measurement finds a planted dimension",
        "Where exactly k of a delta's dimensions matter, training in random subspaces measures the dimension that k implies.",
        "z = z_0 + B S^top x",
        "the network sees k numbers only",
        "share of intervals that contain the known dimension",
        0.92,
        "",
        0.7,
        0.5,
        "supported",
    ),
)


def tables(tasks, seeds, rng):
    """The rows and parts of the claim, keyed by (claim, part)."""
    places = [{"task": t, "delta": "lora", "seed": s} for t in tasks for s in range(seeds)]
    errors = {"error_first": 0.3, "error_curve": 0.02, "error_larsen": 0.15, "error_unwhitened": 0.3}
    errors |= {"error_participation": 0.7, "error_other": 1.0, "error_parameters": 8.4}
    rows, curves = [], []
    for place in places:
        for k, known in ((8, 6.75), (16, 13.91)):
            octaves = float(rng.normal(0, 0.08))
            measured = known * 2**octaves
            ends = {"low": measured / 1.15, "high": measured * 1.18}
            row = {"k": k, "known": known, "measured": measured, "error": abs(octaves), **ends}
            rows.append(place | row | {name: abs(x + 0.05 * float(rng.standard_normal())) for name, x in errors.items()})
            for d in (k // 8, k // 4, k // 2, k, 2 * k):
                for draw in range(3):
                    share = min(1.0, max(0.0, d / k + (0.1 * float(rng.standard_normal()) if d < k else 0.0)))
                    curves.append(place | {"k": k, "dimension": d, "relative": d / k, "draw": draw, "measured": share})
    return {("planted-dimension", "rows"): rows, ("planted-dimension", "curves"): curves}
