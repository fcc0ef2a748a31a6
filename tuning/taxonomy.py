"""The place of a delta in the taxonomy of delta tuning (Ding et al. 2023, section 2); torch is not needed to read this."""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = {
    "addition": "trains numbers that the frozen network does not have",
    "specification": "names weights of the network and trains these",
    "reparameterisation": "trains few numbers from which changes of many are computed",
    "combination": "joins deltas of any family",
}

COUNTED = (
    "Numbers are those of the default settings in an encoder of L blocks of width d, whose mlp has m hidden units and whose maps "
    "have biases: P is the number of all its weights, l a length, r a rank, bottleneck or dimension, k a number of blocks, p q = "
    "d the two factors of the width that are nearest to each other."
)


@dataclass(frozen=True)
class Taxon:
    """Where a kind of delta belongs: one of `FAMILIES`, what it does to the network, its size, and PEFT's name of it.

    numbers: how many are trained, as `COUNTED` says. peft: PEFT's configuration, and the setting that makes it this kind;
    empty where PEFT has none.
    """

    family: str
    does: str
    numbers: str
    peft: str = ""
