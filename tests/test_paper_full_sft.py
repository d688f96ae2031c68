"""Full-parameter finetuning is the paper's: plain SGD on the answer letter; every weight moves and comes back."""

from __future__ import annotations

import random

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.errors import UserError
from caa_bench.interventions import Condition, FullSFT
from caa_bench.models.prompts import choice_prompt
from caa_bench.recipe import load_recipe


@pytest.fixture(scope="module")
def behavior(tmp_path_factory) -> Behavior:
    return load_behavior(write_behavior(tmp_path_factory.mktemp("behaviors") / "small"))


def model(**changes):
    return random_model("llama", layers=2, hidden=32, vocab=len(chatml_tokenizer()), **changes)


def fitted(net, behavior: Behavior, *, variant: str = "positive", **config) -> FullSFT:
    sft = FullSFT(FullSFT.Config(**config), variant=variant)
    sft.fit(net, chatml_tokenizer(), behavior.pairs())
    return sft


def prompt_of(pair):
    messages = [{"role": "user", "content": pair.question}]
    return choice_prompt(chatml_tokenizer(), messages, (pair.matching[1], pair.other[1]))


def test_it_is_sgd_on_the_letter_and_nothing_else(behavior) -> None:
    """An independent loop, one prompt a forward, gives the same weights; attached, they are the model's."""
    net, plain = model(), model()
    sft = fitted(net, behavior, learning_rate=0.05, seed=3)
    prompts = [prompt_of(pair) for pair in behavior.pairs()]
    order = random.Random(3).sample(prompts, len(prompts))
    for start in range(0, len(order), 2):
        batch = order[start : start + 2]
        loss = sum(
            -plain(torch.tensor([prompt.ids])).logits[0, -1].log_softmax(-1)[prompt.candidates[0]] for prompt in batch
        )
        (loss / len(batch)).backward()
        with torch.no_grad():
            for weight in plain.parameters():
                weight -= 0.05 * weight.grad
                weight.grad = None
    with sft.attach(net, Condition()):
        moved = {name: weight.clone() for name, weight in net.named_parameters()}
    for name, weight in plain.named_parameters():
        assert torch.allclose(moved[name], weight, atol=2e-5), name
    start = dict(model().named_parameters())
    assert max((moved[name] - start[name]).abs().max() for name in moved) > 1e-3


@pytest.mark.parametrize(("variant", "side"), [("positive", 1), ("negative", -1)])
def test_each_variant_makes_its_own_letters_likelier(variant, side, behavior) -> None:
    net = model()
    sft = fitted(net, behavior, variant=variant, learning_rate=0.02, epochs=2)
    shifts = []
    for pair in behavior.pairs():
        prompt = prompt_of(pair)
        before, after = [], []
        for said, attached in ((before, False), (after, True)):
            with sft.attach(net, Condition(multiplier=float(attached))), torch.no_grad():
                matching, other = net(torch.tensor([prompt.ids])).logits[0, -1][list(prompt.candidates)]
            said.append((matching - other).item())
        shifts.append(after[0] - before[0])
    assert side * sum(shifts) / len(shifts) > 0.2


def test_half_a_dose_is_half_of_the_update(behavior) -> None:
    net = model()
    sft = fitted(net, behavior, learning_rate=0.05)
    own = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    moved = {}
    for dose in (0.5, 1.0):
        with sft.attach(net, Condition(multiplier=dose)):
            moved[dose] = {name: weight - own[name] for name, weight in net.named_parameters()}
    assert all(torch.allclose(2 * moved[0.5][name], moved[1.0][name], atol=1e-6) for name in own)
    assert all(torch.equal(weight, own[name]) for name, weight in net.named_parameters())


def test_a_saved_update_is_read_from_its_folder_and_not_kept_in_memory(behavior, tmp_path) -> None:
    net = model()
    sft = fitted(net, behavior, max_pairs=4)
    sft.save_pretrained(tmp_path / "sft")
    assert sft._update is None
    with sft.attach(net, Condition()):
        here = [weight.clone() for weight in net.parameters()]
    with FullSFT.from_pretrained(tmp_path / "sft").attach(net, Condition()):
        assert all(torch.equal(a, b) for a, b in zip(here, net.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_weights_are_refused_in_one_line(dtype, behavior) -> None:
    with pytest.raises(UserError, match=r"small steps are rounded away; set loading\.dtype=float32"):
        fitted(model(dtype=dtype), behavior)


def test_an_interrupted_fit_puts_every_weight_back(behavior, monkeypatch) -> None:
    net = model()
    own = [weight.detach().clone() for weight in net.parameters()]
    calls = iter(range(100))
    real = FullSFT._letter_loss

    def interrupted(self, net, batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(self, net, batch)

    monkeypatch.setattr(FullSFT, "_letter_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(net, behavior, learning_rate=0.5)
    assert all(torch.equal(a, b) for a, b in zip(own, net.parameters(), strict=True))
    assert not net.training and all(weight.grad is None for weight in net.parameters())


def test_the_recipe_has_the_papers_settings() -> None:
    recipe = load_recipe("paper_full_sft")
    sft = recipe.sections["full_sft"]
    assert (sft.learning_rate, sft.epochs, sft.batch_size) == (1e-4, 1, 2)
    assert recipe.args.bases == ("none", "full_sft_positive", "full_sft_negative")
    assert recipe.loading == {"dtype": "float32"}
