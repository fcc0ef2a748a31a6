"""Reachability of next tokens by short prompts in front of a text: k-epsilon controllability, measured.

A causal model with a fixed context x_0 is a system whose control is a prompt u of at most k tokens and whose output
is the most likely next token. A share of at least 1 - epsilon of the targets (x_0, y) is reachable with k tokens in
a k-epsilon controllable model (Bhargava et al. 2023, arXiv 2310.04444, definition of k-epsilon controllability).
One token is searched exhaustively; longer prompts are found by search, so their share is a lower bound.

    >>> def model(prompts, context):  # says 1 by itself, and repeats its prompt
    ...     repeated = torch.nn.functional.one_hot(prompts, 5).sum(1)
    ...     return 2.0 * repeated + torch.tensor([0, 1, 0, 0, 0])
    >>> text = torch.tensor([0])
    >>> found = prompt_reachability(model, [(text, 1), (text, 3)], torch.arange(4), longest=2)
    >>> [(reach.target, reach.length, reach.prompt) for reach in found]
    [(1, 0, ()), (3, 1, (3,))]
    >>> [share.value for share in k_epsilon(found, 2).shares]
    [0.5, 1.0, 1.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from probes.inputs import check_values, opened, steady
from probes.records import Estimate

Logits = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PromptReach:
    """How one target token was reached from one context.

    length is the smallest number of prompt tokens with which the target became the most likely next token, None if
    no such prompt was found, and prompt those tokens. losses[k] is the least -log p(target) found with k tokens,
    up to the length at which the search stopped. base_loss is losses[0], base_rank the number of tokens more
    likely than the target without a prompt. evaluations counts the prompts tried.
    """

    context: tuple[int, ...]
    target: int
    length: int | None
    prompt: tuple[int, ...]
    losses: tuple[float, ...]
    base_rank: int
    evaluations: int

    @property
    def reached(self) -> bool:
        """Return whether some prompt was found."""
        return self.length is not None

    @property
    def base_loss(self) -> float:
        """Return -log p(target) without a prompt."""
        return self.losses[0]


def prompt_reachability(
    logits: Logits,
    pairs: Sequence[tuple[Tensor, int]],
    vocabulary: Tensor,
    *,
    longest: int = 4,
    relaxed: Logits | None = None,
    candidates: int = 32,
    rounds: int = 8,
    chunk: int = 256,
) -> tuple[PromptReach, ...]:
    """Measure the shortest prompt found for every (context, target), one record per pair in their order.

    logits(prompts (B, k), context (T,)) returns the next-token logits (B, V) after [prompt; context], column j that of token
    id j. vocabulary holds the token ids that a prompt may use. k = 0 and k = 1 are exhaustive. Beyond, the best prompt so far
    gets every token in front (greedy back-generation), then single tokens are exchanged while that lowers the loss, at most
    `rounds` times.
    With relaxed(weights (B, k, V), context), the same model on one-hot rows, only the `candidates` exchanges per place with
    the steepest gradient are tried (Zou et al. 2023). Raises ValueError for an empty vocabulary, a target outside the logits,
    and logits that are random or NaN.
    """
    vocabulary = torch.as_tensor(vocabulary)
    if vocabulary.ndim != 1 or not len(vocabulary) or longest < 0 or candidates < 1 or rounds < 0 or chunk < 1:
        raise ValueError(
            "vocabulary must be a non-empty vector of token ids, longest and rounds >= 0, candidates and "
            f"chunk >= 1, got {tuple(vocabulary.shape)}, {longest}, {rounds}, {candidates}, {chunk}"
        )
    plain = opened(logits, "logits", "logits")
    soft = None if relaxed is None else opened(relaxed, "logits", "relaxed")
    search = _Search(plain, soft, vocabulary, candidates, rounds, chunk)
    grouped: dict[tuple[int, ...], list[int]] = {}
    contexts = [torch.as_tensor(context) for context, _ in pairs]
    for i, context in enumerate(contexts):
        grouped.setdefault(tuple(context.tolist()), []).append(i)
    found: dict[int, PromptReach] = {}
    for places in grouped.values():  # targets of one context share the exhaustive sweep
        targets = [int(pairs[i][1]) for i in places]
        found |= zip(places, search.targets(contexts[places[0]], targets, longest), strict=True)
    return tuple(found[i] for i in range(len(pairs)))


@dataclass(frozen=True)
class _Best:
    """Of some prompts, the one with the least loss, and the first that reaches the target (or None)."""

    loss: float
    prompt: Tensor
    reached: Tensor | None


@dataclass(frozen=True)
class _Search:
    logits: Logits
    relaxed: Logits | None
    vocabulary: Tensor
    candidates: int
    rounds: int
    chunk: int

    def targets(self, context: Tensor, targets: Sequence[int], longest: int) -> list[PromptReach]:
        """Return the records of all targets of one context."""
        empty = self.vocabulary.new_zeros(1, 0)
        with torch.no_grad():
            base = steady(lambda: self.logits(empty, context), "logits")[0]
        outside = [y for y in targets if not 0 <= y < len(base)]
        if outside:
            raise ValueError(f"targets must be token ids between 0 and {len(base) - 1}, got {outside[0]}")
        zero = self._best(empty, context, targets)
        some = [y for y, best in zip(targets, zero, strict=True) if best.reached is None]
        single = self.vocabulary[:, None]
        one = dict(zip(some, self._best(single, context, some), strict=True)) if longest and some else {}
        made = []
        for y, best in zip(targets, zero, strict=True):
            losses, tried = [best.loss], 1
            if y in one:
                best, tried = one[y], 1 + len(single)
                losses.append(best.loss)
                while best.reached is None and len(losses) <= longest:
                    best, count = self._extend(best.prompt, context, y)
                    losses.append(best.loss)
                    tried += count
            prompt = () if best.reached is None else tuple(best.reached.tolist())
            made.append(
                PromptReach(
                    tuple(context.tolist()),
                    y,
                    None if best.reached is None else len(prompt),
                    prompt,
                    tuple(losses),
                    int((base > base[y]).sum()),
                    tried,
                )
            )
        return made

    def _best(self, prompts: Tensor, context: Tensor, targets: Sequence[int]) -> list[_Best]:
        """For every target, the best of the prompts (P, k), by exact evaluation in chunks."""
        wanted = torch.as_tensor(targets, device=prompts.device)
        loss, winner = [], []
        with torch.no_grad():
            for part in prompts.split(self.chunk):
                y = self.logits(part, context)
                loss.append(-torch.log_softmax(y, -1)[:, wanted])
                winner.append(y.argmax(-1))
        loss, winner = torch.cat(loss), torch.cat(winner)
        if bool(loss.isnan().any()):  # infinity is a token that a mask forbids
            check_values([loss], "-log p of a target")
        made = []
        for j, target in enumerate(targets):
            hits = (winner == target).nonzero()[:, 0]
            least = int(loss[:, j].argmin())
            made.append(_Best(float(loss[least, j]), prompts[least], prompts[hits[0]] if len(hits) else None))
        return made

    def _extend(self, prompt: Tensor, context: Tensor, target: int) -> tuple[_Best, int]:
        """The best prompt found with one token more, and how many were tried."""
        longer = torch.cat([self.vocabulary[:, None], prompt.expand(len(self.vocabulary), -1)], dim=1)
        best, tried = self._best(longer, context, [target])[0], len(longer)
        for _ in range(self.rounds):
            if best.reached is not None:
                break
            exchanged = self._exchanges(best.prompt, context, target)
            after = self._best(exchanged, context, [target])[0]
            tried += len(exchanged)
            if after.reached is None and not after.loss < best.loss:
                break
            best = after
        return best, tried

    def _exchanges(self, prompt: Tensor, context: Tensor, target: int) -> Tensor:
        """The prompts (P, k) that differ from one in a single token: all of them, or those a gradient proposes."""
        tokens = self.vocabulary.expand(len(prompt), -1)
        if self.relaxed is not None:
            tokens = tokens.gather(
                1, self._slopes(prompt, context, target).topk(min(self.candidates, len(self.vocabulary)), largest=False).indices
            )
        place, _ = torch.meshgrid(torch.arange(len(prompt)), torch.arange(tokens.shape[1]), indexing="ij")
        made = prompt.repeat(tokens.numel(), 1)
        made[torch.arange(len(made)), place.reshape(-1)] = tokens.reshape(-1)
        return made

    def _slopes(self, prompt: Tensor, context: Tensor, target: int) -> Tensor:
        """d(-log p(target)) / d(one-hot row) at every place for every token of the vocabulary, (k, vocabulary)."""
        with torch.no_grad():
            y = self.logits(prompt[None], context)
        rows = torch.nn.functional.one_hot(prompt[None], y.shape[-1]).to(y.dtype).requires_grad_()
        with torch.enable_grad():
            loss = -torch.log_softmax(self.relaxed(rows, context), -1)[0, target]
        return torch.autograd.grad(loss, rows)[0][0][:, self.vocabulary]


@dataclass(frozen=True)
class KEpsilon:
    """The k-epsilon curve: shares[k] of the targets reached with at most k prompt tokens, k = 0 .. longest.

    Each share is an `Estimate` with its exact binomial interval; 1 - share is epsilon. mean_length is over the
    reached. base_loss and base_rank are Spearman's correlations of the two cheap predictors with the length
    needed, targets never reached counted as longest + 1, nan where one side is constant.
    """

    shares: tuple[Estimate, ...]
    n: int
    mean_length: float
    base_loss: float
    base_rank: float


def k_epsilon(found: Sequence[PromptReach], longest: int, *, confidence: float = 0.95) -> KEpsilon:
    """Measure the share reached by prompt length, with Clopper-Pearson intervals, and what predicts the length needed.

    longest must be the one that `found` was searched with. The interval treats the targets as drawn
    independently. Raises ValueError for no targets.
    """
    if not found:
        raise ValueError("found must hold at least one PromptReach, got none")
    n = len(found)
    lengths = [longest + 1 if r.length is None else r.length for r in found]
    shares = []
    for k in range(longest + 1):
        hits = sum(length <= k for length in lengths)
        interval = stats.binomtest(hits, n).proportion_ci(confidence, method="exact")
        p = hits / n
        shares.append(
            Estimate(
                f"reached with {k} tokens",
                p,
                math.sqrt(p * (1 - p) / n),
                (float(interval.low), float(interval.high)),
                n,
                confidence,
            )
        )
    reached = [r.length for r in found if r.length is not None]
    return KEpsilon(
        tuple(shares),
        n,
        sum(reached) / len(reached) if reached else math.nan,
        _spearman([r.base_loss for r in found], lengths),
        _spearman([r.base_rank for r in found], lengths),
    )


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; nan where one side is constant."""
    return math.nan if len(set(x)) < 2 or len(set(y)) < 2 else float(stats.spearmanr(x, y).statistic)
