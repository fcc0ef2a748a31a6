"""The draws of the tests under other seeds: with a shift N every seed that a test draws from is moved by N strides."""

import os
import pathlib
import random
import sys

import numpy as np

STRIDE = 10_000  # more than any seed of the tests, so that two shifts share no draw
HERE = str(pathlib.Path(__file__).resolve().parent) + os.sep
NAME = "COSTATE_SEED_SHIFT"  # the environment, so that workers and processes that tests start agree


def shifted(seed):
    """The seed under the present shift, for seeds that a test hands to the product; a sequence moves by its first entry."""
    if isinstance(seed, (list, tuple)):
        return [shifted(seed[0]), *seed[1:]]
    return seed + STRIDE * int(os.environ.get(NAME, 0)) if isinstance(seed, (int, np.integer)) else seed


def _drawn(seed):
    """The shifted seed where the tests draw; the seed itself where the product does."""
    return shifted(seed) if sys._getframe(2).f_code.co_filename.startswith(HERE) else seed


def install() -> None:
    """Moves every seed that files of this folder give to numpy, torch and random from now on; a shift of 0 changes nothing."""
    if not int(os.environ.get(NAME, 0)) or random.Random.__module__ == __name__:
        return
    import torch  # here, so that tests of theory alone need not wait for it

    rng, seed_torch, seed_random = np.random.default_rng, torch.manual_seed, random.seed

    class Sequence(np.random.SeedSequence):
        def __init__(self, entropy=None, **more):
            super().__init__(_drawn(entropy), **more)

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(_drawn(seed))

    class Random(random.Random):
        def __init__(self, x=None):
            super().__init__(_drawn(x))

    np.random.default_rng = lambda seed=None: rng(_drawn(seed))
    np.random.SeedSequence = Sequence
    torch.manual_seed = lambda seed: seed_torch(_drawn(seed))
    torch.Generator = Generator
    random.seed = lambda a=None, version=2: seed_random(_drawn(a), version)
    random.Random = Random


install()
