"""Steering by hooks: the right tokens whatever the padding, cache or chunking, and no trace afterwards."""

from __future__ import annotations

import pytest
import torch
from plain_loop import plain_forward
from random_models import FAMILIES, MORE_FAMILIES, choice_prompts, random_model

from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.positions import batch_of
from caa_bench.engine.steer import steered
from caa_bench.models.blocks import blocks, frozen, hidden_size, num_layers

LENGTHS = (9, 16, 21)
EDITS = [
    Edit(1, Add(3 * torch.randn(64, generator=torch.Generator().manual_seed(3)))),
    Edit(3, Add(torch.randn(64, generator=torch.Generator().manual_seed(4)))),
]


def padded(prompts, side: str) -> dict[str, torch.Tensor]:
    width = max(len(prompt.ids) for prompt in prompts)
    ids, mask = torch.zeros(2, len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        where = slice(width - len(prompt.ids), None) if side == "left" else slice(len(prompt.ids))
        ids[row, where] = torch.tensor(prompt.ids)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def hook_count(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("family", [family for family in FAMILIES + MORE_FAMILIES if family != "gptj"])
def test_left_right_and_no_padding_steer_the_same_tokens(family):
    """Logits at every real token equal the plain loop's."""
    model, prompts = random_model(family), choice_prompts(LENGTHS, steered=4)
    for side in ("left", "right"):
        inputs = padded(prompts, side)
        with frozen(model), steered(model, EDITS), batch_of(prompts):
            logits = model(**inputs).logits
        for row, prompt in enumerate(prompts):
            expected, _ = plain_forward(model, prompt.ids, prompt.first_position, EDITS)
            unsteered, _ = plain_forward(model, prompt.ids, prompt.first_position)
            real = logits[row][inputs["attention_mask"][row].bool()]
            torch.testing.assert_close(real, expected, atol=2e-5, rtol=0)
            assert (expected - unsteered)[prompt.first_position :].abs().mean() > 0.1
            before = slice(prompt.first_position)
            torch.testing.assert_close(expected[before], unsteered[before], atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", ["position_ids", "attention_mask", "cache"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_positions_are_found_from_ids_mask_or_cache(family, given):
    """Chunks of any size, from whichever source says where they stand; the defect of `min_token_index` with a cache."""
    model = random_model(family)
    prompt = choice_prompts((15,), steered=6)[0]
    expected, _ = plain_forward(model, prompt.ids, prompt.first_position, EDITS)
    cache, logits = None, []
    with frozen(model), steered(model, EDITS), batch_of([prompt]):
        for start, end in ((0, 4), (4, 11), (11, 12), (12, 15)):
            inputs = {"input_ids": torch.tensor([prompt.ids[start:end]])}
            if given == "position_ids":
                inputs["position_ids"] = torch.arange(start, end)[None]
            elif given == "attention_mask":
                inputs["attention_mask"] = torch.ones(1, end, dtype=torch.long)
            output = model(**inputs, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits[0])
    torch.testing.assert_close(torch.cat(logits), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2", "gpt_neox", "opt", "bloom"])
def test_generate_steers_each_row_from_its_own_first_position(family):
    """`model.generate` on a left-padded batch: every token is what a steered full recompute says."""
    model, prompts = random_model(family), choice_prompts(LENGTHS, steered=3)
    inputs = padded(prompts, "left")
    del inputs["position_ids"]
    with steered(model, EDITS), batch_of(prompts):
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    plain = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert not torch.equal(out, plain)
    for row, prompt in enumerate(prompts):
        new = out[row, inputs["input_ids"].shape[1] :].tolist()
        logits, _ = plain_forward(model, [*prompt.ids, *new], prompt.first_position, EDITS)
        assert logits[len(prompt.ids) - 1 : -1].argmax(-1).tolist() == new


def test_several_returned_sequences_and_beams_repeat_each_prompt():
    """Rows n*i .. n*i+n-1 belong to prompt i, so each is steered from its own position."""
    model, prompts = random_model("llama"), choice_prompts((9, 16), steered=3)
    inputs = padded(prompts, "left")
    del inputs["position_ids"]
    for options in ({"num_return_sequences": 3, "do_sample": True, "top_k": 1}, {"num_beams": 2, "do_sample": False}):
        options |= {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
        with steered(model, EDITS), batch_of(prompts):
            out = model.generate(**inputs, **options).reshape(2, -1, 22)
        for row, prompt in enumerate(prompts):
            with steered(model, EDITS), batch_of([prompt]):
                alone_out = model.generate(torch.tensor([prompt.ids]), **options)
            assert torch.equal(out[row, :, 16:], alone_out[:, len(prompt.ids) :])


def test_a_batch_that_does_not_fit_the_prompts_is_refused():
    """Five rows for two prompts: steering some of them by guess would be the silent defect."""
    model, prompts = random_model("llama"), choice_prompts((9, 9))
    with steered(model, EDITS), batch_of(prompts), pytest.raises(ValueError, match="5 rows does not fit the 2 prompts"):
        model(torch.zeros(5, 9, dtype=torch.long))


def test_output_hidden_states_shows_the_change():
    """Also after hidden states were asked for before: their hooks are then older than ours."""
    model, prompt = random_model("llama"), choice_prompts((12,))[0]
    ids = torch.tensor([prompt.ids])
    before = model(ids, output_hidden_states=True).hidden_states
    with steered(model, EDITS), batch_of([prompt]):
        after = model(ids, output_hidden_states=True).hidden_states
    change = (after[2] - before[2])[0]
    torch.testing.assert_close(change[-2:], EDITS[0].change.delta.expand(2, -1), atol=1e-5, rtol=0)
    assert torch.equal(change[:-2], torch.zeros(10, 64))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "falcon"])
def test_zero_delta_equals_no_edit_bit_for_bit(family):
    """Multiplier 0 is nothing, not nearly nothing."""
    model, prompts = random_model(family), choice_prompts(LENGTHS)
    inputs = padded(prompts, "left")
    expected = model(**inputs).logits
    with steered(model, [Edit(layer, Add(torch.zeros(64))) for layer in range(4)]), batch_of(prompts):
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_no_trace_on_any_exit_path(error):
    """Hooks, weights and logits are as they were, bit for bit."""
    model, prompts = random_model("llama"), choice_prompts(LENGTHS)
    inputs = padded(prompts, "left")
    logits, hooks = model(**inputs).logits, hook_count(model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        with steered(model, EDITS), batch_of(prompts):
            model(**inputs)
            assert hook_count(model) > hooks
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert hook_count(model) == hooks
    assert torch.equal(model(**inputs).logits, logits)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_frozen_gives_back_training_flags_and_gradients():
    """A module that was in training mode alone, say a dropout, is so again."""
    model = random_model("llama")
    model.model.layers[1].train()
    with pytest.raises(KeyboardInterrupt), frozen(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.tensor([[5, 6]])).logits.requires_grad
        raise KeyboardInterrupt
    assert {name for name, module in model.named_modules() if module.training} == {
        name for name, _ in model.named_modules() if name.startswith("model.layers.1")
    }
    assert model(torch.tensor([[5, 6]])).logits.requires_grad


@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES)
def test_blocks_are_found_in_every_family_and_inside_peft(family):
    """By length and place, never by name."""
    from peft import LoraConfig, get_peft_model

    model = random_model(family, layers=3)
    found = blocks(model)
    assert (len(found), num_layers(model), hidden_size(model)) == (3, 3, 64)
    wrapped = get_peft_model(model, LoraConfig(target_modules="all-linear", r=2))
    assert blocks(wrapped) is found


def test_prompt_tuning_is_refused():
    """Virtual tokens would shift every position that edits name."""
    from peft import PromptTuningConfig, get_peft_model

    wrapped = get_peft_model(random_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match="virtual tokens"):
        blocks(wrapped)
