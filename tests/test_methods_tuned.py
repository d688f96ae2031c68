"""ORPO and soft prompts: each learns what its paper says, computed by hand, and moves the model toward its side."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import peft
import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from method_settings import config_of
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.behaviors.behavior import Pairs, load_behavior
from caa_bench.engine.generate import generate
from caa_bench.engine.positions import batch_of
from caa_bench.engine.score import score
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, Intervention, registry
from caa_bench.interventions.card import card
from caa_bench.interventions.orpo import ORPO
from caa_bench.interventions.soft_prompt import SoftPrompt
from caa_bench.interventions.vectors import letter_prompts
from caa_bench.models.layers import Layers
from caa_bench.models.prompts import ChoicePrompt, choice_prompt, show_tokens

LAYERS = Layers(count=3, default=1, hidden=32)


@cache
def tokenizer():
    return chatml_tokenizer()


def model(family: str = "llama"):
    return random_model(family, layers=3, hidden=32, vocab=len(tokenizer()))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return load_behavior(write_behavior(tmp_path_factory.mktemp("behaviors") / "small")).pairs()


def odds(plain, prompts) -> torch.Tensor:
    """Log-odds of the matching letter after each prompt."""
    with torch.no_grad():
        said = [(plain(torch.tensor([one.ids])).logits[0, -1], one.candidates) for one in prompts]
    return torch.stack([row[of[0]] - row[of[1]] for row, of in said])


def orpo_by_hand(prompts, *, beta: float, rate: float, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The paper's loss, equations 2, 6 and 7, of one letter: each step's, over all prompts, and what is learned."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model(), config)
    adam = torch.optim.AdamW([weight for weight in wrapped.parameters() if weight.requires_grad], weight_decay=0.0)
    losses = []
    for step in range(steps):
        total = torch.zeros(())
        for prompt in prompts:
            chosen, rejected = wrapped(torch.tensor([prompt.ids])).logits[0, -1].log_softmax(-1)[[*prompt.candidates]]
            log_odds = [p - torch.log1p(-p.exp()) for p in (chosen, rejected)]
            total = total - chosen - beta * torch.nn.functional.logsigmoid(log_odds[0] - log_odds[1])
        (total / len(prompts)).backward()
        torch.nn.utils.clip_grad_norm_(wrapped.parameters(), 1.0)  # as transformers' Trainer does
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)
        adam.step()
        adam.zero_grad()
        losses.append(total.item() / len(prompts))
    return losses, peft.get_peft_model_state_dict(wrapped)


def test_orpo_minimizes_the_papers_loss(pairs: Pairs) -> None:
    """Step by step the loss of a plain loop, and in the end its adapter."""
    from caa_bench.interventions.fitting import Fitting, during

    told: list[str] = []
    arm, plain = ORPO(beta=0.5, learning_rate=1e-2, epochs=3.0, batch_size=len(pairs)), model()
    with during(Fitting(tell=lambda _done, _total, note: told.append(note))):
        arm.fit(plain, tokenizer(), pairs)
    losses, learned = orpo_by_hand(letter_prompts(tokenizer(), pairs), beta=0.5, rate=1e-2, steps=3)
    assert losses[0] > losses[1] > losses[2]
    said = list(dict.fromkeys(note for note in told if note))
    assert said == [f"loss {loss:.3f}" for loss in losses]
    assert arm.training["steps"] == 3
    for key, value in learned.items():
        torch.testing.assert_close(arm.adapter[key], value, atol=1e-5, rtol=1e-4)


def test_orpo_goes_both_ways(pairs: Pairs) -> None:
    plain, prompts = model(), letter_prompts(tokenizer(), pairs)
    before = odds(plain, prompts)
    for variant, sign in (("positive", 1.0), ("negative", -1.0)):
        arm = registry()["orpo"](variant=variant, learning_rate=1e-2, batch_size=4, beta=0.5, epochs=3.0)
        assert arm.check(LAYERS) == []
        arm.fit(plain, tokenizer(), pairs)
        with arm.attach(plain, Condition()):
            assert float(sign * (odds(plain, prompts) - before).mean()) > 0.3
    assert torch.equal(odds(plain, prompts), before)


@pytest.mark.parametrize("name", ["lora_sft", "dpo", "orpo"])
def test_a_fit_tells_the_hub_nothing(name: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """trl's trainers report themselves when they are made, unless they are told not to."""
    told: list[str] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *args, **_: told.append(args[0]))
    arm = registry()[name](max_pairs=4, variant="positive")
    arm.fit(model(), tokenizer(), pairs)
    assert told == []


def test_a_trl_without_orpo_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from caa_bench.interventions import orpo

    monkeypatch.setattr(orpo, "PLACE", "experimental/elsewhere")
    assert ORPO().check(LAYERS) == [
        "orpo: the installed trl has no trl.experimental.elsewhere; install trl 1.16, or leave it out"
    ]


def test_a_soft_prompt_says_whose_prompts_it_needs(pairs: Pairs) -> None:
    plain, arm = model(), soft()
    with arm.attach(plain, Condition()), pytest.raises(ValueError, match=r"name the prompts: batch_of\(prompts\)"):
        plain(torch.tensor([[5, 6, 7]]))
    shown = show_tokens(tokenizer(), asked(arm, pairs)[0])
    assert shown.startswith("[soft_prompt_positive 0] [soft_prompt_positive 1]")
    with pytest.raises(UserError, match=r"a text holds U\+FDD1, which is no character"):
        choice_prompt(tokenizer(), [{"role": "user", "content": "\ufdd1soft_prompt_positive\ufdd1"}], "AB")


ARMS = ["orpo", "soft_prompt"]
MATRIX = ["llama", *(pytest.param(family, marks=pytest.mark.slow) for family in ("qwen2", "gpt_neox", "gemma"))]


@pytest.mark.parametrize("family", MATRIX)
@pytest.mark.parametrize("name", ARMS)
def test_fitted_kept_scored_spoken_and_under_a_vector(name: str, family: str, pairs: Pairs, tmp_path: Path) -> None:
    """On every family: what is read back acts alike, as rows under CAA as in a plain forward, in scoring and words."""
    plain, cls = model(family), registry()[name]
    arm, caa = cls(config_of(cls, folder=tmp_path), variant="positive"), CAA()
    for one in (arm, caa):
        one.fit(plain, tokenizer(), pairs)
    arm.save_pretrained(tmp_path / "kept")
    again = Intervention.from_pretrained(tmp_path / "kept")
    assert arm.acts in card(again)
    dose, prompts = Condition(layer=1, multiplier=3.0), asked(arm, pairs)
    edits = caa.edits(dose)
    with again.attach(plain, Condition()):
        found = score(plain, prompts, [[], edits]).logits
        words, slow = (
            generate(plain, prompts, [[], edits], max_new_tokens=4, stop_ids=[], share_prefix=share)
            for share in (True, False)
        )
    assert words == slow
    for n, prompt in enumerate(prompts):
        with arm.attach(plain, Condition()), caa.attach(plain, dose), batch_of([prompt]), torch.no_grad():
            said = plain(torch.tensor([prompt.ids])).logits[0, -1, list(prompt.candidates)]
        torch.testing.assert_close(found[n, 1], said, atol=1e-4, rtol=1e-5)
    without = score(plain, asked(Intervention(), pairs), [[]]).logits
    assert float((found[:, :1] - without).abs().max()) > 0.01
    assert float((found[:, 0] - found[:, 1]).abs().max()) > 1e-3


FAMILIES = ["llama", "qwen2", "gpt_neox", "gemma", "gemma3", "gpt2"]


def soft(name: str = "soft_prompt_positive", *, count: int = 4, hidden: int = 32) -> SoftPrompt:
    """Not trained: embeddings of the size of the random models' own."""
    arm = SoftPrompt(tokens=count, variant=name.rsplit("_", 1)[-1])
    draw = torch.Generator().manual_seed(len(name))
    arm.adapter = {"prompt_embeddings": 0.5 * torch.randn(count, hidden, generator=draw)}
    return arm


def asked(arm, pairs: Pairs, count: int = 6) -> list[ChoicePrompt]:
    """Prompts of several lengths as the arm rewrites them."""
    questions = [pair.question for pair in pairs][:count]
    questions[2] = "Well, and now to something else altogether. " + questions[2]
    return [
        choice_prompt(tokenizer(), arm.rewrite([{"role": "user", "content": question}]), "AB") for question in questions
    ]


def by_embeddings(plain, prompt: ChoicePrompt, *learned: torch.Tensor) -> torch.Tensor:
    """Logits of a plain forward of embeddings, the learned ones in front."""
    front = torch.cat(learned)
    with torch.no_grad():
        own = plain.get_input_embeddings()(torch.tensor([prompt.ids[len(front) :]]))
        return plain(inputs_embeds=torch.cat([front[None], own], 1)).logits[0, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_soft_prompt_is_learned_embeddings_in_front(family: str, pairs: Pairs) -> None:
    """Each prompt of a shuffled, padded batch has the logits of a plain forward with the embeddings in front."""
    plain, arm = model(family), soft()
    prompts = asked(arm, pairs)
    wanted = torch.stack([by_embeddings(plain, one, arm.adapter["prompt_embeddings"]) for one in prompts])
    without = score(plain, asked(Intervention(), pairs), [[]]).logits[:, 0]
    for share in (True, False):
        with arm.attach(plain, Condition()):
            found = score(plain, prompts, [[]], batch_size=4, share_prefix=share).logits[:, 0]
        letters = torch.stack([row[[*one.candidates]] for row, one in zip(wanted, prompts, strict=True)])
        torch.testing.assert_close(found, letters, atol=1e-5, rtol=1e-5)
    assert float((found - without).abs().max()) > 1e-2
    assert torch.equal(score(plain, asked(Intervention(), pairs), [[]]).logits[:, 0], without), "nothing is left"


def test_a_soft_prompt_learns_its_side_and_is_peft_s(pairs: Pairs, tmp_path: Path) -> None:
    """The letter to learn becomes likelier; what is kept is what peft reads, and what it then computes."""
    plain, prompts = model(), letter_prompts(tokenizer(), pairs)
    with torch.no_grad():
        before = [plain(torch.tensor([one.ids])).logits[0, -1].log_softmax(-1) for one in prompts]
    for variant, side in (("positive", 0), ("negative", 1)):
        arm = SoftPrompt(variant=variant, tokens=4, learning_rate=0.1, batch_size=4, epochs=2.0)
        arm.fit(plain, tokenizer(), pairs)
        assert (arm.training["rows"], arm.training["held_out_rows"]) == (22, 2)
        arm.save_pretrained(tmp_path / variant)
        again = Intervention.from_pretrained(tmp_path / variant)
        wrapped = peft.PeftModel.from_pretrained(model(), str(tmp_path / variant)).eval()
        placed = [replace(one, ids=again.in_front(one.ids), first_position=one.first_position + 4) for one in prompts]
        with again.attach(plain, Condition()):
            found = score(plain, placed, [[]]).logits[:, 0]
        gained = []
        for row, prompt, was in zip(found, prompts, before, strict=True):
            with torch.no_grad():
                said = wrapped(torch.tensor([prompt.ids])).logits[0, -1]
            torch.testing.assert_close(row, said[[*prompt.candidates]], atol=1e-5, rtol=1e-5)
            gained.append(float((said.log_softmax(-1) - was)[prompt.candidates[side]]))
        assert sum(gained) / len(gained) > 0.3
    assert all(weight.requires_grad and weight.grad is None for weight in plain.parameters())
