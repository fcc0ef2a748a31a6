"""A results folder written by hand from a fixed seed: numbers for tests of the report, never for the product."""

import pathlib
from itertools import chain

import made_families
import made_origins
import made_planted
import made_sharpness
import made_sweep
import numpy as np
from made_claims import CLAIMS, claim
from made_tables import tables

from validations.results import write_verdicts

MORE = (made_sharpness, made_sweep, made_planted, made_origins, made_families)
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


def write(folder, *, tasks=4, deltas=5, seeds=3, claims=None, long_names=False):
    """Write verdicts.json and rows/ under `folder` and return the folder; the same arguments give the same bytes."""
    rng = np.random.default_rng(7)
    folder = pathlib.Path(folder)
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
                "architecture": "BERT",
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
        "claims": [
            claim(spec, rng) for spec in chain(CLAIMS, *(module.CLAIMS for module in MORE)) if claims is None or spec[0] in claims
        ],
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
    kept = {claim["id"] for claim in record["claims"]}
    made = {which: table for which, table in tables(rng, names, [n for n, _ in chosen], seeds).items() if which[0] in kept}
    write_verdicts(folder, record, tables=made, cells=[])
    return folder
