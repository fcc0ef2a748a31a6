"""A results folder written by hand from a fixed seed: numbers for tests of the report, never for the product."""

import json
import math
import pathlib

import made_sharpness
import numpy as np

DELTAS = (
    ("port-bias", "Bias at the ports"),
    ("prefix", "Prefix"),
    ("lora", "LoRA"),
    ("adapter", "Adapter"),
    ("bitfit", "BitFit"),
    ("prompt", "Prompt"),
    ("ia3", "(IA)³"),
    ("full", "Full fine-tuning"),
)
TASKS = ("Topic of headlines", "Sentiment", "Subject agreement", "Question type", "Acceptability", "Parity of brackets")
PORTS = tuple(f"{block} {site}" for block in range(1, 5) for site in ("attention", "mlp"))

# id, view, title, statement, equation, alt, statistic, true centre, unit, supported from, refuted below, verdict
CLAIMS = (
    (
        "intrinsic-dimension",
        "optimization",
        "The curvature spectrum gives the intrinsic dimension",
        "The smallest random subspace that keeps 90 % of the gain has the dimension at which the predicted curve, "
        "computed from the Gauss–Newton spectrum and the gradient before training, crosses 90 %.",
        'g(d) = 1 - frac(d_0, d + d_0) quad "and" quad d_90 = min {d : g(d) >= 0.9}',
        "g of d is one minus d zero over d plus d zero, and d ninety is the smallest d with g at least 0.9",
        "median of measured over predicted dimension",
        1.08,
        "factor",
        0.5,
        0.25,
        "supported",
    ),
    (
        "linearised-optimum",
        "optimization",
        "The linearised optimum predicts held-out logits",
        "The kernel optimum about the frozen point, solved on the training set alone, predicts the logit shifts of "
        "the trained delta on held-out examples.",
        "hat(z)_* = - K_* (K + H^(-1))^(-1) H^(-1) g",
        "z star hat is minus K star times K plus H inverse, inverse, H inverse g",
        "share of held-out variance explained",
        0.81,
        "R²",
        0.5,
        0.2,
        "supported",
    ),
    (
        "restricted-optimum",
        "optimization",
        "The one-sided bound on the restricted optimum is not violated",
        "The gap between the restricted and the full optimum never exceeds the one-sided bound.",
        "0 <= cal(L)(delta^*) - cal(L)(theta^*) <= L norm(delta^* - theta^*)_2 + beta / 2 norm(delta^* - theta^*)_2^2",
        "the gap lies between zero and L times the distance plus beta half times the squared distance",
        "share of cells within the bound",
        0.97,
        "share",
        0.95,
        0.8,
        "undecided",
    ),
    (
        "control-direction",
        "control",
        "Trained deltas point along the predicted control",
        "The control that a trained delta injects at each port is parallel to the optimal control of the linearised "
        "system, more closely than to the plain gradient.",
        "u_t^* = - R_t^(-1) G_t^top lambda, quad lambda = (I + M W)^(-1) g, quad W = sum_t G_t R_t^(-1) G_t^top",
        "u t star is minus R t inverse G t transpose lambda, with lambda equal to I plus M W, inverse, g",
        "cosine of trained and predicted control",
        0.74,
        "cosine",
        0.5,
        0.3,
        "supported",
    ),
    (
        "control-amplitude",
        "control",
        "The predicted control has the right size",
        "The norm of the injected control equals the norm of the predicted control within a factor of two.",
        'norm(u^"trained")_2 approx norm(u^*)_2',
        "the norm of the trained control is close to the norm of u star",
        "trained over predicted norm",
        1.62,
        "factor",
        1.2,
        1.0,
        "supported",
    ),
    (
        "energy-profile",
        "control",
        "Energy spreads over the ports as the Gramian says",
        "The share of the control energy spent at each port equals the share of the predicted optimum.",
        "s_t = norm(u_t^*)^2 / (sum_j norm(u_j^*)^2)",
        "s t is the squared norm of u t star over the sum over ports",
        "Jensen–Shannon distance to the prediction",
        0.05,
        "nats",
        0.02,
        0.0,
        "undecided",
    ),
    (
        "open-loop-price",
        "control",
        "Open-loop deltas pay the predicted price",
        "A prefix cannot see the state, so its optimum exceeds that of an adapter by the price of open loop.",
        "Delta J = 1/2 EE[(x - EE x)^top P (x - EE x)]",
        "Delta J is half the expected quadratic form of the centred state in P",
        "rank correlation of predicted and measured price",
        -0.12,
        "ρ",
        0.6,
        0.3,
        "refuted",
    ),
    (
        "lq-feedback",
        "control",
        "Adapters learn the feedback of the linear–quadratic regulator",
        "The Jacobian of an adapter's signal in the state is aligned with the low-rank Riccati gain.",
        'K_t = R_t^(-1) G_t^top (I + M W_t)^(-1) M C Phi(T, t), quad op("rank") K_t <= C - 1',
        "K t is R t inverse G t transpose times I plus M W t, inverse, M C Phi, of rank at most C minus one",
        "cosine of learned and predicted gain",
        0.33,
        "cosine",
        0.3,
        0.1,
        "not applicable",
    ),
    (
        "noise-response",
        "control",
        "Noise costs what the Gramian says",
        "White noise at the ports raises the loss by the trace of the output Gramian, of the closed loop for an adapter.",
        'EE[Delta J] = frac(s^2, 2) sum_t op("tr") S_(t+1)',
        "the expected change of the loss is half the variance of the noise times the sum of the traces of S t plus one",
        "observed over predicted price",
        1.03,
        "factor",
        0.8,
        0.8,
        "supported",
    ),
    (
        "worst-case-gain",
        "control",
        "The gain bounds the worst disturbance",
        "A disturbance of the ports moves the class contrasts by at most the gain times its size.",
        "max_(norm(w) <= epsilon) norm(C d h_T) <= gamma epsilon",
        "the largest change of the contrasts is at most gamma times epsilon",
        "shift found over the bound",
        0.95,
        "factor",
        0.6,
        0.6,
        "undecided",
    ),
    (
        "robust-gain",
        "control",
        "Adversarial training nears the game's gain",
        "Adversarial training closes a quarter of the distance to the least gain of the disturbance game.",
        "gamma^* = min_K max_w norm(z) / norm(w)",
        "gamma star is the least over K of the largest ratio of z to w",
        "share of the distance closed",
        0.7,
        "share",
        0.25,
        0.1,
        "supported",
    ),
    (
        "synthesised-adapter",
        "control",
        "An adapter can be written down without training",
        "The optimal feedback of the linear model reaches most of what the trained adapter gains.",
        "u_t = k_t + K_t phi_t (h_t)",
        "the signal is k t plus K t times phi t of the state",
        "share of the trained gain",
        0.7,
        "share",
        0.5,
        0.25,
        "supported",
    ),
    (
        "healing-robust",
        "control",
        "Self-healing control undoes perturbations",
        "Projecting the states towards their subspace recovers part of what a perturbation costs.",
        "u_t = - frac(1 + lambda_(t + 1), 1 + lambda_(t + 1) + c) (I - V_t V_t^top) y_t",
        "the control is minus a gain times the part of the state off the subspace",
        "share of the loss recovered",
        0.3,
        "share",
        0.25,
        0.25,
        "undecided",
    ),
    (
        "tunable-ports",
        "control",
        "Ports that need less energy tune better",
        "Ordering ports by the minimum energy that reaches the target orders them by the loss reached in training.",
        "E_p = z^top W_p^(-1) z",
        "E p is z transpose W p inverse z",
        "rank correlation of energy and loss",
        0.66,
        "ρ",
        0.4,
        0.1,
        "supported",
    ),
    (
        "ablation-frozen",
        "control",
        "The optimum prices a port that is switched off",
        "Zeroing the control at a port raises the objective by the quadratic form in the curvature's own block.",
        "Delta J_S = 1/2 z_S^top M_(S S) z_S",
        "delta J S is half of z S transpose M S S z S",
        "rank correlation of predicted and measured increase",
        0.97,
        "ρ",
        0.8,
        0.5,
        "supported",
    ),
    (
        "ablation-retrained",
        "control",
        "The optimum prices a port that the others replace",
        "With the other ports trained anew the increase is the form in the Schur complement.",
        "Delta J_S = 1/2 z_S^top [(M^(-1))_(S S)]^(-1) z_S",
        "delta J S is half of z S transpose times the inverse of the S S block of M inverse times z S",
        "rank correlation of predicted and measured increase",
        0.94,
        "ρ",
        0.8,
        0.5,
        "supported",
    ),
    (
        "prefix-limits",
        "optimization",
        "A prefix has limits",
        "On a task that the decoder does not know a prefix fails where full tuning succeeds.",
        "A'_(i j) = A_(i j) (1 - A'_(i 0))",
        "under a prefix every attention weight on the text shrinks by one common factor",
        "share of sequences that the prefix solves",
        0.1,
        "share",
        0.0,
        0.0,
        "undecided",
    ),
    (
        "advice",
        "optimization",
        "The forecast orders the options",
        "The loss forecast without training orders the loss that each option reaches when trained.",
        "hat(J)_o = 1 / N sum_i ell_i (y_i + G_(o, i) hat(z)_(o, - i))",
        "the forecast of option o is the mean loss of the linear model at every example",
        "rank correlation of forecast and trained loss",
        0.7,
        "ρ",
        0.5,
        0.2,
        "supported",
    ),
    (
        "budget-law",
        "control",
        "A convex program prices the budget",
        "The least loss under a bound on the control's norm is that of the linear model under the same bound.",
        "J^*(rho) = min_(norm(z) <= rho) 1/N sum_i ell_i (y_(0,i) + G_i z)",
        "J star of rho is the least mean loss of the linear model with norm of z at most rho",
        "lead over the fitted power law",
        0.04,
        "share",
        0.0,
        0.0,
        "undecided",
    ),
    (
        "minimum-energy",
        "control",
        "Training approaches the least energy",
        "The share of a control's energy that its displacement needs grows with the weight decay.",
        '"eff" = d^top (G G^top)^(-1) d / norm(z)^2',
        "the efficiency is d transpose times G G transpose inverse times d over the squared norm of z",
        "efficiency above the gradient's",
        -0.3,
        "share",
        0.1,
        0.0,
        "refuted",
    ),
    (
        "subspace-transfer",
        "control",
        "Other tasks' responses span a new task's control",
        "Training inside the leading directions of other tasks' responses reaches what free training does.",
        "J(V_k) <= J(I) + 0.05 (J(0) - J(I))",
        "J of V k is at most J of the identity plus five per cent of the gain",
        "further gain lost inside random subspaces",
        0.5,
        "share",
        0.2,
        0.05,
        "supported",
    ),
    (
        "placement",
        "control",
        "The value says where to put a control",
        "The set of ports whose linear-quadratic value is least is the one that trains best.",
        'hat(S) = op("arg min")_(abs(S) = k) J_S',
        "S hat minimises J S over sets of k ports",
        "rank correlation of predicted and trained objective",
        0.97,
        "ρ",
        0.8,
        0.5,
        "supported",
    ),
    (
        "outlier-count",
        "optimization",
        "One eigenvalue fewer than classes stands out",
        "As many eigenvalues of the Hessian stand out as the task has classes, less one.",
        'op("arg max")_k lambda_k / lambda_(k + 1) = C - 1',
        "the place of the widest gap is C minus one",
        "distance of count and C − 1",
        0.3,
        "octaves",
        0.2,
        0.1,
        "undecided",
    ),
    (
        "outlier-directions",
        "optimization",
        "The outliers are the classes' mean gradients",
        "The leading eigenvectors of the Hessian lie in the between-class directions.",
        "norm(U^top V)_F^2 = C - 1",
        "the squared norm of U transpose V is C minus one",
        "share inside",
        0.7,
        "share",
        0.5,
        0.25,
        "supported",
    ),
    (
        "gauss-newton-hessian",
        "optimization",
        "The Hessian is Gauss–Newton along the outliers",
        "Hessian and Gauss–Newton matrix agree along the outliers and differ off them.",
        "v^top (H - G) v <= 0.1 v^top G v",
        "v transpose H minus G v is at most a tenth of v transpose G v",
        "log₂ of the ratio off the outliers",
        0.8,
        "octaves",
        0.0,
        -1.0,
        "supported",
    ),
    (
        "residual-fades",
        "optimization",
        "What Gauss–Newton leaves out fades",
        "Training shrinks the rest of the Hessian as the slopes shrink.",
        "norm(R(z)) / norm(R(0))",
        "the norm of R after over before training",
        "error over that of no change",
        0.4,
        "factor",
        0.3,
        0.0,
        "undecided",
    ),
)


def _criterion(label, unit, estimate, half, bar, floor, high=None, upper=None):
    low, top = estimate - half, estimate + half
    inside = low >= bar and (high is None or top <= high)
    outside = top < floor or (upper is not None and low > upper)
    return {
        "name": label.replace(" ", "_"),
        "label": label,
        "unit": unit,
        "estimate": estimate,
        "low": low,
        "high": top,
        "supported": [bar, high],
        "tolerated": [floor, upper],
        "outcome": "supported" if inside else "refuted" if outside else "undecided",
    }


def _claim(spec, rng, applicable=True):
    name, view, title, statement, equation, alt, label, centre, unit, bar, floor, verdict = spec
    half = 0.08 + 0.04 * rng.random()
    estimate = centre + 0.02 * rng.standard_normal()
    two_sided = name == "intrinsic-dimension"
    criteria = [_criterion(label, unit, estimate, half, bar, floor, 2.0 if two_sided else None, 4.0 if two_sided else None)]
    if name in ("control-direction", "linearised-optimum", "lq-feedback"):
        criteria.append(_criterion("lead over the gradient", unit, 0.21, 0.12, 0.0, -0.1))
        criteria.append(_criterion("lead over a permuted target", unit, 0.48, 0.09, 0.1, 0.0))
    gate = None if name in ("restricted-optimum", "tunable-ports") else {"passed": 30, "total": 36, "median": 0.143, "limit": 0.3}
    return {
        "id": name,
        "view": view,
        "title": title,
        "statement": statement,
        "equation": equation,
        "equation_alt": alt,
        "derived": "The prediction uses the response of the frozen network at the training examples, its logits and the "
        "ridge; no trained weight enters.",
        "sources": {"optimization": ["ding2023", "larsen2022"], "control": ["ding2023", "li2018msa"]}[view],
        "assumptions": [
            {
                "name": "linear_regime",
                "statement": "Training stays in the linear regime",
                "passed": 30,
                "total": 36,
                "holds": True,
                "evidence": "median relative curvature 0.14, limit 0.30",
            },
            {
                "name": "converged",
                "statement": "Every run reached a stationary point of the regularised loss",
                "passed": 36 if verdict != "not applicable" else 7,
                "total": 36,
                "holds": verdict != "not applicable",
                "evidence": "largest gradient norm 3.1e-5",
            },
        ],
        "rule": "Supported when every criterion is supported, refuted when the first is refuted, else undecided.",
        "reason": "A cosine of one half means that half of the length of the trained control lies along the prediction; "
        "below three tenths the gradient alone would do as well.",
        "change": "A backbone with more blocks, or a ridge ten times smaller, would move training out of the linear regime.",
        "criteria": criteria,
        "rivals": [
            {"label": "gradient at the frozen point", "estimate": estimate - 0.21, "low": estimate - 0.3, "high": estimate - 0.12}
        ],
        "nulls": [{"label": "permuted target (97.5 % quantile)", "estimate": 0.11, "low": None, "high": None}],
        "statistic": {"label": label, "estimate": estimate, "low": estimate - half, "high": estimate + half},
        "controls": {
            "good": {
                "description": "A linear network, where the prediction is exact",
                "expected": "supported",
                "verdict": "supported",
                "estimate": 0.999,
                "low": 0.998,
                "high": 1.0,
            },
            "bad": {
                "description": "Labels permuted after the prediction was made",
                "expected": "refuted",
                "verdict": "refuted",
                "estimate": 0.02,
                "low": -0.06,
                "high": 0.09,
            },
        },
        "gate": gate,
        "clusters": 12,
        "cells": 36,
        "p_support": 0.0004,
        "p_refute": 1.0,
        "verdict": verdict,
        "figure": name,
    }


def _frames(rng, tasks, deltas, seeds):
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


def write(folder, *, tasks=4, deltas=5, seeds=3, claims=None, long_names=False):
    """Write verdicts.json and rows/ under `folder` and return the folder; the same arguments give the same bytes."""
    rng = np.random.default_rng(7)
    folder = pathlib.Path(folder)
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    tail = " as judged by readers of several daily newspapers" if long_names else ""
    labels = [TASKS[i % len(TASKS)] + ("" if i < len(TASKS) else f" {i // len(TASKS) + 1}") + tail for i in range(tasks)]
    names = [label.lower().replace(" ", "_") for label in labels]
    chosen = DELTAS[:deltas]
    record = {
        "study": {
            "name": "quick",
            "title": "Delta tuning as optimal control",
            "question": "Does a frozen network's response, measured before training, tell what a trained delta will do?",
            "backbone": {
                "name": "nano",
                "architecture": "bert",
                "blocks": 4,
                "width": 128,
                "parameters": 1830000,
                "fingerprint": "9f2c41d07b3e",
            },
            "tasks": [
                {
                    "name": n,
                    "label": label,
                    "family": "grammar" if i % 2 else "news",
                    "classes": 2 + i % 3,
                    "train": 64,
                    "test": 128,
                    "majority": 0.34,
                    "frozen": 0.71,
                    "digest": f"{i:02d}b1d2c3",
                }
                for i, (n, label) in enumerate(zip(names, labels, strict=True))
            ],
            "deltas": [
                {"name": n, "label": label, "size": 2048 * (i + 1), "reference": key}
                for i, ((n, label), key) in enumerate(
                    zip(
                        chosen, ("", "li2021", "hu2022", "houlsby2019", "benzaken2022", "lester2021", "liu2022", ""), strict=False
                    )
                )
            ],
            "seeds": list(range(seeds)),
            "settings": {
                "ridge": 0.01,
                "steps": 400,
                "gate.limit": 0.3,
                "boot_draws": 2000,
                "dimensions": [2, 4, 8, 16],
                "early_stop": False,
            },
        },
        "claims": [_claim(spec, rng) for spec in (*CLAIMS, *made_sharpness.CLAIMS) if claims is None or spec[0] in claims],
        "derivations": [
            {
                "title": "The optimal control of one example",
                "source": "li2018msa",
                "steps": [
                    {
                        "equation": "J(u) = 1/2 z^top M z + g^top z + 1/2 sum_t u_t^top R_t u_t, quad z = sum_t G_t u_t",
                        "alt": "J of u is half z transpose M z plus g transpose z plus half the sum of u t transpose R t u t",
                        "reason": "The loss is expanded to second order in the logit shift, which is linear in the controls.",
                    },
                    {
                        "equation": "u_t = - R_t^(-1) G_t^top lambda",
                        "alt": "u t is minus R t inverse G t transpose lambda",
                        "reason": "Stationarity in each control.",
                    },
                    {
                        "equation": "lambda = (I + M W)^(-1) g",
                        "alt": "lambda is I plus M W, inverse, g",
                        "reason": "Substituting the controls into the costate at the output.",
                    },
                ],
            }
        ],
        "costs": [
            {"kind": "tuned", "label": "Tuned deltas", "cells": 60, "cpu_seconds": 301.2},
            {"kind": "responses", "label": "Responses", "cells": 4, "cpu_seconds": 12.6},
        ],
        "provenance": {
            "commit": "abc1234",
            "dirty": False,
            "timestamp": 1767225600,
            "python": "3.11.8",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
            "processor": "x86-64, 2 cores",
            "threads": 1,
            "engine": "serial",
        },
    }
    (folder / "verdicts.json").write_text(json.dumps(record, ensure_ascii=False))
    kept = {claim["id"] for claim in record["claims"]}
    for (claim, part), table in _frames(rng, names, [n for n, _ in chosen], seeds).items():
        if claim in kept:
            name = claim if part == "rows" else f"{claim}.{part}"
            (folder / "rows" / f"{name}.json").write_text(json.dumps(table, ensure_ascii=False))
    return folder
