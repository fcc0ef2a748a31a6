"""Tables of the claims on permuted labels and pretraining written by hand: numbers for tests only."""

CLAIMS = (
    (
        "shuffled-labels",
        "optimization",
        "Permuted labels raise the dimension",
        "Permuted labels need more random directions than the true ones.",
        'log_2 d_90 ("permuted") > log_2 d_90 ("true")',
        "the dimension for permuted labels is above that for the true ones",
        "rise by permuted labels, octaves",
        0.6,
        "octaves",
        0.25,
        0.1,
        "supported",
    ),
    (
        "pretraining-lowers",
        "optimization",
        "Pretraining lowers the dimension",
        "A network without pretraining needs more random directions.",
        'log_2 d_90 ("shuffled") > log_2 d_90 ("pretrained")',
        "the dimension on a shuffled network is above that on the pretrained one",
        "rise without pretraining, octaves",
        0.4,
        "octaves",
        0.25,
        0.1,
        "undecided",
    ),
)


def tables(tasks, deltas, seeds, rng):
    """The rows and arms of both claims, keyed by (claim, part)."""
    centres = {"rise": 0.6, "predicted": 0.8, "participation": -0.1, "trace_rank": 0.0, "effective": 0.1}
    made = {(claim, part): [] for claim in ("shuffled-labels", "pretraining-lowers") for part in ("rows", "arms")}
    for place in [{"task": t, "delta": d, "seed": s} for t in tasks for d in deltas for s in range(seeds)]:
        base, dimensions = float(rng.uniform(100, 400)), {}
        for arm in ("permuted", "again", "shuffled", "fresh"):
            values = {name: value + 0.1 * float(rng.standard_normal()) for name, value in centres.items()}
            dimensions[arm] = base * 2 ** values["rise"]
            row = place | {"arm": arm, "censored": False} | values
            if arm == "permuted":
                made["shuffled-labels", "rows"].append(row | {"null": 0.1 * float(rng.standard_normal())})
            elif arm != "again":
                made["pretraining-lowers", "rows"].append(row)
        arms = [place | {"arm": arm, "base": base, "d90": d, "learnt": arm != "fresh"} for arm, d in dimensions.items()]
        made["shuffled-labels", "arms"] += arms
        made["pretraining-lowers", "arms"] += arms
    return made
