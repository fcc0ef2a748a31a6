"""Tables of the claims drawn from a seeded generator: numbers for tests of the report only."""

import math

import made_families
import made_origins
import made_planted
import made_sharpness
import made_sweep
import numpy as np

PORTS = tuple(f"{block} {site}" for block in range(1, 5) for site in ("attention", "mlp"))


def tables(rng, tasks, deltas, seeds):
    """Every claim's rows and parts, keyed by (claim, part)."""
    grid = [(t, d, s) for t in tasks for d in deltas for s in range(seeds)]

    def rows(make, index=grid):
        return [{"task": t, "delta": d, "seed": s, **make(t, d, s)} for t, d, s in index]

    def noisy(centre, sd):
        return float(min(centre + sd * rng.standard_normal(), 0.999))

    def eta():
        value = float(rng.lognormal(math.log(0.14), 0.6))
        return {"eta": value, "inside": value <= 0.3}

    def dimension(t, d, s):
        true = 2.0 ** rng.uniform(2, 8)
        measured = true * rng.lognormal(0, 0.25)
        return {
            "measured": measured,
            "low": measured * 0.7,
            "high": measured * 1.5 if rng.random() > 0.05 else None,
            "spectrum": true,
            "curve": true * 1.1,
            "participation": true * rng.lognormal(-1, 0.5),
            "trace_rank": true * rng.lognormal(0.8, 0.5),
            "parameters": 1024 if d == "port-bias" else 8192,
        }

    def curves(t, d, s):
        return 12 * (1 + deltas.index(d))

    def direction(t, d, s):
        own = noisy(0.74, 0.09)
        return {
            "cosine": own,
            "cosine_gradient": noisy(0.52, 0.08),
            "cosine_permuted": 0.12,
            "cosine_random": 0.03,
            "cosine_rotated": 0.14,
            "margin": own - 0.5,
            "sensitivity": float(rng.lognormal(-0.3, 0.3)),
            **eta(),
        }

    def optimum(t, d, s):
        return {
            "r2": noisy(0.81, 0.12),
            "r2_gradient": noisy(0.3, 0.4),
            "r2_constant": noisy(0.1, 0.05),
            "r2_permuted": noisy(-1.5, 1.0),
            **eta(),
        }

    def amplitude(t, d, s):
        norm, ratio = float(rng.lognormal(0, 0.7)), float(rng.normal(0.1, 0.3))
        return {
            "r2": noisy(0.6, 0.1),
            "r2_gradient": noisy(0.2, 0.2),
            "log_ratio": ratio,
            "norm_predicted": norm,
            "norm_trained": norm * math.exp(ratio),
            **eta(),
        }

    def energy(t, d, s):
        return {
            name: float(abs(centre * rng.lognormal(0, 0.4)))
            for name, centre in (
                ("js", 0.03),
                ("js_gradient", 0.05),
                ("js_uniform", 0.12),
                ("js_initial", 0.15),
                ("js_permuted", 0.2),
            )
        } | {"log_ratio": float(rng.normal(0, 0.3))}

    def bound(t, d, s):
        gap = float(rng.lognormal(-2, 1))
        tight = {k: float(rng.lognormal(m, 0.4)) for k, m in (("published", 5), ("one_sided", 2), ("hessian", 0.7))}
        return {"gap": gap, **{k: gap * v for k, v in tight.items()}, **{f"tightness_{k}": v for k, v in tight.items()}}

    def price(t, d, s):
        predicted = float(rng.lognormal(-2, 0.6))
        return {
            "predicted": predicted,
            "measured": predicted * float(rng.normal(0.9, 0.4)),
            "measured_bias": predicted * float(rng.normal(1.6, 0.3)),
        }

    def disturbed(t, d, s):
        predicted, departure = float(rng.lognormal(1.5, 0.8)), float(rng.lognormal(math.log(0.14), 0.6))
        return {
            "prefix": float(rng.lognormal(0, 0.08)),
            "adapter": float(rng.lognormal(0, 0.15)),
            "predicted": predicted,
            "measured": predicted * float(rng.normal(0.95, 0.2)),
            "eta": departure,
            "inside": departure <= 0.3,
        }

    def attack(t, d, s):
        tight = float(rng.normal(0.97, 0.03))
        others = (("ports_apart", 0.99), ("frobenius", 0.75), ("layered", 0.05), ("gamma_mean", 1.1), ("gamma_permuted", 1.0))
        return {
            "tightness_gamma": tight,
            **{f"tightness_{name}": tight * share * float(rng.lognormal(0, 0.03)) for name, share in others},
            "cosine": noisy(0.7, 0.1),
            "cosine_shared": noisy(0.65, 0.1),
            "cosine_random": 0.39,
            **eta(),
        }

    def robust(t, d, s):
        trained = float(rng.lognormal(1.5, 0.4))
        return {
            "trained": trained,
            "robust": 1.1,
            "open": 1.7,
            "game": 0.7,
            "closed": noisy(0.8, 0.08),
            "closed_random": float(rng.normal(0.0, 0.4)),
            "closed_removed": noisy(0.6, 0.1),
            **eta(),
        }

    frames = {
        ("intrinsic-dimension", "rows"): rows(dimension),
        ("noise-response", "rows"): rows(disturbed),
        ("worst-case-gain", "rows"): rows(attack),
        ("robust-gain", "rows"): rows(robust),
        ("linearised-optimum", "rows"): rows(optimum),
        ("control-direction", "rows"): rows(direction),
        ("control-amplitude", "rows"): rows(amplitude),
        ("energy-profile", "rows"): rows(energy),
        ("lq-feedback", "rows"): rows(direction),
        ("restricted-optimum", "rows"): rows(bound),
        ("open-loop-price", "rows"): rows(price, [(t, "prefix", s) for t in tasks for s in range(seeds)]),
    }
    frames["intrinsic-dimension", "curves"] = [
        {
            "task": t,
            "delta": d,
            "seed": s,
            "dimension": n,
            "predicted": n / (n + curves(t, d, s)),
            "measured": n / (n + curves(t, d, s)) + 0.05 * float(rng.standard_normal()),
        }
        for t, d, s in grid
        for n in (2, 4, 8, 16, 32, 64, 128, 256)
    ]
    shifts = rng.standard_normal(40 * len(grid)) * 2
    frames["linearised-optimum", "points"] = [
        {"task": t, "delta": d, "seed": s, "predicted": float(p), "measured": float(0.9 * p + 0.5 * rng.standard_normal())}
        for i, (t, d, s) in enumerate(grid)
        for p in shifts[40 * i : 40 * (i + 1)]
    ]
    profile = []
    for t, d, s in grid:
        share = rng.dirichlet(np.arange(1, 9) * 3.0)
        other, steep = share * rng.lognormal(0, 0.2, 8), share**1.4
        profile += [
            {"task": t, "delta": d, "seed": s, "port": port, "trained": float(o), "predicted": float(p), "gradient": float(g)}
            for port, o, p, g in zip(PORTS, other / other.sum(), share, steep / steep.sum(), strict=True)
        ]
    frames["energy-profile", "profile"] = profile
    frames["tunable-ports", "rows"] = [
        {
            "task": t,
            "delta": "port-bias",
            "seed": s,
            "port": port,
            "energy": (e := float(rng.lognormal(1, 1))),
            "loss": 0.4 + 0.1 * math.log1p(e) + 0.03 * float(rng.standard_normal()),
            "gradient_norm": float(rng.lognormal(0, 0.5)),
            "trace": float(rng.lognormal(2, 1)),
            "lq_loss": 0.4 + 0.09 * math.log1p(e),
        }
        for t in tasks
        for s in range(seeds)
        for port in PORTS
    ]
    places = [(t, "ablation", s) for t in tasks for s in range(seeds)]
    for claim in ("ablation-frozen", "ablation-retrained"):
        frames |= _ablation(claim, places, rows, noisy, eta, rng)
    frames |= _curvature(rows, noisy, eta, rng) | made_sharpness.tables(tasks, deltas, seeds, rng)
    frames |= made_sweep.tables(tasks, deltas, seeds, rng)
    frames |= made_planted.tables(tasks, seeds, rng)
    frames |= made_origins.tables(tasks, deltas, seeds, rng)
    frames |= made_families.tables(tasks, deltas, seeds, rng)
    return frames | _reach(tasks, seeds, rng) | _advice(tasks, seeds, rng) | _placement(places, rng) | _laws(tasks, seeds, rng)


def _curvature(rows, noisy, eta, rng):
    """The tables of the claims on the Hessian: counts, spectra, subspaces, differences from Gauss-Newton."""

    def classes(t):
        return 2 + sum(map(ord, t)) % 3

    def count(t, d, s):
        known = {"predicted": classes(t) - 1, "classes": classes(t), "one": 1, "two": 2, "ports": 8, "structure": 2, "start": 1}
        measured = int(rng.integers(1, 5))
        far = {f"distance_{name}": abs(math.log2(measured / k)) for name, k in known.items()}
        return known | far | {"measured": measured, "gauss_newton": 1, "distance_gaussian": 1.5, "exact": 0.0}

    def share(t, d, s):
        centres = {"between": 0.7, "logit": 0.6, "permuted": 0.62, "frozen": 0.8, "random": 0.01}
        return {name: noisy(value, 0.1 * value) for name, value in centres.items()}

    def difference(t, d, s):
        centres = {"along": 0.05, "along_start": 0.02, "next": 0.4, "off": 1.5, "off_start": 4.0}
        return {name: float(value * rng.lognormal(0, 0.5)) for name, value in centres.items()}

    def change(t, d, s):
        predicted = float(-rng.gamma(2, 0.3))
        measured = predicted + 0.1 * float(rng.standard_normal())
        errors = {"predicted": abs(measured - predicted), "misfit": abs(measured - 0.7 * predicted), "unchanged": abs(measured)}
        return {"predicted": predicted, "measured": measured, **{f"error_{k}": v for k, v in errors.items()}, **eta()}

    counts = rows(count)
    spectra = [
        {name: row[name] for name in ("task", "delta", "seed", "classes")}
        | {"rank": k, "hessian": float(k**-1.5 * rng.lognormal(0, 0.1)), "gauss_newton": k**-2.0}
        for row in counts
        for k in range(1, 17)
    ]
    tables = {"outlier-count": counts, "outlier-directions": rows(share), "gauss-newton-hessian": rows(difference)}
    tables |= {"residual-fades": rows(change)}
    return {(claim, "rows"): table for claim, table in tables.items()} | {("outlier-count", "spectra"): spectra}


def _reach(tasks, seeds, rng):
    """The tables of the claims on budget, energy and shared subspace."""
    places = [{"task": t, "seed": s} for t in tasks for s in range(seeds)]
    budget = []
    for place in places:
        steep = float(rng.uniform(0.6, 1.5))
        for k, share in enumerate(np.geomspace(0.1, 1.5, 10)):
            gain = 1 - math.exp(-steep * share)
            errors = {"error": 0.02 * k, "error_power": 0.08, "error_gradient": 0.05 * k, "error_test": 0.03 * k}
            budget.append(
                place
                | {"delta": "budget", "eta": 0.3 * share, "inside": bool(share <= 1), "share": float(share), "predicted": gain}
                | {"measured": gain * (1 - 0.1 * share), "power": 0.5 * share**0.7}
                | {name: float(value * rng.lognormal(0, 0.4)) for name, value in errors.items()}
            )
    spent, decays = [], []
    for place in places:
        values = [0.4 + 0.1 * k + 0.05 * float(rng.standard_normal()) for k in range(4)]
        cell = place | {"delta": "efficiency", "eta": 0.1, "inside": bool(rng.random() < 0.9)}
        arms = {"predicted": 0.4, "gradient": 0.8, "early": 0.5, "free": 0.1, "random": 0.2}
        arms = {f"efficiency_{k}": float(v * rng.lognormal(0, 0.1)) for k, v in arms.items()}
        spent.append(cell | {"efficiency": values[0], "slope": 0.04, "lead": -0.3} | arms)
        decays += [
            cell | {"decay": 10 ** (k / 2), "measured": v, "predicted": 0.4 + 0.1 * k, "gradient": 0.8}
            for k, v in enumerate(values)
        ]
    lost, curves = [], []
    for place in places:
        cell = place | {"delta": "transfer", "eta": 0.1, "inside": bool(rng.random() < 0.9)}
        gaps = {"gap": 0.08, "gap_predicted": 0.07, "gap_random": 0.6, "gap_random_predicted": 0.65}
        lost.append(cell | {name: float(v * rng.lognormal(0, 0.2)) for name, v in gaps.items()})
        rates = {"spanned": 0.1, "unlabelled": 0.06, "gradients": 0.3, "trained": 0.05, "shuffled": 0.01}
        curves += [
            cell | {"subspace": name, "dimension": n, "energy": 1 - math.exp(-rate * n * float(rng.lognormal(0, 0.1)))}
            for name, rate in rates.items()
            for n in (1, 2, 4, 8, 16, 32, 51, 102)
        ]
    made = {"budget-law": budget, "minimum-energy": spent, "subspace-transfer": lost}
    parts = {("minimum-energy", "decays"): decays, ("subspace-transfer", "curves"): curves}
    return {(claim, "rows"): table for claim, table in made.items()} | parts


def _advice(tasks, seeds, rng):
    """The tables of the claims on advice and on the limits of prefixes."""
    rows, cells = [], []
    for place in [{"task": t, "delta": "advice", "seed": s} for t in tasks for s in range(seeds)]:
        cells.append(place | {"forecast": 0.8, "slope": 0.5, "trace": 0.4, "size": float(rng.uniform(-0.2, 0.6))})
        for option in ("bias, all", "BitFit, all", "IA3, all", "LoRA r=4, lower half", "adapter b=2, all", "prefix l=1, all"):
            gain = float(rng.uniform(-0.2, 0.02))
            trained = {"trained": 0.6 + gain * float(rng.uniform(0.5, 1.1)), "frozen": 0.6, "frozen_forecast": 0.7}
            rows.append(place | {"option": option, "forecast": 0.7 + gain} | trained)
    digits = [
        {"task": t, "delta": "symbolic", "seed": s, "arm": arm, "digits": n, "accuracy": float(rng.uniform(0, 1))}
        for t in tasks
        for s in range(seeds)
        for arm in ("full", "prefix", "lora")
        for n in range(3, 9)
    ]
    own = [row for row in digits if row["digits"] == 3 and row["arm"] == "prefix"]
    return {
        ("advice", "rows"): rows,
        ("advice", "cells"): cells,
        ("prefix-limits", "rows"): own,
        ("prefix-limits", "digits"): digits,
    }


def _laws(tasks, seeds, rng):
    """The tables of the claims on laws: gains by cell, loss and energy by law, loss recovered under perturbation."""
    rows, laws = [], []
    names = {"adapter": 0.2, "synthesised": 0.15, "regression": 0.05, "lq": 0.1, "game": 0.02, "healing": -0.1, "shared": 0.06}
    gains = {"trained": 0.2, "regression": 0.05, "gradient": 0.02, "random": 0.03, "constant": 0.06}
    for place in [{"task": t, "delta": "synthesis", "seed": s} for t in tasks for s in range(seeds)]:
        inside = bool(rng.random() < 0.9)
        arms = {f"gain_{k}": v + 0.03 * float(rng.standard_normal()) for k, v in gains.items()}
        rows.append(place | {"eta": 0.1, "inside": inside, "gain": 0.14 + 0.03 * float(rng.standard_normal())} | arms)
        for name, gain in {"frozen": 0.0, "bias": 0.06, **names}.items():
            loss = 0.7 - gain + 0.02 * float(rng.standard_normal())
            laws.append(place | {"law": name, "loss": loss, "accuracy": 0.7, "energy": 0.3 * (name != "frozen")})
    healed = []
    shares = {"healing": 0.4, "shrinkage": 0.3, "random": -0.2, "prefix": 0.02, "batch": 0.4}
    for place in [{"task": t, "delta": "perturbation", "seed": s} for t in tasks for s in range(seeds)]:
        row = place | {f"lost_{a}": 0.8 * float(rng.lognormal(0, 0.2)) for a in ("oblivious", "embedding", "port")}
        for name, share in shares.items():
            row[f"{name}_clean"] = 0.02 * float(rng.standard_normal())
            for attack in ("oblivious", "embedding", "port")[: 1 if name == "batch" else 3]:
                row[f"{name}_{attack}"] = 0.8 * share + 0.1 * float(rng.standard_normal())
        healed.append(row)
    tables = {("synthesised-adapter", "rows"): rows, ("synthesised-adapter", "laws"): laws}
    return tables | {("healing-robust", "rows"): healed}


def _ablation(claim, places, rows, noisy, eta, rng):
    """The tables of an ablation claim: rank correlations by cell, predicted and measured increase by set of ports."""
    centres = {"predicted": 0.97, "norm": 0.9, "norm_trained": 0.91, "diagonal": 0.88, "gradient": 0.7, "permuted": 0.3}
    ranks = rows(lambda t, d, s: {k: noisy(v, 0.03) for k, v in centres.items()} | eta(), places)
    sets = []
    for row in ranks:
        shared = {name: row[name] for name in ("task", "delta", "seed", "eta", "inside")}
        for ports in (*PORTS, *(f"{a} and {b}" for a, b in zip(PORTS, PORTS[3:], strict=False))):
            predicted = float(rng.lognormal(-4, 1))
            increase = {"predicted": predicted, "measured": predicted * float(rng.lognormal(0, 0.15))}
            sets.append(shared | {"ports": ports, "count": 1 + ports.count(" and ")} | increase)
    return {(claim, "rows"): ranks, (claim, "sets"): sets}


def _placement(places, rng):
    """The tables of the placement claim: regrets for one and for two ports, and what each port brings."""
    centres = {"value": 0.02, "sparse": 0.08, "gramian": 0.2, "gradient": 0.1, "fisher": 0.25, "random": 0.4}
    regrets, gains = [], []
    for t, d, s in places:
        cell = {"task": t, "delta": d, "seed": s}
        for count in (1, 2):
            regret = {k: float(rng.gamma(1.5, v / 1.5)) for k, v in centres.items()}
            regrets.append(cell | {"count": count, **regret})
        share = np.exp(-0.15 * np.arange(len(PORTS)) + 0.1 * rng.standard_normal(len(PORTS)))
        trained = share * rng.lognormal(0, 0.05, len(PORTS))
        for port, p, m in zip(PORTS, share / share.max(), trained / trained.max(), strict=True):
            gains.append(cell | {"port": port, "predicted": float(p), "trained": float(m)})
    return {("placement", "rows"): regrets, ("placement", "map"): gains}
