"""Rotary embeddings that change with the length: a prompt's numbers are its own, whatever it stands beside."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from random_models import choice_prompts, random_model

from caa_bench.engine.capture import letter_activations
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import generate
from caa_bench.engine.likelihood import token_log_probs
from caa_bench.engine.score import score
from caa_bench.models.prompts import Prompt
from caa_bench.models.rope import beyond_rope, rope_apart, rope_limit

LIMIT = 24
PROMPTS = choice_prompts((9, 20, 22, 23, 24, 25, 30, 30, 41, 12))
WAVE = 3 * torch.arange(64).sin()
CONDITIONS: list[list[Edit]] = [[], [Edit(1, Add(WAVE))], [Edit(2, Add(-WAVE))]]


def by_length(kind: str) -> torch.nn.Module:
    """A model whose positions turn another way beyond LIMIT tokens."""
    if kind == "dynamic":
        scaled = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
        return random_model("llama", max_position_embeddings=LIMIT, rope_parameters=scaled)
    factors = {"short_factor": [1.0] * 8, "long_factor": [0.3, 0.7, 2.0, 4.0, 6.0, 9.0, 11.0, 13.0]}
    scaled = {"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": LIMIT, **factors}
    return random_model("phi3", original_max_position_embeddings=LIMIT, rope_parameters=scaled)


def plain(model: torch.nn.Module, ids: Sequence[int]) -> torch.Tensor:
    """Last logits of one forward of a model that has seen nothing before."""
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_short_prompt_does_not_change_beside_a_long_one(kind: str) -> None:
    together = score(by_length(kind), PROMPTS, CONDITIONS, batch_size=16)
    for row, prompt in enumerate(PROMPTS):
        alone = plain(by_length(kind), prompt.ids)
        torch.testing.assert_close(together.logits[row, 0], alone[list(prompt.candidates)], atol=1e-4, rtol=1e-4)
    assert (together.logits[:, 1] - together.logits[:, 0]).abs().mean() > 0.05
    # as a check that the test can fail: one batch of all lengths gives other numbers
    model = by_length(kind)
    width = max(len(prompt.ids) for prompt in PROMPTS)
    ids = torch.tensor([[0] * (width - len(prompt.ids)) + list(prompt.ids) for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in PROMPTS])
    with torch.no_grad():
        mixed = model(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[0, -1]
    assert (mixed - plain(by_length(kind), PROMPTS[0].ids)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_the_order_of_prompts_changes_nothing(kind: str) -> None:
    model, backwards = by_length(kind), PROMPTS[::-1]
    one = score(model, PROMPTS, CONDITIONS).logits
    other = score(model, backwards, CONDITIONS).logits.flip(0)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_activations_and_forced_answers_are_each_prompts_own(kind: str) -> None:
    model = by_length(kind)
    together = letter_activations(model, PROMPTS)
    answers = [(7, 8, 9)] * len(PROMPTS)
    said = token_log_probs(model, PROMPTS, answers, CONDITIONS[1])
    for row, prompt in enumerate(PROMPTS):
        (alone,) = letter_activations(by_length(kind), [prompt])
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)
        (own,) = token_log_probs(by_length(kind), [prompt], answers[:1], CONDITIONS[1])
        assert said[row] == pytest.approx(own, abs=1e-3)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_decoding_over_the_limit_is_what_a_full_forward_says(kind: str) -> None:
    model = by_length(kind)
    prompts = [Prompt(ids=prompt.ids, first_position=prompt.first_position) for prompt in PROMPTS]
    for (said,), prompt in zip(generate(model, prompts, [[]], max_new_tokens=6, stop_ids=[]), prompts, strict=True):
        ids = list(prompt.ids)
        for token in said.ids:
            assert int(plain(by_length(kind), ids).argmax()) == token
            ids.append(token)


def test_only_such_models_have_a_limit() -> None:
    assert (rope_limit(by_length("longrope")), rope_limit(by_length("dynamic"))) == (LIMIT, LIMIT)
    model = random_model("llama")
    assert rope_limit(model) is None and not beyond_rope(model, PROMPTS)
    assert list(rope_apart(model, PROMPTS, [[0, 8], [1]])) == [[0, 8], [1]]
    groups = list(rope_apart(by_length("longrope"), PROMPTS, [list(range(10))]))
    assert groups == [[0, 1, 2, 9], [3], [4], [5], [6, 7], [8]]
