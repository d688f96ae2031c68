"""Scoring: every family, shared or not, padded or alone, says what twenty plain lines say; and at what cost."""

from __future__ import annotations

import logging

import pytest
import torch
from plain_loop import plain_forward
from random_models import FAMILIES, MORE_FAMILIES, choice_prompts, random_model

from caa_bench.engine import score as score_module
from caa_bench.engine.batches import batched
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.score import score
from caa_bench.engine.work import counted, loop_cost, score_bound

LENGTHS = (9, 14, 14, 21, 26)


def sweep(layers: int = 4, hidden: int = 64, *, scale: float = 3.0, seed: int = 1) -> list[list[Edit]]:
    """Nothing, every layer x (-1, 1), and one condition that edits two layers."""
    vectors = torch.randn(layers, hidden, generator=torch.Generator().manual_seed(seed)) * scale
    single = [[Edit(layer, Add(vectors[layer] * sign))] for layer in range(layers) for sign in (-1, 1)]
    return [*single[:3], [], *single[3:], [Edit(2, Add(vectors[2])), Edit(0, Add(vectors[0]))]]


def log_odds(scores: score_module.Scores) -> torch.Tensor:
    return scores.logits[..., 0] - scores.logits[..., 1:].logsumexp(-1)


@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES)
def test_score_equals_a_plain_loop_shared_or_not(family):
    """Log-odds within 1e-5 in fp32 of each other, and of one full forward an item and condition."""
    model, prompts, conditions = random_model(family), choice_prompts(LENGTHS), sweep()
    shared = score(model, prompts, conditions)
    full = score(model, prompts, conditions, share_prefix=False)
    torch.testing.assert_close(log_odds(shared), log_odds(full), atol=1e-5, rtol=0)
    torch.testing.assert_close(shared.log_z, full.log_z, atol=1e-5, rtol=0)
    if family != "gptj":  # its own forward wants positions
        for row in (0, 4):
            for column, edits in enumerate(conditions):
                logits, _ = plain_forward(model, prompts[row].ids, prompts[row].first_position, edits)
                expected = logits[-1, list(prompts[row].candidates)]
                torch.testing.assert_close(shared.logits[row, column], expected, atol=1e-5, rtol=0)
                torch.testing.assert_close(shared.log_z[row, column], logits[-1].logsumexp(-1), atol=1e-5, rtol=0)
    shift = (log_odds(shared) - log_odds(shared)[:, 3:4]).abs()
    assert shift[:, [0, 1, 8]].min() > 1e-4
    assert shift.mean() > 0.3


@pytest.mark.parametrize("family", FAMILIES)
def test_row_of_a_batch_equals_that_row_alone(family):
    """Padding and neighbors change nothing, prefix shared or not."""
    model, prompts, conditions = random_model(family), choice_prompts(LENGTHS), sweep()
    for share in (True, False):
        together = score(model, prompts, conditions, share_prefix=share)
        alone = score(model, prompts, conditions, share_prefix=share, batch_size=1)
        torch.testing.assert_close(log_odds(together), log_odds(alone), atol=1e-5, rtol=0)


def test_no_edit_equals_a_zero_delta_bit_for_bit():
    """The unsteered row IS the multiplier-0 row."""
    model, prompts, conditions = random_model("llama"), choice_prompts(LENGTHS), sweep()
    scores = score(model, prompts, [*conditions, [Edit(1, Add(torch.zeros(64)))]])
    assert torch.equal(scores.logits[:, 3], scores.logits[:, -1])
    assert torch.equal(scores.log_z[:, 3], scores.log_z[:, -1])


def test_score_repeats_bit_for_bit():
    """Same arguments, same bytes, whatever ran before."""
    model, prompts, conditions = random_model("qwen3"), choice_prompts(LENGTHS), sweep()
    first = score(model, prompts, conditions)
    score(model, prompts[:1], conditions[:2])
    again = score(model, prompts, conditions)
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(first.log_z, again.log_z)


def test_order_of_conditions_and_prompts_does_not_matter():
    """Results land in the caller's order, though rows are computed by layer and prompts by length."""
    model, prompts, conditions = random_model("llama"), choice_prompts((20, 9, 31, 14)), sweep()
    straight = score(model, prompts, conditions)
    turned = score(model, prompts[::-1], conditions[::-1])
    torch.testing.assert_close(turned.logits.flip(0, 1), straight.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("limit", ["_MOST_WIDTH", "_MOST_TOKENS", "_MOST_LOGITS"])
def test_chunks_of_conditions_equal_one_pass(limit, monkeypatch):
    """A bound that leaves room for a row or two at a time changes the cost, not the numbers."""
    model, prompts, conditions = random_model("gemma2"), choice_prompts(LENGTHS), sweep()
    whole = score(model, prompts, conditions)
    monkeypatch.setattr(score_module, limit, {"_MOST_WIDTH": 6, "_MOST_TOKENS": 40, "_MOST_LOGITS": 97 * 12}[limit])
    with counted(model) as work:
        chunked = score(model, prompts, conditions)
    assert work.forwards >= 5
    torch.testing.assert_close(log_odds(chunked), log_odds(whole), atol=1e-5, rtol=0)


def test_items_with_fewer_options_are_padded_with_nan():
    """Each item's own letters are read, in order; what is not there is NaN, not 0."""
    model = random_model("llama")
    prompts = [choice_prompts((12,), options=4)[0], *choice_prompts((12, 15), options=2)]
    scores = score(model, prompts, [[]])
    assert scores.logits.shape == (3, 1, 4)
    assert torch.equal(scores.logits.isnan().sum(-1)[:, 0], torch.tensor([0, 2, 2]))
    logits, _ = plain_forward(model, prompts[0].ids, 0)
    torch.testing.assert_close(scores.logits[0, 0], logits[-1, 5:9], atol=1e-5, rtol=0)


def test_steered_part_of_any_width_up_to_the_whole_prompt():
    """One steered token, many, all of them (no prefix at all), and prompts of different widths in one call."""
    model, conditions = random_model("mistral"), sweep()
    prompts = [
        *choice_prompts((12, 15), steered=1),
        *choice_prompts((12, 12), steered=12),
        *choice_prompts((20,), steered=13),
    ]
    shared = score(model, prompts, conditions)
    full = score(model, prompts, conditions, share_prefix=False)
    torch.testing.assert_close(log_odds(shared), log_odds(full), atol=1e-5, rtol=0)


def test_edits_from_the_start_get_full_forwards():
    """Every position changes, so nothing can be shared; mixed with others in one call each still gets its own."""
    model, prompts = random_model("llama"), choice_prompts(LENGTHS)
    delta = sweep()[0][0].change.delta
    conditions = [[], [Edit(1, Add(delta), positions="all")], [Edit(1, Add(delta))]]
    scores = score(model, prompts, conditions)
    for column, edits in enumerate(conditions):
        logits, _ = plain_forward(model, prompts[3].ids, prompts[3].first_position, edits)
        torch.testing.assert_close(scores.logits[3, column], logits[-1, [5, 6]], atol=1e-5, rtol=0)
    assert (scores.logits[:, 1] - scores.logits[:, 2]).abs().max() > 1e-2


@pytest.mark.parametrize(("family", "reason"), [("bloom", "alibi"), ("qwen3_next", "linear_attention")])
def test_models_that_cannot_share_fall_back_and_say_so_once(family, reason, caplog):
    """Bloom's blocks take a tensor of unknown meaning, Qwen3-Next keeps a state that is no prefix of anything."""
    tiny = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 16,
            "shared_expert_intermediate_size": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16}  # fmt: skip
    model = random_model(family, **(tiny if family == "qwen3_next" else {}))
    prompts, conditions = choice_prompts((9, 14)), sweep()[:4]
    with caplog.at_level(logging.WARNING, logger="caa_bench"), counted(model) as work:
        scores = score(model, prompts, conditions)
        score(model, prompts, conditions)
    said = [record.getMessage() for record in caplog.records if "recomputed" in record.getMessage()]
    assert len(said) == 1
    assert reason in said[0]
    assert work.token_layers >= 2 * loop_cost(prompts, conditions, layers=4)
    full = score(model, prompts, conditions, share_prefix=False)
    assert torch.equal(scores.logits, full.logits)


def test_a_sweep_costs_within_a_tenth_of_the_bound():
    """Token-layers, counted on the blocks themselves: 12 layers x 2 multipliers, 50 prompts of published lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = (78 + 18 * torch.randn(50, generator=generator)).clamp(48, 140).int().tolist()
    model, prompts = random_model("llama", layers=12, hidden=16), choice_prompts(lengths)
    conditions = sweep(12, 16)[:-1]
    score(model, prompts[:1], conditions)  # the trial that a model is given once
    with counted(model) as work:
        score(model, prompts, conditions)
    bound = score_bound(prompts, conditions, layers=12)
    assert bound <= work.token_layers <= 1.1 * bound
    assert loop_cost(prompts, conditions, layers=12) > 15 * work.token_layers


def test_bound_is_what_the_issue_says():
    """P*N for the prefix, one unsteered suffix pass S*N, and S*(N-1-L) a condition, by hand."""
    prompts = choice_prompts((10,), steered=2)
    assert score_bound(prompts, sweep(4, 8)[:3], layers=4) == 8 * 4 + 2 * 4 + 2 * (3 + 3 + 2)
    assert score_bound(prompts, [[]], layers=4) == loop_cost(prompts, [[]], layers=4) == 40


def test_batches_are_a_function_of_lengths_alone():
    """Every prompt once, never more than asked, equal suffixes together, little padding."""
    prompts = [*choice_prompts(range(10, 60)), *choice_prompts((30, 31), steered=1)]
    groups = batched(prompts, 8)
    assert sorted(row for group in groups for row in group) == list(range(52))
    assert max(map(len, groups)) <= 8
    assert all(len({len(prompts[row].ids) - prompts[row].first_position for row in group}) == 1 for group in groups)
    assert groups == batched(choice_prompts(range(10, 60), seed=5) + choice_prompts((30, 31), steered=1, seed=6), 8)


def test_half_precision_batches_have_equal_lengths_where_that_is_cheap():
    """In bf16 padding moves probabilities; with 3 lengths none is needed, with 30 it would be one prompt a batch."""
    few = choice_prompts([20] * 5 + [23] * 9 + [24] * 6)
    assert all(len({len(few[row].ids) for row in group}) == 1 for group in batched(few, 16, exact=True))
    many = choice_prompts(range(20, 50))
    assert batched(many, 16, exact=True) == batched(many, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 4}, r"layer \(4\) must be in 0..3"),
        ({"layer": -1}, r"layer \(-1\) must be in 0..3"),
        ({"batch_size": 0}, r"batch_size \(0\) must be at least 1"),
        ({"first": 12}, r"prompt 0: first_position \(12\) must be in 0..11"),
    ],
)
def test_what_would_steer_nothing_is_refused(change, message):
    """A layer that is not there, a position behind the prompt: silent zeros elsewhere, errors here."""
    prompt = choice_prompts((12,), steered=12 - change.get("first", 10))[0]
    edits = [Edit(change.get("layer", 0), Add(torch.ones(64)))]
    with pytest.raises(ValueError, match=message):
        score(random_model("llama"), [prompt], [edits], batch_size=change.get("batch_size", 16))


def test_no_prompts_and_no_conditions_give_empty_tables():
    """Shapes stay what they say."""
    assert score(random_model("llama"), [], sweep()).logits.shape == (0, 10, 0)
    assert score(random_model("llama"), choice_prompts((9,)), []).logits.shape == (1, 0, 2)


def test_the_last_block_of_a_prefix_ends_at_its_keys_and_values():
    """What follows them is never used: the last block's own output is not computed for the prefix."""
    model, prompts = random_model("llama"), choice_prompts((14,))
    score(model, prompts, [[]])
    finished = []
    handles = [
        block.register_forward_hook(lambda _, __, out: finished.append(out.shape[1])) for block in model.model.layers
    ]
    score(model, prompts, [[]])
    for handle in handles:
        handle.remove()
    assert finished == [12, 12, 12, 2, 2, 2, 2]
