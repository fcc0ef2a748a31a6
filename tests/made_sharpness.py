"""Tables of the claims on multiplets, convergence and sharpness written by hand: numbers for tests only."""

CLAIMS = (
    (
        "lora-multiplets",
        "optimization",
        "The gradient in the frozen weights gives both ends",
        "Every singular value of the weight's gradient is an eigenvalue of either sign, as often as the rank.",
        "lambda = plus.minus s sigma_i (G)",
        "lambda is plus or minus s sigma i of G",
        "error of the eigenvalues",
        0.3,
        "log ratio",
        0.2,
        0.0,
        "supported",
    ),
    (
        "convergence-order",
        "optimization",
        "The spectrum says how fast a delta converges",
        "The steps of gradient descent follow from the spectrum and the gradient's energy along it.",
        "sum_i g_i^2 / (2 mu_i) (1 - (1 - eta mu_i)^(2 k))",
        "the gain is a sum over eigenvalues",
        "rank correlation of predicted and measured steps",
        0.8,
        "ρ",
        0.6,
        0.3,
        "supported",
    ),
    (
        "sharpness-gap",
        "optimization",
        "Sharper deltas generalise worse",
        "The gap grows with the largest eigenvalue at equal training loss.",
        'rho ("gap", lambda_max | L) > 0',
        "the rank correlation of gap and sharpness given the loss is positive",
        "rank correlation given the training loss",
        0.05,
        "ρ",
        0.3,
        0.1,
        "refuted",
    ),
)


def tables(tasks, deltas, seeds, rng):
    """The rows and parts of the three claims, keyed by (claim, part)."""
    places = [{"task": t, "seed": s} for t in tasks for s in range(seeds)]

    def cells(delta, centres):
        return [
            place | {"delta": delta} | {name: value + 0.05 * float(rng.standard_normal()) for name, value in centres.items()}
            for place in places
        ]

    errors = {"error": 0.15, "error_modules": 0.2, "error_start": 0.2, "error_multiplets": 0.16, "error_once": 0.6}
    errors |= {"error_gauss_newton": 1.6, "error_permuted": 0.3}
    orders = {"predicted": 0.8, "linear": 0.9, "condition": 0.6, "trace": 0.1, "gradient_norm": 0.3}
    orders |= {"size": -0.2, "permuted": 0.5}
    ranks = {"sharpness": 0.1, "adaptive": 0.0, "trace": 0.2, "norm": 0.4, "effective_dimension": 0.5}
    ranks |= {"size": 0.1, "permuted": 0.0}
    spectra = [
        place | {"delta": "lora", "share": 0.7, "predicted": sign * x, "measured": sign * x * float(rng.lognormal(0, 0.1))}
        for place in places
        for sign in (-1, 1)
        for x in (1.0, 0.98, 0.7, 0.69)
    ]
    steps, points = [], []
    for place in places:
        for delta in deltas:
            predicted = float(rng.uniform(4, 40))
            steps.append(place | {"delta": delta, "predicted": predicted, "measured": predicted * float(rng.lognormal(0, 0.2))})
            for share in (0.3, 0.1, 0.03):
                sharp = {"sharpness": float(rng.lognormal(0, 1)), "gap": float(rng.normal(0.3, 0.1)), "share": share}
                points.append(place | {"delta": delta} | sharp)
    return {
        ("lora-multiplets", "rows"): cells("lora", errors),
        ("lora-multiplets", "spectra"): spectra,
        ("convergence-order", "rows"): cells("convergence", orders),
        ("convergence-order", "deltas"): steps,
        ("sharpness-gap", "rows"): cells("sharpness", ranks),
        ("sharpness-gap", "points"): points,
    }
