"""Adapters of peft's as arms: each equal to PeftModel, at a dose in proportion; strangers are refused in one line."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import peft
import pytest
import torch
from adapter_kinds import KINDS
from chat_tokenizers import chatml_tokenizer
from method_settings import write_adapter
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.behaviors.behavior import Pairs, load_behavior
from caa_bench.errors import UserError
from caa_bench.interventions import Condition, registry
from caa_bench.interventions.adapter import Adapter
from caa_bench.interventions.peft_tuned import PeftTuned
from caa_bench.models.layers import Layers

IDS = torch.arange(3, 20)[None]


@cache
def tokenizer():
    return chatml_tokenizer()


def model():
    return random_model("llama", layers=3, hidden=32, vocab=len(tokenizer()))


def logits(of) -> torch.Tensor:
    with torch.no_grad():
        return of(IDS).logits


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return load_behavior(write_behavior(tmp_path_factory.mktemp("behaviors") / "small")).pairs()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_peft_s_own_model_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    plain = model()
    before = logits(plain)
    wrapped = peft.get_peft_model(model(), KINDS[kind]())
    draw = torch.Generator().manual_seed(0)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data = weight.data + 0.3 * torch.randn(weight.shape, generator=draw)
    wrapped.save_pretrained(tmp_path / "adapter")
    arm = Adapter(path=str(tmp_path / "adapter"))
    arm.fit(plain, tokenizer(), None)
    with arm.attach(plain, Condition()):
        found = logits(plain)
        wanted = logits(wrapped.eval())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (found - before).abs().mean() > 0.02
    with arm.attach(plain, Condition(multiplier=0.0)):
        assert torch.equal(logits(plain), before)
    module = plain.model.layers[0].self_attn.q_proj if kind != "ia3" else plain.model.layers[0].mlp.down_proj
    given = torch.randn(2, module.in_features, generator=draw)
    said = []
    for dose in (0.0, 1.0, -0.5):
        with arm.attach(plain, Condition(multiplier=dose)), torch.no_grad():
            said.append(module(given))
    torch.testing.assert_close(said[2], said[0] - 0.5 * (said[1] - said[0]), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(plain), before)
    assert type(module) is torch.nn.Linear and not module._forward_hooks


def test_kept_and_read_back_without_its_folder(tmp_path: Path) -> None:
    plain, arm = model(), Adapter(path=str(write_adapter(tmp_path / "given")))
    arm.fit(plain, tokenizer(), None)
    arm.save_pretrained(tmp_path / "kept")
    moved = (tmp_path / "given").rename(tmp_path / "moved")
    again = Adapter.from_pretrained(tmp_path / "kept")
    assert again.settings() == arm.settings() == Adapter(path=str(moved)).settings()
    assert again.content() == Adapter(path=str(moved)).content()
    with arm.attach(plain, Condition()):
        one = logits(plain)
    with again.attach(plain, Condition()):
        assert torch.equal(logits(plain), one)


def test_strangers_are_one_line(tmp_path: Path) -> None:
    layers = Layers(count=3, default=1, hidden=32)
    assert Adapter().check(layers) == ["adapter.path: missing; name a folder that peft's save_pretrained wrote"]
    (line,) = Adapter(path=str(tmp_path / "nowhere")).check(layers)
    assert line.startswith(f"adapter.path: {tmp_path}/nowhere: there is no such folder")
    (tmp_path / "empty").mkdir()
    (line,) = Adapter(path=str(tmp_path / "empty")).check(layers)
    assert line == f"adapter.path: {tmp_path}/empty holds no adapter_config.json; save it with peft's save_pretrained"
    larger = Adapter(path=str(write_adapter(tmp_path / "larger", layers=5)))
    with pytest.raises(UserError, match=r"adapter: \S*layers\.3\S* has no place in this model; give an adapter of"):
        larger.fit(model(), tokenizer(), None)
    wider = Adapter(path=str(write_adapter(tmp_path / "wider", hidden=48)))
    with pytest.raises(UserError, match="adapter: peft cannot put the adapter onto this model"):
        wider.fit(model(), tokenizer(), None)
    prompt = write_adapter(tmp_path / "prompt")
    settings = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
    (prompt / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="adapter: the adapter adds virtual tokens, which shift every position"):
        Adapter(path=str(prompt)).fit(model(), tokenizer(), None)


@pytest.mark.parametrize("method", ["dora", "rslora", "ia3", "vera", "loha", "lokr", "oft", "hra"])
def test_each_method_learns_toward_its_side(method: str, pairs: Pairs) -> None:
    """The matching letter gains under `positive`; applied, the adapter is the trained one (`fit` compares them)."""
    from caa_bench.interventions.vectors import letter_prompts

    plain, prompts = model(), letter_prompts(tokenizer(), pairs)[:6]
    rate = 0.3 if method == "vera" else 3e-2  # it learns two short vectors a module
    settings = {"learning_rate": rate, "max_pairs": 16, "epochs": 2.0, "batch_size": 4, "rank": 4}

    def odds() -> float:
        with torch.no_grad():
            said = [(plain(torch.tensor([one.ids])).logits[0, -1], one.candidates) for one in prompts]
        return sum(float(row[of[0]] - row[of[1]]) for row, of in said) / len(said)

    arm = PeftTuned(method=method, target_modules="all-linear", **settings)
    arm.fit(plain, tokenizer(), pairs)
    before = odds()
    with arm.attach(plain, Condition()):
        assert odds() > before + 0.1
    assert arm.training["steps"] > 0
    assert registry()["peft"] is PeftTuned


def odds(plain, prompts) -> torch.Tensor:
    """Log-odds of the matching letter after each prompt."""
    with torch.no_grad():
        said = [(plain(torch.tensor([one.ids])).logits[0, -1], one.candidates) for one in prompts]
    return torch.stack([row[of[0]] - row[of[1]] for row, of in said])


def test_dpo_minimizes_the_papers_loss(pairs: Pairs) -> None:
    """Both variants go their way, and the loss, computed by hand from letters' log-odds, falls below log 2."""
    from caa_bench.interventions.dpo import DPO
    from caa_bench.interventions.vectors import letter_prompts

    plain, prompts = model(), letter_prompts(tokenizer(), pairs)
    before = odds(plain, prompts)
    for variant, sign in (("positive", 1.0), ("negative", -1.0)):
        arm = DPO(variant=variant, learning_rate=1e-2, batch_size=4, beta=0.5, epochs=2.0)
        arm.fit(plain, tokenizer(), pairs)
        with arm.attach(plain, Condition()):
            margin = sign * (odds(plain, prompts) - before)
        # the letters' log-ratios differ by what their logits do: the rest of the vocabulary cancels
        loss = -torch.nn.functional.logsigmoid(0.5 * margin).mean()
        assert float(loss) < 0.6 < float(torch.tensor(2.0).log())
        assert float(margin.mean()) > 0.3
    assert torch.equal(odds(plain, prompts), before)


def test_contrastive_lora_is_one_finetune_less_the_other(pairs: Pairs, tmp_path: Path) -> None:
    """Module by module W + m (dW+ - dW-), and the artifact is a plain LoRA for peft."""
    from caa_bench.interventions import LoraSFT
    from caa_bench.interventions.contrastive_lora import ContrastiveLora
    from caa_bench.interventions.vectors import letter_prompts

    plain, prompts = model(), letter_prompts(tokenizer(), pairs)[:6]
    before = odds(plain, prompts)
    settings = {"learning_rate": 3e-2, "max_pairs": 16, "rank": 2, "alpha": 6}
    arm = ContrastiveLora(**settings)
    arm.fit(plain, tokenizer(), pairs)
    sides = [LoraSFT(variant=side, **settings) for side in ("positive", "negative")]
    for side in sides:
        side.fit(plain, tokenizer(), pairs)
    module, given = plain.model.layers[1].self_attn.v_proj, torch.randn(5, 32)
    said = []
    for one in (*sides, arm):
        with one.attach(plain, Condition()), torch.no_grad():
            said.append(module(given) - torch.nn.functional.linear(given, module.weight))
    torch.testing.assert_close(said[2], said[0] - said[1], atol=1e-4, rtol=1e-4)
    shifts = []
    for dose in (-1.0, 1.0):
        with arm.attach(plain, Condition(multiplier=dose)):
            shifts.append(float((odds(plain, prompts) - before).mean()))
    assert shifts[0] < -0.1 < 0.1 < shifts[1]
    arm.save_pretrained(tmp_path / "kept")
    again = ContrastiveLora.from_pretrained(tmp_path / "kept")
    with again.attach(plain, Condition()), torch.no_grad():
        found = plain(IDS).logits
    wrapped = peft.PeftModel.from_pretrained(model(), str(tmp_path / "kept"))
    torch.testing.assert_close(logits(wrapped.eval()), found, atol=1e-4, rtol=1e-4)
