"""CAA is the paper's CAA: equal to an independent, straightforward implementation, one item and two passes a pair."""

from __future__ import annotations

from functools import cache

import pandas as pd
import pytest
import torch
from chat_tokenizers import chatml_tokenizer, llama2_tokenizer
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.analysis.diagnostics import from_lines, vector_diagnostics
from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.engine.score import score
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, RandomDirection, ShuffledLabels
from caa_bench.interventions.activations import PairActivations, read_activations
from caa_bench.interventions.vectors import letter_sides
from caa_bench.models.prompts import choice_prompt
from caa_bench.storage.artifact_folder import write_artifact

FAMILIES = ["llama", "gpt_neox", "qwen2"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def behavior(tmp_path_factory) -> Behavior:
    folder = tmp_path_factory.mktemp("behaviors")
    write_behavior(folder / "other", train=8)
    return load_behavior(write_behavior(folder / "small"))


@cache
def model(family: str, vocab: int):
    return random_model(family, layers=3, hidden=32, vocab=vocab)


def block_list(family: str, model):
    return model.gpt_neox.layers if family == "gpt_neox" else model.model.layers


def reference_vectors(family: str, model, tokenizer, pairs) -> torch.Tensor:
    """Mean of (matching - other) block outputs at the letter; no batch, no cache, a forward hook a block. [L, D]"""
    layers = block_list(family, model)
    total = torch.zeros(len(layers), 32, dtype=torch.float64)
    for pair in pairs:
        for answer, sign in ((pair.matching, 1), (pair.other, -1)):
            chat = [{"role": "user", "content": pair.question}, {"role": "assistant", "content": answer}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            twin = pair.other if answer == pair.matching else pair.matching
            other = tokenizer(text[: -len(answer)] + twin, add_special_tokens=False)["input_ids"]
            letter = next(i for i, (a, b) in enumerate(zip(ids, other, strict=True)) if a != b)
            outputs = []
            hooks = [
                layer.register_forward_hook(
                    lambda _m, _a, out, kept=outputs: kept.append(out[0] if isinstance(out, tuple) else out)
                )
                for layer in layers
            ]
            with torch.no_grad():
                model(torch.tensor([ids]), use_cache=False)
            for hook in hooks:
                hook.remove()
            for number, output in enumerate(outputs):
                total[number] += sign * output[0, letter].double()
    return (total / len(pairs)).float()


def reference_logits(family: str, model, prompt, *, layer: int, delta: torch.Tensor) -> torch.Tensor:
    """Last-position logits of one prompt with `delta` added at every position from the first steered one on."""

    def add(_module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[:, prompt.first_position :] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = block_list(family, model)[layer].register_forward_hook(add)
    with torch.no_grad():
        logits = model(torch.tensor([prompt.ids]), use_cache=False).logits[0, -1]
    hook.remove()
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_and_steered_logits_equal_the_reference(family, behavior):
    tokenizer = chatml_tokenizer()
    net = model(family, len(tokenizer))
    caa = CAA()
    caa.fit(net, tokenizer, behavior.pairs())
    expected = reference_vectors(family, net, tokenizer, behavior.pairs())
    assert expected.norm(dim=-1).min() > 0.01
    # absolute up to norm 1, relative to the layer's own norm above: fp32 has 7 digits, and these weights are large
    assert ((caa.vectors - expected).abs().amax(-1) / expected.norm(dim=-1).clamp(min=1)).max() < 1e-6
    prompts = [
        choice_prompt(tokenizer, [{"role": "user", "content": item.question}], "AB") for item in behavior.test[:4]
    ]
    conditions = [Condition(layer=layer, multiplier=m) for layer in range(3) for m in (-2.0, 1.0)]
    scores = score(net, prompts, [caa.edits(condition) for condition in conditions])
    for n, prompt in enumerate(prompts):
        for c, condition in enumerate(conditions):
            delta = condition.multiplier * expected[condition.layer]
            full = reference_logits(family, net, prompt, layer=condition.layer, delta=delta)
            assert (scores.logits[n, c] - full[list(prompt.candidates)]).abs().max() < 1e-5
            assert abs(scores.log_z[n, c] - full.logsumexp(-1)) < 1e-5


def test_with_the_llama_2_tokenizer_the_letter_is_its_own_token_and_two_positions_are_steered(behavior):
    tokenizer = llama2_tokenizer()
    net = model("llama", 32000)
    caa = CAA()
    caa.fit(net, tokenizer, behavior.pairs())
    item = behavior.test[0]
    prompt = choice_prompt(tokenizer, [{"role": "user", "content": item.question}], "AB")
    assert list(prompt.ids[prompt.first_position :]) == [29962, 313]  # `]` and ` (`
    layer = 1
    full = reference_logits("llama", net, prompt, layer=layer, delta=caa.vectors[layer])
    edits = caa.edits(Condition(layer=layer, multiplier=1))
    assert (score(net, [prompt], [edits]).logits[0, 0] - full[[29909, 29933]]).abs().max() < 1e-5


def test_the_vector_of_another_layer_or_behavior_can_be_applied(behavior):
    tokenizer = chatml_tokenizer()
    net = model("llama", len(tokenizer))
    plain, other = CAA(), CAA(CAA.Config(vector_behavior="other", vector_layer=2))
    plain.fit(net, tokenizer, behavior.pairs().of("other"))
    other.fit(net, tokenizer, behavior.pairs())
    (edit,) = other.edits(Condition(layer=0, multiplier=2))
    assert edit.layer == 0
    assert torch.equal(edit.change.delta, 2 * plain.vectors[2])
    source = other.source(Condition(layer=0), behavior="small")
    assert (source.behavior, source.layer) == ("other", 2)


def raw_vectors(net, tokenizer, behavior):
    """Each of the two behaviors' own vector."""
    raw = {name: CAA() for name in ("small", "other")}
    for name, caa in raw.items():
        caa.fit(net, tokenizer, behavior.pairs().of(name))
    return raw


def test_normalized_vectors_have_the_mean_norm_of_the_named_behaviors(behavior):
    tokenizer = chatml_tokenizer()
    net = model("llama", len(tokenizer))
    raw = raw_vectors(net, tokenizer, behavior)
    caa = CAA(CAA.Config(normalize=("small", "other")))
    caa.fit(net, tokenizer, behavior.pairs())
    norms = {name: one.vectors.norm(dim=-1) for name, one in raw.items()}
    assert torch.allclose(caa.vectors.norm(dim=-1), (norms["small"] + norms["other"]) / 2, rtol=1e-5)
    assert torch.cosine_similarity(caa.vectors, raw["small"].vectors).min() > 1 - 1e-6
    assert caa.learned_from(behavior.pairs()).keys() == {"small", "other"}


def test_bf16_activations_are_averaged_in_double(tmp_path):
    """The mean of bf16 differences keeps more digits than bf16 has."""
    steps = torch.tensor([1.0, 1.0078125, 1.0]).bfloat16().float()
    path = tmp_path / "activations.f32"
    path.write_bytes(torch.stack([steps, torch.zeros(3)], dim=1).numpy().tobytes())
    activations = PairActivations(path, places=range(3), layers=1, hidden=1)
    assert activations.mean_difference().item() == pytest.approx(1.0026041666, abs=1e-7)


def test_activations_on_the_disk_are_those_of_one_pass(behavior):
    """Read in any batches and mixed order, each pair stands where it belongs; resamples and signs as with tensors."""
    tokenizer, pairs = chatml_tokenizer(), behavior.pairs()
    net = model("llama", len(tokenizer))
    sides = letter_sides(net, tokenizer, pairs)
    found = read_activations(net, tokenizer, pairs, batch_size=5)
    assert found.shape == tuple(sides.shape)
    for layer in range(3):
        for side in (0, 1):
            torch.testing.assert_close(torch.from_numpy(found.layer(layer, side)), sides[:, side, layer], **CLOSE)
    differences = (sides[:, 0] - sides[:, 1]).double()
    rows, signs = [0, 0, 5], [(-1.0) ** n for n in range(len(pairs))]
    torch.testing.assert_close(found.mean_difference(rows=rows).double(), differences[rows].mean(0), **CLOSE)
    turned = differences * torch.tensor(signs)[:, None, None]
    torch.testing.assert_close(found.mean_difference(signs=signs).double(), turned.mean(0), **CLOSE)


def test_a_fit_says_how_far_its_pairs_agree_and_the_artifact_keeps_it(behavior, tmp_path):
    """The numbers of the plain activations, items left out as a whole; equal bytes from an equal fit."""
    tokenizer = chatml_tokenizer()
    net = model("llama", len(tokenizer))
    pairs = behavior.pairs()
    sides = letter_sides(net, tokenizer, pairs).numpy()
    of_pairs = {"clusters": [pair.item for pair in pairs], "keys": [pair.matching for pair in pairs]}
    wanted = vector_diagnostics(sides[:, 0], sides[:, 1], **of_pairs)
    for name in ("one", "two"):
        caa = CAA()
        caa.fit(net, tokenizer, pairs)
        caa.save_pretrained(tmp_path / name)
    pd.testing.assert_frame_equal(from_lines(caa.diagnostics), wanted, rtol=1e-5, check_dtype=False)
    assert wanted["n_clusters"].eq(12).all() and wanted["agreement_low"].notna().all()
    assert wanted["norm"].tolist() == pytest.approx(caa.vectors.norm(dim=-1).tolist(), rel=1e-5)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert CAA.from_pretrained(tmp_path / "one").diagnostics == caa.diagnostics


def test_an_artifact_of_before_has_none_and_a_strange_one_is_refused(behavior, tmp_path):
    vectors = {"vectors": torch.ones(3, 32)}
    write_artifact(tmp_path / "older", tensors=vectors, meta={"settings": CAA().settings()})
    assert list(CAA.from_pretrained(tmp_path / "older").diagnostics) == []
    write_artifact(tmp_path / "odd", tensors=vectors, meta={"settings": CAA().settings(), "diagnostics": ["x"]})
    with pytest.raises(UserError, match="odd: its diagnostics are no list of layers; delete the folder"):
        CAA.from_pretrained(tmp_path / "odd")


def test_diagnostics_are_those_of_the_vector_s_own_raw_pairs(behavior):
    """Of another behavior where it is taken from there; normalizing changes the length alone; placebos have none."""
    tokenizer = chatml_tokenizer()
    net = model("llama", len(tokenizer))
    raw = raw_vectors(net, tokenizer, behavior)
    taken, rescaled = CAA(CAA.Config(vector_behavior="other")), CAA(CAA.Config(normalize=("small", "other")))
    for caa in (taken, rescaled):
        caa.fit(net, tokenizer, behavior.pairs())
    assert taken.diagnostics == raw["other"].diagnostics
    norms = [line["norm"] for line in rescaled.diagnostics]
    assert norms == pytest.approx(rescaled.vectors.norm(dim=-1).tolist(), rel=1e-5)
    own = from_lines(raw["small"].diagnostics).drop(columns="norm")
    pd.testing.assert_frame_equal(from_lines(rescaled.diagnostics).drop(columns="norm"), own)
    for placebo in (RandomDirection(original=rescaled), ShuffledLabels(original=raw["small"])):
        placebo.fit(net, tokenizer, behavior.pairs())
        assert not placebo.diagnostics
