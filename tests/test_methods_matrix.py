"""Every registered vector method and few-shot, on every family: a new method joins by being there.

fit, save, load, attach = edits, score, generate, on top of a prompt and of a LoRA, placebos, card.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from method_settings import config_of, write_both
from random_models import random_model
from shipped import shipped_vectors

from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.engine.generate import generate
from caa_bench.engine.positions import batch_of
from caa_bench.engine.score import score
from caa_bench.errors import UserError
from caa_bench.interventions import (
    Condition,
    CovarianceDirection,
    Intervention,
    LoraSFT,
    OrthogonalShuffle,
    RandomDirection,
    ShuffledLabels,
    SystemPrompt,
    registry,
)
from caa_bench.interventions.card import card
from caa_bench.interventions.readings import shared_readings
from caa_bench.interventions.stack import SteeredBase
from caa_bench.models.blocks import blocks
from caa_bench.models.layers import Layers
from caa_bench.models.prompts import ChoicePrompt, choice_prompt
from caa_bench.runs.artifacts import ArtifactStore

FAMILIES = ["llama", *(pytest.param(family, marks=pytest.mark.slow) for family in ("qwen2", "gpt_neox", "gemma"))]
VECTORS = shipped_vectors()
DOSE = Condition(layer=1, multiplier=3.0)


@dataclass(kw_only=True)
class Ground:
    """A random model of a family, a small behavior, and what was fitted on both, by name."""

    model: torch.nn.Module
    behavior: Behavior
    fitted: dict[str, Intervention]

    def prompts(self, arm: Intervention, count: int = 5) -> list[ChoicePrompt]:
        """The first test questions as the arm rewrites them, of several lengths."""
        asked = [[{"role": "user", "content": item.question}] for item in self.behavior.test[:count]]
        asked[2][0]["content"] = "Well, and now to something else altogether. " + asked[2][0]["content"]
        return [choice_prompt(tokenizer(), arm.rewrite(messages), "AB") for messages in asked]

    def alone(self, arm: Intervention, prompt: ChoicePrompt, condition: Condition = DOSE) -> torch.Tensor:
        """Log-odds of the first letter against the second, one prompt in a plain forward under `attach`."""
        with torch.no_grad(), arm.attach(self.model, condition), batch_of([prompt]):
            said = self.model(torch.tensor([prompt.ids])).logits[0, -1]
        return said[prompt.candidates[0]] - said[prompt.candidates[1]]

    def rows(self, arm: Intervention, condition: Condition = DOSE) -> torch.Tensor:
        """The same of all prompts, scored by the engine as rows."""
        edits = arm.edits(condition)
        assert edits is not None
        logits = score(self.model, self.prompts(arm), [edits]).logits[:, 0]
        return logits[:, 0] - logits[:, 1]


@cache
def tokenizer():
    return chatml_tokenizer()


@pytest.fixture(scope="module", params=FAMILIES)
def ground(request, tmp_path_factory) -> Ground:
    folder = tmp_path_factory.mktemp("matrix")
    model = random_model(request.param, layers=3, hidden=32, vocab=len(tokenizer()))
    behavior = load_behavior(write_both(folder))
    made = {}
    with shared_readings():
        for name in VECTORS:
            made[name] = registry()[name](config_of(registry()[name], folder=folder))
            made[name].fit(model, tokenizer(), behavior.pairs())
    return Ground(model=model, behavior=behavior, fitted=made)


@pytest.mark.parametrize("name", VECTORS)
def test_rows_attach_and_full_forwards_agree_and_do_something(ground: Ground, name: str) -> None:
    arm = ground.fitted[name]
    found, plain = ground.rows(arm), ground.rows(Intervention())
    alone = torch.stack([ground.alone(arm, prompt) for prompt in ground.prompts(arm)])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-5)
    if name == "conditional":  # its gate may be closed on some questions
        assert float((found - plain).abs().max()) > 1e-3
    else:
        assert float((found - plain).abs().min()) > 1e-5
    torch.testing.assert_close(ground.rows(arm, Condition(layer=1, multiplier=0.0)), plain, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", VECTORS)
def test_generation_is_the_same_with_and_without_a_shared_prefix(ground: Ground, name: str) -> None:
    arm = ground.fitted[name]
    said = [
        generate(
            ground.model, ground.prompts(arm, 3), [arm.edits(DOSE), []], max_new_tokens=4, stop_ids=[], share_prefix=own
        )
        for own in (True, False)
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize("name", VECTORS)
def test_kept_and_read_back(ground: Ground, name: str, tmp_path: Path) -> None:
    arm = ground.fitted[name]
    arm.save_pretrained(tmp_path / name)
    again = Intervention.from_pretrained(tmp_path / name)
    assert (type(again), again.settings()) == (type(arm), arm.settings())
    assert torch.equal(ground.rows(again), ground.rows(arm))
    text = card(again)
    assert arm.acts in text
    assert name in text


@pytest.mark.parametrize("name", VECTORS)
def test_it_goes_on_top_of_a_prompt_and_of_a_lora(ground: Ground, name: str) -> None:
    """Rows under the attached base equal the plain forward with both attached."""
    arm, behavior = ground.fitted[name], ground.behavior
    prompt = SystemPrompt(variant="positive", text=behavior.system_prompts["positive"])
    lora = LoraSFT(LoraSFT.Config(learning_rate=3e-2, max_pairs=8), variant="positive")
    if "lora" not in ground.fitted:
        lora.fit(ground.model, tokenizer(), behavior.pairs())
        ground.fitted["lora"] = lora
    for base in (prompt, ground.fitted["lora"]):
        prompts = ground.prompts(base)
        with base.attach(ground.model, Condition()):
            logits = score(ground.model, prompts, [arm.edits(DOSE), []]).logits
        odds = logits[..., 0] - logits[..., 1]
        both = SteeredBase(base, arm)
        alone = torch.stack([ground.alone(both, one) for one in prompts])
        torch.testing.assert_close(odds[:, 0], alone, atol=1e-4, rtol=1e-5)
        assert float((odds[:, 0] - odds[:, 1]).abs().max()) > 1e-5


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("cls", [RandomDirection, ShuffledLabels, CovarianceDirection, OrthogonalShuffle])
def test_its_placebo_acts_as_it_does_along_another_direction(
    ground: Ground, name: str, cls: type, tmp_path: Path
) -> None:
    arm = ground.fitted[name]
    placebo = cls(original=arm)
    if cls is CovarianceDirection and name in ("iti", "act_add", "loreft"):
        with pytest.raises(UserError, match=f"{name} is not one direction of a block's output"):
            placebo.fit(ground.model, tokenizer(), ground.behavior.pairs())
        return
    placebo.fit(ground.model, tokenizer(), ground.behavior.pairs())
    if cls is not ShuffledLabels:  # which has the length that the method makes of such labels
        torch.testing.assert_close(placebo.vectors.norm(dim=-1), arm.vectors.norm(dim=-1), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(placebo.vectors, arm.vectors, atol=1e-3)
    places = [[(edit.layer, edit.site, edit.positions, type(edit.change)) for edit in one.edits(DOSE)]
              for one in (placebo, arm)]  # fmt: skip
    assert places[0] == places[1]
    placebo.save_pretrained(tmp_path / "placebo")
    again = Intervention.from_pretrained(tmp_path / "placebo")
    assert torch.equal(ground.rows(again), ground.rows(placebo))


def test_no_two_placebos_share_an_artifact(ground: Ground, tmp_path: Path) -> None:
    """The key of every placebo of every method and draw is its own: ablation's and angular's are both CAA's vectors."""
    store, pairs = ArtifactStore(tmp_path), ground.behavior.pairs()
    placebos = [
        draw
        for name in VECTORS
        for cls in (RandomDirection, ShuffledLabels, OrthogonalShuffle)
        for draw in cls(original=ground.fitted[name], draws=2).every_draw()
    ]
    keys = [store._key(one, pairs=pairs, model_key={"files": {}}) for one in placebos]
    assert len(set(keys)) == len(keys) == 6 * len(VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_its_grid_leaves_out_the_dose_of_nothing(ground: Ground, name: str) -> None:
    found = ground.fitted[name].conditions(Layers(count=3, default=1, hidden=32))
    assert found
    assert all(one.multiplier != 0 and one.layer in (1, None) for one in found)


def test_the_pairs_are_read_once_for_all_methods(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    from caa_bench.interventions import activations

    read, plain = [], activations._read_sides
    monkeypatch.setattr(activations, "_read_sides", lambda *args, **more: read.append(1) or plain(*args, **more))
    with shared_readings():
        for name in ("caa", "repe_pca", "pca_centred", "logistic", "mean_centring", "icv"):
            registry()[name]().fit(ground.model, tokenizer(), ground.behavior.pairs())
    assert len(read) == 1
    registry()["repe_pca"]().fit(ground.model, tokenizer(), ground.behavior.pairs())
    assert len(read) == 2, "nothing is kept outside"


def test_nothing_is_left_on_the_model(ground: Ground) -> None:
    for module in (ground.model, *blocks(ground.model)):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(value.grad is None for value in ground.model.parameters())


def test_a_gate_without_others_and_a_file_that_is_not_there_are_refused() -> None:
    layers = Layers(count=3, default=1, hidden=32)
    cases = {
        "conditional": "conditional.others: an empty list; name behaviors whose questions are to be left alone",
        "vector_file": "vector_file.path: missing; name a .safetensors or .gguf file",
    }
    for name, line in cases.items():
        assert registry()[name]().check(layers) == [line]
    with pytest.raises(UserError, match=r"vector_file\.path: there is no file nowhere\.gguf"):
        registry()["vector_file"](path="nowhere.gguf").fit(None, None, None)
