"""LAT and LoReFT against plain reimplementations of their papers' code, and what LoReFT's training does on `tiny`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from sklearn.decomposition import PCA
from small_behavior import write_behavior

from caa_bench.behaviors.behavior import Pairs, load_behavior, variants
from caa_bench.engine.low_rank import LowRank
from caa_bench.engine.score import score
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, Intervention, RandomDirection, registry
from caa_bench.interventions.bipo import _gradient
from caa_bench.interventions.conditional import steered_states
from caa_bench.interventions.fitting import Fitting, during
from caa_bench.interventions.lat import LAT
from caa_bench.interventions.loreft import LoReFT
from caa_bench.interventions.loreft_maps import Maps, letter_losses
from caa_bench.interventions.vectors import letter_prompts
from caa_bench.models.layers import Layers
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import chat_prompt


@cache
def tokenizer():
    return chatml_tokenizer()


@cache
def model():
    return random_model("llama", layers=3, hidden=32, vocab=len(tokenizer()))


@cache
def tiny() -> ChatModel:
    return ChatModel.find("tiny")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return load_behavior(write_behavior(tmp_path_factory.mktemp("behaviors") / "small")).pairs()


@pytest.mark.parametrize("pairing", ["random", "within"])
def test_lat_is_the_papers_code(pairing: str, pairs: Pairs) -> None:
    """As its `rep_readers.py` does it: every second state less the next, recentred, sklearn's PCA, sign by most pairs.

    One plain forward a stimulus.
    """
    arm = LAT(norm="own", pairing=pairing, seed=3)
    arm.fit(model(), tokenizer(), pairs)
    states, labels = [], []
    for pair in pairs:
        for answer, text in ((pair.matching, pair.matching_text), (pair.other, pair.other_text)):
            said = (
                f"Consider the amount of small in the following answer.\n\nQuestion: {pair.question}\n"
                f"Answer: {answer} {text}\n\nThe amount of small in the answer is"
            )
            ids = chat_prompt(tokenizer(), [{"role": "user", "content": said}]).ids
            kept: list[np.ndarray] = []
            hooks = [
                block.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out[0, -1].double().numpy()))
                for block in model().model.layers
            ]
            with torch.no_grad():
                model()(torch.tensor([ids]))
            for hook in hooks:
                hook.remove()
            states.append(np.stack(kept))
            labels.append(answer == pair.matching)
    hidden = np.stack(states)  # [2 P, L, D]
    assert labels == [True, False] * len(pairs)
    order = [number for both in arm.paired(len(pairs)) for number in both]
    assert sorted(order) == list(range(len(hidden))) and order != sorted(order)
    for layer in range(3):
        shuffled = hidden[order, layer]
        differences = shuffled[::2] - shuffled[1::2]
        found = PCA(n_components=1).fit(differences - differences.mean(axis=0)).components_[0]
        scores = hidden[:, layer] @ found
        right = np.mean([scores[2 * n] == max(scores[2 * n : 2 * n + 2]) for n in range(len(pairs))])
        wrong = np.mean([scores[2 * n] == min(scores[2 * n : 2 * n + 2]) for n in range(len(pairs))])
        expected = found * (np.sign(right - wrong) or 1.0)
        np.testing.assert_allclose(arm.fitted()[layer].numpy(), expected, atol=1e-5)


def test_lat_needs_no_labels_but_for_its_sign_and_refuses_a_template_without_texts(pairs: Pairs) -> None:
    """Within pairs, the two stimuli stand together; between pairs hardly ever; another seed is another draw."""
    within, other = LAT(pairing="within").paired(50), LAT(seed=1).paired(50)
    assert all({one // 2, two // 2} == {n} for n, (one, two) in enumerate(within))
    assert 10 < sum(one < two for one, two in within) < 40, "their order is drawn"
    assert sum(one // 2 == two // 2 for one, two in other) < 10
    assert other != LAT(seed=2).paired(50)
    assert LAT().another_fit(2, made={}).config.seed == 1
    with pytest.raises(UserError, match=r"template: has no \{question\} and no \{answer\}; put each where its text is"):
        LAT(template="How much {behavior} is there?")
    letters = LAT(template="").stimuli(tokenizer(), pairs[:1])
    prompt = letter_prompts(tokenizer(), pairs[:1])[0]
    assert letters == [(*prompt.ids, letter) for letter in prompt.candidates]
    odd = replace(pairs[0], question="What is {answer}?\n (A) yes\n (B) no")
    braces = LAT(template="{answer} {question}").stimuli(tokenizer(), replace(pairs, pairs=(odd,)))[0]
    assert "{answer}" in tokenizer().decode(braces), "what stands in a question is text"


class PyreftLoreft(torch.nn.Module):
    """`LoreftIntervention` of pyreft without dropout and activation, written as it writes it."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        layer = torch.nn.Linear(width, rank, bias=False)
        self.rotate_layer = torch.nn.utils.parametrizations.orthogonal(layer)
        self.learned_source = torch.nn.Linear(width, rank)

    def forward(self, base: torch.Tensor) -> torch.Tensor:
        rotated_base = self.rotate_layer(base)
        return base + torch.matmul(self.learned_source(base) - rotated_base, self.rotate_layer.weight)


def test_the_edit_is_pyrefts_formula() -> None:
    """Its output and its gradients; the dose scales what is added, and -1 takes it away."""
    torch.manual_seed(0)
    theirs, hidden = PyreftLoreft(32, 4), torch.randn(3, 5, 32)
    rotate, source = theirs.rotate_layer.weight.detach(), theirs.learned_source
    reads = (source.weight.detach() - rotate).requires_grad_()
    bias = source.bias.detach().clone().requires_grad_()
    found, expected = LowRank(rotate, reads, bias)(hidden), theirs(hidden)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    weight = torch.randn(3, 5, 32)
    ours = torch.autograd.grad((found * weight).sum(), [reads, bias])
    known = torch.autograd.grad((expected * weight).sum(), [source.weight, source.bias])
    torch.testing.assert_close(ours, known, atol=1e-4, rtol=1e-5)
    for dose in (-1.0, 0.5, 2.0):
        moved = LowRank(rotate, reads, bias, dose)(hidden)
        torch.testing.assert_close(moved - hidden, dose * (expected - hidden), atol=1e-5, rtol=1e-5)
    assert LowRank(rotate, reads, bias, 0.0).is_identity
    assert LowRank(rotate, torch.zeros(4, 32), torch.zeros(4)).is_identity


@pytest.mark.parametrize("dose", [1.0, -1.0])
def test_its_loss_and_gradient_are_those_of_plain_forwards(dose: float, pairs: Pairs) -> None:
    """Rows on a shared prefix against a hook in a forward of each whole prompt, and autograd."""
    draw = torch.Generator().manual_seed(0)
    rotate = torch.linalg.qr(torch.randn(3, 32, 2, generator=draw)).Q.transpose(1, 2)
    maps = Maps(rotate=rotate, reads=torch.randn(3, 2, 32, generator=draw) / 5, bias=torch.randn(3, 2, generator=draw))
    prompts = letter_prompts(tokenizer(), pairs)[:4]
    told = letter_losses(model(), prompts, maps, dose=dose, gradient=True)
    for layer in range(3):
        own = [one[layer].clone().requires_grad_() for one in (maps.rotate, maps.reads, maps.bias)]
        losses = []
        for prompt in prompts:
            behind = torch.arange(len(prompt.ids))[None, :, None] >= prompt.first_position

            def hook(_m, _a, out, behind=behind, own=own):
                return torch.where(behind, out + dose * ((out @ own[1].T + own[2]) @ own[0]), out)

            handle = model().model.layers[layer].register_forward_hook(hook)
            said = model()(torch.tensor([prompt.ids])).logits[0, -1]
            handle.remove()
            losses.append(-said.log_softmax(-1)[prompt.candidates[0 if dose > 0 else 1]])
        loss = torch.stack(losses).mean()
        torch.testing.assert_close(told.losses[layer], loss.detach(), atol=1e-5, rtol=1e-5)
        for found, expected in zip(told.gradient, torch.autograd.grad(loss, own), strict=True):
            torch.testing.assert_close(found[layer], expected, atol=1e-6, rtol=1e-3)
    assert all(weight.grad is None and weight.requires_grad for weight in model().parameters())


def test_training_lowers_the_held_out_loss_and_moves_the_embedded_model_as_the_dose_says(tmp_path: Path) -> None:
    """At the planted layer, from 60 pairs; items of the test split at each dose."""
    behavior, chat = load_behavior("refusal", max_pairs=60), tiny()
    arm, notes = LoReFT(), []
    with during(Fitting(tell=lambda done, total, note: notes.append((done, total, note)))):
        arm.fit(chat.model, chat.tokenizer, behavior.pairs())
    losses = [epoch[3] for epoch in arm.training["held_out_loss"]]
    assert len(losses) == 3 and losses[-1] < 0.6 * losses[0]
    assert (arm.training["pairs"], arm.training["held_out_pairs"]) == (54, 6)
    assert notes[-1][:2] == (108, 108) and "held-out loss" in notes[-1][2] and notes[-1][2].startswith("loss ")
    asked = [one for item in behavior.test[:10] for one in variants(item)]
    prompts = [chat.choice_prompt([{"role": "user", "content": one.question}], one.letters) for one in asked]
    sign = torch.tensor([1.0 if one.matching == 0 else -1.0 for one in asked])
    edits = [arm.edits(Condition(layer=3, multiplier=dose)) for dose in (-1.0, 0.0, 1.0)]
    logits = score(chat.model, prompts, edits).logits
    away, plain, toward = ((logits[:, n, 0] - logits[:, n, 1]) @ sign / len(sign) for n in range(3))
    assert away < plain - 0.5 < plain + 0.5 < toward
    arm.save_pretrained(tmp_path / "arm")
    text = (tmp_path / "arm" / "README.md").read_text()
    said = ", ".join(f"{epoch[2]:.3f}" for epoch in arm.training["held_out_loss"])  # the card's own layer is 2
    assert f"held-out loss at layer 2 | {said} before and after each epoch, 6 pairs, mean of doses 1 and -1" in text
    assert Intervention.from_pretrained(tmp_path / "arm").training == arm.training


def test_its_directions_are_orthonormal_and_in_order_and_a_placebo_moves_each_state_as_far(pairs: Pairs) -> None:
    arm = LoReFT(rank=3)
    arm.fit(model(), tokenizer(), pairs)
    for rows in arm.fitted():
        torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-5, rtol=0)
    again = LoReFT(rank=3)
    again.fit(model(), tokenizer(), pairs)
    assert torch.equal(again.vectors, arm.vectors) and torch.equal(again.beside["reads"], arm.beside["reads"])
    placebo = RandomDirection(original=arm)
    placebo.fit(model(), tokenizer(), pairs)
    state = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    for layer in range(3):
        (own,), (other,) = (one.edits(Condition(layer=layer, multiplier=0.7)) for one in (arm, placebo))
        ours, theirs = own.change(state) - state, other.change(state) - state
        torch.testing.assert_close(ours.norm(dim=-1), theirs.norm(dim=-1), atol=1e-5, rtol=1e-4)
        assert float(torch.cosine_similarity(ours, theirs, dim=-1).abs().max()) < 0.95
        assert torch.equal(own.change.reads, other.change.reads)
    same = arm.exchanged_vectors(model(), tokenizer(), pairs, exchanged=set())
    torch.testing.assert_close(same, arm.fitted(), atol=1e-5, rtol=1e-4)  # of the labels as they are: with length 1
    shuffled = arm.exchanged_vectors(model(), tokenizer(), pairs, exchanged={pair.item for pair in pairs[:12]})
    placebo.vectors = shuffled
    (edit,) = placebo.edits(Condition(layer=1))
    moved = (edit.change(state) - state).norm(dim=-1)
    (own,) = arm.edits(Condition(layer=1))
    torch.testing.assert_close(
        moved, shuffled[1, 0].norm() * (own.change(state) - state).norm(dim=-1), rtol=1e-4, atol=0
    )
    assert 0.05 < float(shuffled[1, 0].norm()) < 0.95, "a map of labels that say nothing is shorter"
    maps = Maps(rotate=arm.fitted(), **arm.beside)
    states = torch.randn(40, 3, 32, generator=torch.Generator().manual_seed(1)) + 1
    ordered = maps.ordered(states)
    moved = ordered.moved(states)
    assert (moved.pow(2).mean(1).diff(dim=-1) <= 1e-9).all(), "from the direction that is moved most along to the least"
    assert (moved.mean(dim=1) >= -1e-9).all(), "toward where they are moved"
    before, after = (one.moved(states) @ one.rotate for one in (maps, ordered))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-4)


def test_with_the_length_of_caa_the_mean_shift_is_as_long_as_its_vector(pairs: Pairs) -> None:
    caa, arm = CAA(), LoReFT(norm="caa")
    caa.fit(model(), tokenizer(), pairs)
    arm.fit(model(), tokenizer(), pairs)
    states = torch.from_numpy(steered_states(model(), tokenizer(), pairs))
    shift = Maps(rotate=arm.fitted(), **arm.beside).moved(states).norm(dim=-1).mean(dim=1)
    torch.testing.assert_close(shift, caa.fitted().norm(dim=-1), rtol=1e-4, atol=1e-6)
    assert [line["norm"] for line in arm.diagnostics] == pytest.approx(shift.tolist(), rel=1e-4)


def test_a_loss_that_is_no_number_and_too_high_a_rank_are_refused(pairs: Pairs) -> None:
    with pytest.raises(
        UserError, match=r"loreft\.learning_rate: at step \d+ the loss is no number any more; give a sm"
    ):
        LoReFT(learning_rate=1e38, epochs=3).fit(model(), tokenizer(), pairs)
    assert LoReFT(rank=40).check(Layers(count=3, default=1, hidden=32)) == [
        "loreft.rank: 40 is above the model's width, 32"
    ]
    with pytest.raises(UserError, match="rank: 0 is too few"):
        LoReFT(rank=0)


@pytest.mark.parametrize("name", ["bipo", "loreft"])
def test_a_model_in_half_precision_is_learned_on(name: str, pairs: Pairs) -> None:
    """A fit ends in numbers, and the gradients point where the same model's in float32 point."""
    whole = random_model("llama", layers=3, hidden=32, vocab=len(tokenizer()))
    half = random_model("llama", layers=3, hidden=32, vocab=len(tokenizer()), dtype=torch.bfloat16)
    arm = registry()[name](epochs=1)
    arm.fit(half, tokenizer(), pairs)
    assert torch.isfinite(arm.fitted()).all() and arm.fitted().dtype == torch.float32
    prompts, draw = letter_prompts(tokenizer(), pairs)[:4], torch.Generator().manual_seed(0)
    vectors, found = torch.randn(3, 32, generator=draw), []
    for one in (half, whole):
        if name == "bipo":
            found.append(_gradient(one, prompts, vectors=vectors, want=torch.ones(4)))
        else:
            maps = Maps(rotate=vectors[:, None] / 6, reads=vectors[:, None] / 9, bias=torch.ones(3, 1))
            found.append(letter_losses(one, prompts, maps, dose=1.0, gradient=True).gradient[0][:, 0])
    assert (torch.cosine_similarity(*found, dim=-1) > 0.98).all()
