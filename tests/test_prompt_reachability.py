"""Short prompts: one token is searched exhaustively, more tokens find what is planted, and the curve counts right."""

import math

import pytest
import torch
from zoo import model_of

from probes import PromptReach, k_epsilon, prompt_reachability

VOCABULARY = torch.arange(50)


@pytest.fixture(scope="module")
def language():
    """A tiny GPT-2 with tied embeddings: the logits of [prompt; context] from ids, and from one-hot rows."""
    model = model_of("gpt2")
    table = model.get_input_embeddings().weight.detach()

    def soft(weights, context):
        rows = torch.cat([weights.to(table) @ table, table[context].expand(len(weights), -1, -1)], 1)
        return model(inputs_embeds=rows).last_hidden_state[:, -1] @ table.T

    def hard(prompts, context):
        ids = torch.cat([prompts, context.expand(len(prompts), -1)], 1)
        with torch.no_grad():
            return model(input_ids=ids).last_hidden_state[:, -1] @ table.T

    return hard, soft


def contexts(count, length=5, seed=0):
    return list(torch.randint(50, (count, length), generator=torch.Generator().manual_seed(seed)))


def brute(hard, context, k):
    """The least loss of every target over all prompts of k tokens, and the set of winners, one prompt at a time."""
    grid = torch.cartesian_prod(*[VOCABULARY] * k).reshape(-1, k)
    y = torch.cat([hard(part, context) for part in grid.split(500)])
    return -torch.log_softmax(y, -1).max(0).values, set(y.argmax(-1).tolist())


def test_one_token_is_exhaustive(language):
    hard, _ = language
    for context in contexts(3):
        losses, winners = brute(hard, context, 1)
        start = int(hard(torch.zeros(1, 0, dtype=torch.int64), context)[0].argmax())
        found = prompt_reachability(hard, [(context, y) for y in range(50)], VOCABULARY, longest=1, chunk=7)
        for y, record in enumerate(found):
            assert record.target == y and record.context == tuple(context.tolist())
            if y == start:
                assert record.length == 0 and record.prompt == () and record.base_rank == 0
            else:
                assert record.losses[1] == pytest.approx(float(losses[y]), rel=1e-9)
                assert record.reached == (y in winners) and record.length in (1, None)
            if record.reached:
                prompt = torch.tensor(record.prompt, dtype=torch.int64)[None]
                assert int(hard(prompt, context)[0].argmax()) == y


def test_search_finds_no_more_than_there_is(language):
    """Against all 2500 prompts of two tokens: every target found is reachable, no loss is below the least, many are it.

    Of 45 targets the search ends at the best prompt in 20 to 37 on twenty networks; as many draws at random would in one.
    """
    hard, soft = language
    context = contexts(1, seed=5)[0]
    least, winners = brute(hard, context, 2)
    found = prompt_reachability(hard, [(context, y) for y in range(50)], VOCABULARY, longest=2, relaxed=soft, candidates=10)
    reached = {r.target for r in found if r.length == 2}
    assert reached <= winners
    beyond = [r.losses[2] - float(least[r.target]) for r in found if len(r.losses) == 3]
    assert min(beyond) > -1e-9 and sum(gap < 1e-9 for gap in beyond) > len(beyond) / 10


def planted(hard, soft, target, bonus):
    """A language model whose target is 60 logits down but for bonus(counts (B, k, V)) in the prompt's one-hot rows."""

    def with_rows(y, rows):
        change = torch.nn.functional.one_hot(torch.tensor(target), y.shape[-1]).to(y) * (bonus(rows) - 60.0)[:, None]
        return y + change

    def ids(prompts, context):
        rows = torch.nn.functional.one_hot(prompts, 50).to(torch.float64)
        return with_rows(hard(prompts, context), rows)

    return ids, lambda weights, context: with_rows(soft(weights, context), weights)


def test_the_one_token_that_reaches_is_found(language):
    hard, soft = planted(*language, 7, lambda rows: 120.0 * rows[..., 31].sum(1))
    for context in contexts(3):
        (found,) = prompt_reachability(hard, [(context, 7)], VOCABULARY, longest=1)
        assert found.length == 1 and found.prompt == (31,) and found.evaluations == 51
        without = torch.cat([VOCABULARY[:31], VOCABULARY[32:]])
        (barred,) = prompt_reachability(hard, [(context, 7)], without, longest=2, relaxed=soft, candidates=8)
        assert not barred.reached and barred.prompt == () and len(barred.losses) == 3


@pytest.mark.parametrize("gradient", [False, True])
def test_longer_prompts_only_add_and_every_prompt_does_what_it_says(language, gradient):
    """Records of a longer search agree with those of a shorter one as far as it went, so the curve never falls.

    A network may reach no target at all; target 7 is planted, out of one token's reach and within that of 11 with 22.
    """

    def bonus(rows):
        has = rows.amax(1) if rows.shape[1] else rows.sum(1)
        return 15 * has[:, 11] + 18 * has[:, 22] + 60 * has[:, 11] * has[:, 22]

    hard, soft = planted(*language, 7, bonus)
    pairs = [(context, y) for context in contexts(2) for y in (7, *range(0, 50, 9))]
    options = {"relaxed": soft if gradient else None, "candidates": 4, "rounds": 3}
    before = None
    for longest in range(4):
        found = prompt_reachability(hard, pairs, VOCABULARY, longest=longest, **options)
        for (context, y), record in zip(pairs, found, strict=True):
            assert len(record.losses) == 1 + (longest if record.length is None else record.length)
            if record.reached:
                assert len(record.prompt) == record.length <= longest
                assert int(hard(torch.tensor([record.prompt], dtype=torch.int64), context)[0].argmax()) == y
        if before is not None:
            for short, long in zip(before, found, strict=True):
                assert long.length == short.length if short.reached else long.length in (longest, None)
                assert long.losses[: len(short.losses)] == pytest.approx(short.losses)
        before = found
    shares = [e.value for e in k_epsilon(before, 3).shares]
    assert shares == sorted(shares) and shares[1] < shares[2]


@pytest.mark.parametrize("gradient", [False, True])
def test_a_pair_that_greedy_search_misses_is_found_by_exchange(language, gradient):
    """Token 3 helps most alone but leads nowhere; only 11 with 22 reach, and one of them must replace it."""

    def bonus(rows):
        has = rows.amax(1) if rows.shape[1] else rows.sum(1)
        return 20 * has[:, 3] + 15 * has[:, 11] + 18 * has[:, 22] + 60 * has[:, 11] * has[:, 22]

    hard, soft = planted(*language, 7, bonus)
    context = contexts(1)[0]
    options = {"longest": 2, "relaxed": soft if gradient else None, "candidates": 6}
    (greedy,) = prompt_reachability(hard, [(context, 7)], VOCABULARY, rounds=0, **options)
    assert not greedy.reached
    (found,) = prompt_reachability(hard, [(context, 7)], VOCABULARY, rounds=6, **options)
    assert found.length == 2 and set(found.prompt) == {11, 22}
    if gradient:
        (every,) = prompt_reachability(hard, [(context, 7)], VOCABULARY, rounds=6, longest=2)
        assert found.evaluations < every.evaluations


def record(length, loss, rank):
    return PromptReach((1, 2), 5, length, (0,) * (length or 0), (loss,), rank, 1)


def test_the_curve_counts_and_its_intervals_are_exact():
    """10 targets needing 0, 1, 1, 2 tokens and six never: shares .1 .3 .4, Clopper-Pearson's beta quantiles."""
    lengths = [0, 1, 1, 2] + [None] * 6
    found = [record(k, loss, 9 - i) for i, (k, loss) in enumerate(zip(lengths, [1, 2, 2, 3, *range(4, 10)], strict=True))]
    curve = k_epsilon(found, 2)
    assert [e.value for e in curve.shares] == pytest.approx([0.1, 0.3, 0.4])
    assert curve.shares[1].interval == pytest.approx((0.0667395, 0.6524529), abs=1e-6)  # tables of 3 in 10
    assert curve.n == 10 and curve.mean_length == pytest.approx(1.0)
    assert curve.base_loss > 0.85 and curve.base_rank < -0.85
    none = k_epsilon([record(None, 1.0, 4)] * 3, 2)
    assert none.shares[2].value == 0 and none.shares[2].interval[0] == 0
    assert math.isnan(none.mean_length) and math.isnan(none.base_loss)


def test_bad_input_is_a_sentence(language):
    hard, _ = language
    context = contexts(1)[0]
    with pytest.raises(ValueError, match="non-empty vector"):
        prompt_reachability(hard, [(context, 3)], VOCABULARY[:0])
    with pytest.raises(ValueError, match="between 0 and 49"):
        prompt_reachability(hard, [(context, 50)], VOCABULARY)
    with pytest.raises(ValueError, match="at least one"):
        k_epsilon([], 2)
