"""The whole contract, for every registered intervention and every pair of them: a new file joins by being there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from method_settings import config_of, write_both
from random_models import random_model
from shipped import shipped

from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.engine.positions import batch_of
from caa_bench.engine.score import score
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, Intervention, Layers, LoraSFT, Stack, registry
from caa_bench.interventions.lora.rows import training_row
from caa_bench.models.blocks import hidden_size, num_layers
from caa_bench.models.prompts import choice_prompt

LABELS = [
    f"{name}_{variant}" if variant else name
    for name, cls in shipped().items()
    for variant in (cls.variants or (("positive",) if name == "system_prompt" else ("",)))
]
USUAL = {"system_prompt_positive", "lora_sft_positive", "caa"}
"""Arms that every other one is stacked with in the quick tests; all the other pairs are slow ones."""
PAIRS = [
    (a, b) if USUAL & {a, b} else pytest.param((a, b), marks=pytest.mark.slow)
    for a in LABELS
    for b in LABELS
    if a != b and "none" not in (a, b)
]


@cache
def tokenizer():
    return chatml_tokenizer()


@cache
def model():
    return random_model("llama", layers=3, hidden=32, vocab=len(tokenizer()))


@pytest.fixture(scope="module")
def behavior(tmp_path_factory) -> Behavior:
    return load_behavior(write_both(tmp_path_factory.mktemp("behaviors")))


@pytest.fixture(scope="module")
def fitted(behavior, tmp_path_factory) -> dict[str, Intervention]:
    """Every intervention, fitted once on the same pairs."""
    built: dict[str, Intervention] = {}
    for label in LABELS:
        cls = next(cls for name, cls in reversed(registry().items()) if label == name or label.startswith(f"{name}_"))
        config = config_of(cls, folder=tmp_path_factory.mktemp("given"))
        variant = label.removeprefix(cls.name).removeprefix("_")
        built[label] = cls.build(config, variant=variant, behavior=behavior, built=built)
        built[label].fit(model(), tokenizer(), behavior.pairs())
    return built


def prompts_of(behavior: Behavior, intervention: Intervention, *, count: int = 4):
    return [
        choice_prompt(tokenizer(), intervention.rewrite([{"role": "user", "content": item.question}]), "AB")
        for item in behavior.test[:count]
    ]


def logits(prompt) -> torch.Tensor:
    with torch.inference_mode():
        return model()(torch.tensor([prompt.ids])).logits[0, -1]


def condition(intervention: Intervention, multiplier: float = 1.5) -> Condition:
    return Condition(layer=1, multiplier=multiplier)


def everything() -> tuple:
    """Parameters, hooks, modes and flags of the model, and the state of the global generators."""
    parts = []
    for name, module in model().named_modules():
        hooks = [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
        parts.append((name, type(module), module.training, sorted(vars(module)), *hooks))
    flags = [(name, value.requires_grad, value.grad is None) for name, value in model().named_parameters()]
    config = [{k: repr(v) for k, v in vars(one).items()} for one in (model().config, model().generation_config)]
    state = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()  # noqa: NPY002
    return parts, flags, config, state


@pytest.fixture
def untouched(behavior) -> Iterator[None]:
    """Fails a test that leaves the model other than it was, bit for bit."""
    prompt = prompts_of(behavior, Intervention())[0]
    before, was = everything(), {name: value.clone() for name, value in model().state_dict().items()}
    said = logits(prompt)
    yield
    assert everything() == before
    assert all(torch.equal(value, was[name]) for name, value in model().state_dict().items())
    assert torch.equal(logits(prompt), said)


@pytest.mark.parametrize("label", LABELS)
def test_fit_leaves_no_trace(label, behavior, fitted, untouched):
    fitted[label].fit(model(), tokenizer(), behavior.pairs())


@pytest.mark.parametrize("label", LABELS)
def test_attach_does_something_and_leaves_no_trace(label, behavior, fitted, untouched):
    intervention = fitted[label]
    prompt = prompts_of(behavior, intervention)[0]
    plain = prompts_of(behavior, Intervention())[0]
    before = logits(plain)
    with intervention.attach(model(), condition(intervention)), batch_of([prompt]):
        changed = logits(prompt)
    assert torch.equal(changed, before) == (label == "none")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("label", LABELS)
def test_an_exception_inside_attach_leaves_no_trace(label, error, behavior, fitted, untouched):
    prompt = prompts_of(behavior, fitted[label])[0]
    with (
        pytest.raises(error),
        fitted[label].attach(model(), condition(fitted[label])),
        batch_of([prompt]),
    ):
        logits(prompt)
        raise error


@pytest.mark.parametrize("label", LABELS)
def test_multiplier_zero_is_none_bit_for_bit(label, behavior, fitted):
    prompt = prompts_of(behavior, fitted[label])[0]
    before = logits(prompt)
    with fitted[label].attach(model(), condition(fitted[label], 0.0)), batch_of([prompt]):
        assert torch.equal(logits(prompt), before)


@pytest.mark.parametrize("label", LABELS)
def test_edits_and_attach_agree(label, behavior, fitted):
    """The engine's rows and full forwards under `attach` give the same log-odds."""
    intervention = fitted[label]
    edits = intervention.edits(condition(intervention))
    if edits is None:
        assert type(intervention).attach is not Intervention.attach
        return
    prompts = prompts_of(behavior, intervention)
    rows = score(model(), prompts, [edits]).logits[:, 0]
    for n, prompt in enumerate(prompts):
        with intervention.attach(model(), condition(intervention)), batch_of([prompt]):
            full = logits(prompt)[list(prompt.candidates)]
        assert torch.allclose(rows[n].diff(), full.diff(), atol=1e-5)


@pytest.mark.parametrize("label", [label for label in LABELS if label != "none"])
def test_saved_and_loaded_is_the_same(label, behavior, fitted, tmp_path):
    intervention = fitted[label]
    intervention.save_pretrained(tmp_path / label)
    again = Intervention.from_pretrained(tmp_path / label)
    assert type(again) is type(intervention)
    assert again.settings() == intervention.settings()
    prompt = prompts_of(behavior, intervention)[0]
    said = []
    for one in (intervention, again):
        assert one.rewrite([{"role": "user", "content": "x"}]) == intervention.rewrite(
            [{"role": "user", "content": "x"}]
        )
        with one.attach(model(), condition(one)), batch_of([prompt]):
            said.append(logits(prompt))
    assert torch.equal(*said)


def test_an_artifact_of_another_class_is_refused(fitted, tmp_path):
    fitted["caa"].save_pretrained(tmp_path / "caa")
    with pytest.raises(UserError, match="holds a 'caa', not a lora_sft"):
        LoraSFT.from_pretrained(tmp_path / "caa")


@pytest.mark.parametrize("labels", PAIRS, ids="+".join)
def test_stacks_nest_and_leave_no_trace(labels, behavior, fitted, untouched):
    """Prompts fold; edits follow one another and attachments nest, the first part outside and first to act."""
    stack = Stack(*(fitted[label] for label in labels))
    assert stack.label == "+".join(labels)
    prompt = prompts_of(behavior, stack)[0]
    with stack.attach(model(), condition(stack)), batch_of([prompt]):
        together = logits(prompt)
    with (
        fitted[labels[0]].attach(model(), condition(stack)),
        fitted[labels[1]].attach(model(), condition(stack)),
        batch_of([prompt]),
    ):
        assert torch.allclose(logits(prompt), together, atol=1e-5)
    edits = stack.edits(condition(stack))
    if edits is not None:
        rows = score(model(), [prompt], [edits]).logits[0, 0]
        assert torch.allclose(rows.diff(), together[list(prompt.candidates)].diff(), atol=1e-5)


@pytest.mark.parametrize("name", ["random", "covariance", "shuffled", "orthogonal"])
def test_placebos_have_the_norm_and_the_grid_of_their_original_and_another_direction(name, fitted):
    placebo, original = fitted[name].vectors, fitted["caa"].vectors
    if name == "shuffled":
        assert bool((placebo.norm(dim=-1) < 0.5 * original.norm(dim=-1)).all()), "as long as no labels make it"
    else:
        assert torch.allclose(placebo.norm(dim=-1), original.norm(dim=-1), rtol=1e-5)
    assert torch.cosine_similarity(placebo, original).abs().max() < 0.8
    layers = Layers(count=3, default=1, hidden=32)
    assert fitted[name].conditions(layers) == fitted["caa"].conditions(layers)


def test_the_adapter_moves_the_model_to_its_own_side(behavior, fitted):
    """Loss on exactly the letters: each variant makes its own answers likelier on the pairs it was trained on."""
    pairs = list(behavior.pairs())[:16]
    shift = {}
    for variant in ("positive", "negative"):
        moved = []
        for pair in pairs:
            messages = [{"role": "user", "content": pair.question}]
            prompt = choice_prompt(tokenizer(), messages, (pair.matching[1], pair.other[1]))
            before = logits(prompt)[list(prompt.candidates)]
            with fitted[f"lora_sft_{variant}"].attach(model(), Condition()):
                after = logits(prompt)[list(prompt.candidates)]
            moved.append(((after[0] - after[1]) - (before[0] - before[1])).item())
        shift[variant] = np.mean(moved)
    assert shift["positive"] > 0.05
    assert shift["negative"] < -0.05


def test_attach_equals_peft_on_the_saved_adapter(behavior, fitted, tmp_path):
    """Hooks give peft's own numbers, and the folder is a plain peft adapter."""
    from copy import deepcopy

    from peft import PeftModel

    fitted["lora_sft_positive"].save_pretrained(tmp_path / "adapter")
    wrapped = PeftModel.from_pretrained(deepcopy(model()), tmp_path / "adapter").eval()
    for prompt in prompts_of(behavior, Intervention()):
        with torch.inference_mode():
            expected = wrapped(torch.tensor([prompt.ids])).logits[0, -1]
        with fitted["lora_sft_positive"].attach(model(), Condition()):
            assert torch.allclose(logits(prompt), expected, atol=1e-5)


@pytest.mark.parametrize("target", ["letter", "letter_and_text", "text"])
def test_lora_labels_cover_exactly_the_answer(target, behavior):
    """What the loss sees, decoded: the letter alone, letter and text, or the text; text ends with the end token."""
    pair = behavior.pairs()[0]
    row = training_row(tokenizer(), pair, target=target, positive=False)
    learned = tokenizer().decode([label for label in row["labels"] if label != -100])
    end = tokenizer().eos_token
    expected = {"letter": f"({pair.other[1]}", "text": pair.other_text + end}
    expected["letter_and_text"] = f"{pair.other} {pair.other_text}{end}"
    assert learned.strip() == expected[target]
    assert len(row["labels"]) == len(row["input_ids"])


def test_layers_that_do_not_exist_are_named():
    mistakes = CAA(CAA.Config(layers=(1, 9, -1), vector_layer=12)).check(Layers(count=3, default=1, hidden=32))
    assert [line.split(";")[0] for line in mistakes] == [
        "caa.layers: layer 9, -1 does not exist",
        "caa.vector_layer: layer 12 does not exist",
    ]


def test_the_model_is_small_and_the_intervention_is_not_a_rounding_error(fitted):
    """Guards this file itself: vectors must be big enough to be seen in the logits."""
    assert fitted["caa"].vectors.shape == (num_layers(model()), hidden_size(model()))
    assert fitted["caa"].vectors.norm(dim=-1).min() > 0.01


def test_folders_written_by_hand_are_refused(tmp_path: Path):
    (tmp_path / "vectors.pt").write_bytes(b"x")
    with pytest.raises(UserError):
        CAA.from_pretrained(tmp_path)
