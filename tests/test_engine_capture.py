"""Extraction: activations at the letter are those of one plain pass over each whole text."""

from __future__ import annotations

import pytest
import torch
from plain_loop import plain_forward
from random_models import FAMILIES, MORE_FAMILIES, choice_prompts, random_model

from caa_bench.engine.capture import letter_activations
from caa_bench.engine.work import counted

LENGTHS = (9, 14, 14, 21)


@pytest.mark.parametrize("family", [family for family in FAMILIES + MORE_FAMILIES if family != "gptj"])
def test_letter_activations_equal_a_plain_pass_a_letter(family):
    """Every block, every letter, shared or not."""
    model, prompts = random_model(family), choice_prompts(LENGTHS)
    shared = letter_activations(model, prompts)
    full = letter_activations(model, prompts, share_prefix=False)
    assert shared.shape == (4, 2, 4, 64)
    for row in (0, 3):
        for option in (0, 1):
            ids = [*prompts[row].ids, prompts[row].candidates[option]]
            _, outputs = plain_forward(model, ids, 0)
            for found in (shared, full):
                torch.testing.assert_close(found[row, option], outputs[:, -1], atol=3e-5, rtol=1e-5)
    assert (shared[:, 0] - shared[:, 1]).abs().mean() > 0.1


def test_prompts_with_fewer_letters_are_nan_behind_them():
    """Survival items have 2 to 8 options; a letter that is not there has no activation."""
    model = random_model("qwen3")
    prompts = [choice_prompts((12,), options=5)[0], *choice_prompts((12, 17))]
    found = letter_activations(model, prompts)
    assert torch.equal(found.isnan().all(-1).all(-1).sum(-1), torch.tensor([0, 3, 3]))
    assert torch.equal(found.isnan().any(-1).any(-1).sum(-1), torch.tensor([0, 3, 3]))
    _, outputs = plain_forward(model, [*prompts[0].ids, 9], 0)
    torch.testing.assert_close(found[0, 4], outputs[:, -1], atol=3e-5, rtol=1e-5)


def test_a_pair_costs_its_prompt_once_and_two_tokens():
    """Half of two full passes."""
    model, prompts = random_model("llama"), choice_prompts([30] * 8)
    letter_activations(model, prompts[:1])
    with counted(model) as work:
        letter_activations(model, prompts)
    assert work.token_layers == 8 * (30 + 2) * 4


def test_capture_leaves_no_hook():
    """Also when a forward inside fails."""
    model = random_model("llama")
    before = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    letter_activations(model, choice_prompts(LENGTHS))
    with pytest.raises(IndexError):
        letter_activations(model, choice_prompts(LENGTHS, vocab=1000))
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()) == before
