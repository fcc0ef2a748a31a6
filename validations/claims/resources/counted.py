"""Bytes and multiplications of a step of training, counted from the shapes of an encoder of BERT's kind and of a delta.

A frozen map passes derivatives on without its input, which a trained one must hold, and makes no gradient of its weights.
"""

from dataclasses import dataclass

BYTES = 4  # of a number in single precision
STATE = 3  # numbers that go with a tuned one: its gradient and AdamW's two moments
RANK, BOTTLENECK, SLOTS = 4, 8, 8
FULL = "full"
DELTAS = ("lora", "adapter", "prefix", "prompt", "bitfit")


@dataclass(frozen=True)
class Shape:
    """An encoder's blocks, width d, inner width f and heads, the numbers of all its weights, and the tokens of a text."""

    blocks: int
    width: int
    inner: int
    heads: int
    weights: int
    tokens: int

    @property
    def model(self) -> int:
        """Return the bytes of the loaded weights."""
        return BYTES * self.weights


def numbers(shape: Shape, option: str) -> int:
    """Return how many numbers an option tunes, without the head: all weights, or what its kind has in every block.

    LoRA: 4 r d, on queries and values; adapter: 2 (2 b d + b + d); prefix: 2 l d; prompt: l d once; BitFit: 7 d + f, and d for the
    normalisation of the embeddings.
    """
    d, f = shape.width, shape.inner
    own = {
        "lora": 4 * RANK * d,
        "adapter": 2 * (2 * BOTTLENECK * d + BOTTLENECK + d),
        "prefix": 2 * SLOTS * d,
        "prompt": 0,
        "bitfit": 7 * d + f,
    }
    once = {FULL: shape.weights, "prompt": SLOTS * d, "bitfit": d}
    return shape.blocks * own.get(option, 0) + once.get(option, 0)


def activations(shape: Shape, option: str, batch: int) -> int:
    """Return the bytes that a step's forward pass holds for its derivatives.

    For N tokens a block holds queries, keys and values, 3 N d, the weights of attention, heads T per token, what both
    normalisations read, 2 N (d + 2), and what the nonlinearity reads, N f. Trained maps hold their inputs too: 3 N d + N f, and the
    normalisation of the embeddings N (d + 2). A LoRA holds N d + 2 N r, an adapter 2 N (d + 2 b), and its first block no attention,
    on which no tuned number acts; slots lengthen keys and values, or the text.
    """
    d, f, text = shape.width, shape.inner, shape.tokens
    seen = text + (SLOTS if option in ("prefix", "prompt") else 0)
    tokens = batch * (seen if option == "prompt" else text)
    attention = tokens * d + 2 * batch * seen * d + tokens * shape.heads * seen
    block = attention + 2 * tokens * (d + 2) + tokens * f
    block += {FULL: tokens * (3 * d + f), "lora": tokens * (d + 2 * RANK), "adapter": 2 * tokens * (d + 2 * BOTTLENECK)}.get(
        option, 0
    )
    once = {FULL: tokens * (d + 2), "adapter": -attention}.get(option, 0)
    return BYTES * (shape.blocks * block + once)


def peak(shape: Shape, option: str, batch: int) -> int:
    """Return the most bytes that a step takes above the loaded model.

    M = A + 4 max(3 P, 2 P + 2 N f) [+ 4 P], A the activations and P the tuned numbers: at the end of the forward pass with the last
    step's gradients and both moments, or as derivatives begin, with those on both sides of the last nonlinearity in their place.
    A delta's numbers are held besides the model; full tuning's are the model's.
    """
    tuned = numbers(shape, option)
    begun = 2 * tuned + 2 * batch * (shape.tokens + (SLOTS if option == "prompt" else 0)) * shape.inner
    own = 0 if option == FULL else tuned
    return activations(shape, option, batch) + BYTES * (max(STATE * tuned, begun) + own)


def state(shape: Shape, option: str) -> int:
    """Return the bytes above the loaded model that go with the tuned numbers alone."""
    return BYTES * numbers(shape, option) * (STATE + (option != FULL))


def passes(shape: Shape, option: str) -> float:
    """Return the multiplications of a step on one text, in those of one forward pass of the frozen network.

    Maps, 4 d^2 + 2 d f a token and block, are passed forwards, backwards for states, and once more for weights where they are trained;
    products of attention, 2 T d, have two derivatives whatever is trained, as an option's own maps have.
    """
    d, f, text = shape.width, shape.inner, shape.tokens
    seen = text + (SLOTS if option in ("prefix", "prompt") else 0)
    longer = seen / text if option == "prompt" else 1.0
    maps, attention = 4 * d * d + 2 * d * f, 2 * seen * d
    own = {"lora": 4 * RANK * d, "adapter": 4 * BOTTLENECK * d}.get(option, 0)
    made = longer * ((3 if option == FULL else 2) * maps + 3 * attention + 3 * own)
    return made / (maps + 2 * text * d)
