"""The engine on models as people load them: half precision, bitsandbytes, an active adapter, device maps, offload."""

from __future__ import annotations

import pytest
import torch
from plain_loop import plain_forward
from random_models import FAMILIES, choice_prompts, random_model

from caa_bench.engine.capture import letter_activations
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import generate
from caa_bench.engine.positions import batch_of
from caa_bench.engine.score import Scores, score
from caa_bench.engine.sharing import can_share
from caa_bench.engine.steer import steered

PROMPTS = choice_prompts((9, 14, 14, 21, 26, 33, 40, 41, 45, 60, 22, 23, 28, 31, 37, 44, 50, 52))


def sweep() -> list[list[Edit]]:
    vectors = 3 * torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    return [[], *([Edit(layer, Add(vectors[layer] * sign))] for layer in range(4) for sign in (-1, 1))]


def distance(one: Scores, other: Scores) -> float:
    """Mean |difference| of log-odds."""
    return float((one.logits.diff(dim=-1) - other.logits.diff(dim=-1)).abs().mean())


def distances(model) -> tuple[float, float]:
    """Shared from full at the same padding, and batch n from batch 1."""
    full = score(model, PROMPTS, sweep(), share_prefix=False)
    assert can_share(model, PROMPTS)
    shared = score(model, PROMPTS, sweep())
    assert (full.logits.diff(dim=-1) - full.logits.diff(dim=-1)[:, :1]).abs().mean() > 0.5
    return distance(shared, full), distance(full, score(model, PROMPTS, sweep(), share_prefix=False, batch_size=1))


QUICK = ("llama",)


@pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_sharing_in_bf16_moves_less_than_the_batch_size_does(family):
    """Log-odds, mean over items, conditions and three draws of the weights: one draw is noise beside noise."""
    found = [distances(random_model(family, dtype=torch.bfloat16, seed=seed)) for seed in range(3)]
    assert sum(sharing for sharing, _ in found) <= sum(batching for _, batching in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_sharing_under_bitsandbytes_moves_no_more_than_the_batch_size_does(bits, tmp_path):
    """int8 rounds activations, so ANY change of summation order flips some: pooled over 4 families x 2 seeds."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}[bits]
    sharing, batching = [], []
    for family in ("llama", "gemma2", "gpt_neox", "qwen3"):
        for seed in (0, 1):
            folder = tmp_path / f"{family}{seed}"
            random_model(family, seed=seed).save_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**config))
            for pool, value in zip((sharing, batching), distances(model), strict=True):
                pool.append(value)
    assert sum(sharing) <= sum(batching) + 8e-6


def test_an_active_lora_adapter_is_scored_captured_and_decoded():
    """Equal to the same model with the adapter merged in, and different from the base."""
    from peft import LoraConfig, get_peft_model

    base = random_model("llama")
    plain = score(base, PROMPTS, sweep())
    wrapped = get_peft_model(random_model("llama"), LoraConfig(target_modules="all-linear", r=4, lora_dropout=0.5))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    wrapped.train()  # as a trainer leaves it: dropout must not reach the numbers
    tuned, full = score(wrapped, PROMPTS, sweep()), score(wrapped, PROMPTS, sweep(), share_prefix=False)
    activations = letter_activations(wrapped, PROMPTS[:3])
    texts = generate(wrapped, PROMPTS[:3], sweep()[:3], max_new_tokens=5, stop_ids=())
    with wrapped.disable_adapter():
        assert torch.equal(score(wrapped, PROMPTS, sweep()).logits, plain.logits)
    assert wrapped.training
    assert distance(tuned, plain) > 0.1
    torch.testing.assert_close(tuned.logits, full.logits, atol=2e-5, rtol=0)
    merged = wrapped.eval().merge_and_unload()
    torch.testing.assert_close(tuned.logits, score(merged, PROMPTS, sweep()).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(activations, letter_activations(merged, PROMPTS[:3]), atol=1e-3, rtol=1e-4)
    assert texts == generate(merged, PROMPTS[:3], sweep()[:3], max_new_tokens=5, stop_ids=())


def test_a_device_map_with_offload_gives_the_same(tmp_path):
    """Half of the blocks on disk: their parameters are on `meta` between forwards."""
    from transformers import AutoModelForCausalLM

    model = random_model("llama")
    model.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk",
              "model.layers.3": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}  # fmt: skip
    mapped = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "off"
    )
    assert any(parameter.device.type == "meta" for parameter in mapped.parameters())
    expected = score(model, PROMPTS, sweep())
    torch.testing.assert_close(score(mapped, PROMPTS, sweep()).logits, expected.logits, atol=1e-5, rtol=0)
    texts = generate(mapped, PROMPTS[:2], sweep()[:3], max_new_tokens=4, stop_ids=())
    assert texts == generate(model, PROMPTS[:2], sweep()[:3], max_new_tokens=4, stop_ids=())
    with steered(mapped, sweep()[3]), batch_of(PROMPTS[:1]):
        logits = mapped(torch.tensor([PROMPTS[0].ids])).logits[0]
    steered_plain, _ = plain_forward(model, PROMPTS[0].ids, PROMPTS[0].first_position, sweep()[3])
    torch.testing.assert_close(logits, steered_plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_attentions_that_take_a_mask_share(attention):
    """Additive masks and boolean ones."""
    model = random_model("gemma3", attn_implementation=attention)
    assert model.config._attn_implementation == attention
    assert can_share(model, PROMPTS)
    shared, full = score(model, PROMPTS, sweep()), score(model, PROMPTS, sweep(), share_prefix=False)
    torch.testing.assert_close(shared.logits, full.logits, atol=2e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_shared_equals_full():
    """fp32 on one device; deltas given on the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    model = random_model("llama").cuda()
    shared, full = score(model, PROMPTS, sweep()), score(model, PROMPTS, sweep(), share_prefix=False)
    torch.testing.assert_close(shared.logits, full.logits, atol=1e-4, rtol=0)
    expected = generate(random_model("llama"), PROMPTS[:4], sweep(), max_new_tokens=6, stop_ids=())
    assert generate(model, PROMPTS[:4], sweep(), max_new_tokens=6, stop_ids=()) == expected
