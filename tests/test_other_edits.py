"""Directional ablation and turns along the CAA direction, on the embedded model: what their theory asks for."""

from __future__ import annotations

import pytest
import torch

from caa_bench.behaviors.behavior import Behavior, load_behavior, variants
from caa_bench.engine.capture import letter_activations
from caa_bench.engine.edit import Edit
from caa_bench.engine.score import score
from caa_bench.interventions import CAA, Condition
from caa_bench.interventions.ablation import Ablation
from caa_bench.interventions.angular import Angular
from caa_bench.models.layers import Layers
from caa_bench.models.model import ChatModel


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return ChatModel.find("tiny")


@pytest.fixture(scope="module")
def behavior() -> Behavior:
    return load_behavior("refusal")


@pytest.fixture(scope="module")
def arms(chat: ChatModel, behavior: Behavior) -> tuple[CAA, Ablation, Angular]:
    """One fit; the other two take it over as a run lets them."""
    caa, ablation, angular = CAA(), Ablation(), Angular()
    pairs = behavior.pairs()
    caa.fit(chat.model, chat.tokenizer, pairs)
    for arm in (ablation, angular):
        (part,) = arm.ingredients(pairs)
        assert part.intervention.settings() == caa.settings(), "a run's own CAA artifact is shared"
        part.intervention.vectors = caa.vectors
        arm.fit(chat.model, chat.tokenizer, pairs)
        assert torch.equal(arm.vectors, caa.vectors)
    return caa, ablation, angular


def asked(chat: ChatModel, behavior: Behavior, count: int = 12) -> tuple[list, torch.Tensor]:
    found = [variant for item in behavior.test[:count] for variant in variants(item)]
    prompts = [chat.choice_prompt([{"role": "user", "content": one.question}], one.letters) for one in found]
    return prompts, torch.tensor([1.0 if one.matching == 0 else -1.0 for one in found])[:, None]


def log_odds(chat: ChatModel, behavior: Behavior, conditions: list[list[Edit]]) -> torch.Tensor:
    """Toward the matching answer. [N, C]"""
    prompts, sign = asked(chat, behavior)
    logits = score(chat.model, prompts, conditions).logits
    return (logits[..., 0] - logits[..., 1]) * sign


def dosed(chat: ChatModel, arm: CAA | Ablation | Angular, *doses: float) -> list[list[Edit]]:
    layer = chat.loaded_layers().default
    return [arm.edits(Condition(layer=layer, multiplier=dose)) for dose in doses]


def test_ablation_leaves_nothing_along_the_direction_at_any_position(chat, behavior, arms):
    """The component of every block's output is 0, and twice what it was in the first block at dose -1."""
    _, ablation, _ = arms
    layer = chat.loaded_layers().default
    unit = ablation.vectors[layer] / ablation.vectors[layer].norm()
    prompts, _ = asked(chat, behavior, 2)
    plain = letter_activations(chat.model, prompts)
    for dose, share in ((1.0, 0.0), (-1.0, 2.0), (0.5, 0.5)):
        with ablation.attach(chat.model, Condition(layer=layer, multiplier=dose)):
            found = letter_activations(chat.model, prompts)
        torch.testing.assert_close((found @ unit)[:, :, 0], share * (plain @ unit)[:, :, 0], atol=1e-4, rtol=0)
        if dose == 1.0:
            assert (found @ unit).abs().max() < 1e-4
            assert (plain @ unit).abs().max() > 0.1


def test_ablation_takes_all_of_caa_s_effect_away_and_shrinks_the_log_odds(chat, behavior, arms):
    caa, ablation, _ = arms
    (push,), (removed, doubled) = dosed(chat, caa, 2.0), dosed(chat, ablation, 1.0, -1.0)
    odds = log_odds(chat, behavior, [[], push, removed, [*push, *removed], doubled])
    plain, pushed, ablated, both, away = odds.unbind(1)
    assert (pushed - plain).mean() > 1.0
    torch.testing.assert_close(both, ablated, atol=1e-3, rtol=0)
    assert ablated.abs().mean() < plain.abs().mean() < away.abs().mean()


def test_a_turn_moves_as_caa_does_and_keeps_the_norm(chat, behavior, arms):
    """p(matching) grows with the angle from -20 to 20 degrees, by at least as much as CAA's at dose 1."""
    caa, _, angular = arms
    doses = (-2.0, -1.0, 0.0, 1.0, 2.0)
    p = log_odds(chat, behavior, [*dosed(chat, angular, *doses), *dosed(chat, caa, 1.0)]).sigmoid().mean(0).tolist()
    assert p[:5] == sorted(p[:5])
    assert p[3] - p[2] >= p[5] - p[2] > 0.2
    prompts, _ = asked(chat, behavior, 2)
    layer = chat.loaded_layers().default
    plain = letter_activations(chat.model, prompts)
    with angular.attach(chat.model, Condition(layer=layer, multiplier=2.0)):
        found = letter_activations(chat.model, prompts)
    torch.testing.assert_close(found[:, :, layer].norm(dim=-1), plain[:, :, layer].norm(dim=-1), atol=1e-3, rtol=1e-5)
    turn = torch.cosine_similarity(found[:, :, layer], plain[:, :, layer], dim=-1).acos().rad2deg()
    torch.testing.assert_close(turn, torch.full_like(turn, 20.0), atol=0.1, rtol=0)


def test_their_sections_and_grids():
    """The grid of `caa`; what cannot work is said in one line."""
    layers = Layers(count=6, default=3, hidden=8)
    found = Ablation(Ablation.Config(layers=(1, 2), multipliers=(0.0, 1.0))).conditions(layers)
    assert found == [Condition(layer=1, multiplier=1.0), Condition(layer=2, multiplier=1.0)]
    assert Angular(Angular.Config(layers=(9,))).check(layers)[0].startswith("angular.layers: layer 9 does not exist")
    for wrong in ({"degrees": 0.0}, {"degrees": 181.0}, {"layers": ()}, {"multipliers": (0.0,)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Angular.Config(**wrong)
