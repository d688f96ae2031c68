"""Half-precision models: their logits are sums in float32 of the last hidden state, not rounded to half precision."""

from __future__ import annotations

import pytest
import torch
from random_models import choice_prompts, random_model
from torch import Tensor, nn

from caa_bench.engine.generate import generate
from caa_bench.engine.head import float32_head
from caa_bench.engine.likelihood import token_log_probs
from caa_bench.engine.score import score

PROMPTS = choice_prompts((9, 14, 21))


def by_hand(model: nn.Module, ids: list[int]) -> Tensor:
    """float32 logits after a prompt, of the model's own half-precision hidden state. [V]"""
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
        logits = hidden.float() @ model.lm_head.weight.float().T
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_logits_of_a_half_precision_model_are_not_rounded(
    family: str, dtype: torch.dtype, share_prefix: bool
) -> None:
    model = random_model(family, dtype=dtype)
    found = score(model, PROMPTS, [[]], batch_size=1, share_prefix=share_prefix)
    expected = torch.stack([by_hand(model, list(one.ids))[list(one.candidates)] for one in PROMPTS])
    torch.testing.assert_close(found.logits[:, 0], expected, atol=2e-3, rtol=0)
    assert (found.logits.to(dtype).float() != found.logits).all(), "on the grid of half precision"
    assert model(input_ids=torch.tensor([PROMPTS[0].ids])).logits.dtype == dtype, "the model is as it was"


def test_so_are_the_log_probabilities_of_given_and_of_generated_answers() -> None:
    model = random_model("llama", dtype=torch.bfloat16)
    prompt = PROMPTS[0]
    ((said,),) = generate(model, [prompt], [[]], max_new_tokens=1, stop_ids=())
    expected = by_hand(model, list(prompt.ids)).log_softmax(-1)
    assert said.ids == (int(expected.argmax()),)
    assert said.log_probs[0] == pytest.approx(float(expected.max()), abs=2e-3)
    ((given,),) = token_log_probs(model, [prompt], [said.ids])
    assert given == pytest.approx(float(expected.max()), abs=2e-3)


def test_a_head_that_accelerate_wrapped_gives_the_same_and_is_put_back() -> None:
    from accelerate import cpu_offload

    plain, spread = (random_model("llama", dtype=torch.bfloat16) for _ in range(2))
    cpu_offload(spread, execution_device=torch.device("cpu"))
    before = dict(vars(spread.lm_head))
    one, other = (score(model, PROMPTS, [[]]) for model in (plain, spread))
    torch.testing.assert_close(one.logits, other.logits, atol=0, rtol=0)
    assert dict(vars(spread.lm_head)) == before


def test_a_head_is_put_back_after_a_failure_and_one_in_float32_is_left_alone() -> None:
    half, whole = random_model("llama", dtype=torch.bfloat16), random_model("llama")
    with pytest.raises(RuntimeError, match="stop"), float32_head(half):
        assert "forward" in vars(half.lm_head)
        raise RuntimeError("stop")
    assert "forward" not in vars(half.lm_head)
    with float32_head(whole):
        assert "forward" not in vars(whole.lm_head)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_its_gradients_are_those_of_a_float32_head(dtype: torch.dtype) -> None:
    """Vectors are learned through it."""
    draw = torch.Generator().manual_seed(0)
    model = random_model("llama", dtype=dtype)
    own = model.lm_head.weight
    hidden = torch.randn(3, 2, model.config.hidden_size, generator=draw).to(dtype).requires_grad_()
    weight = torch.randn(3, 2, model.config.vocab_size, generator=draw)
    with float32_head(model):
        said = model.lm_head(hidden)
        found = torch.autograd.grad((said * weight).sum(), [hidden, own])
    assert (said.dtype, found[0].dtype, found[1].dtype) == (torch.float32, dtype, dtype)
    wide = [one.detach().float().requires_grad_() for one in (hidden, own)]
    expected = torch.autograd.grad(((wide[0] @ wide[1].T) * weight).sum(), wide)
    for ours, known in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.float(), known, atol=1e-2, rtol=1e-2)
