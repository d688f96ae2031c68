"""Each method against a plain reimplementation of its paper, and the probes and components against scikit-learn.

Shares nothing with the methods but `letter_activations`, which tests/test_caa.py holds against plain forwards.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from small_behavior import write_behavior

from caa_bench.behaviors.behavior import Pairs, load_behavior
from caa_bench.engine.capture import letter_activations
from caa_bench.engine.changes import AddKeepingNorm
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, registry
from caa_bench.interventions.principal import first_component
from caa_bench.interventions.probes import fit_probe
from caa_bench.interventions.vectors import letter_prompts


@cache
def tokenizer():
    return chatml_tokenizer()


@cache
def model():
    return random_model("llama", layers=3, hidden=32, vocab=len(tokenizer()))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return load_behavior(write_behavior(tmp_path_factory.mktemp("behaviors") / "small")).pairs()


@pytest.fixture(scope="module")
def sides(pairs) -> np.ndarray:
    """[P, 2, L, D]"""
    return letter_activations(model(), letter_prompts(tokenizer(), pairs)).double().numpy()


def fitted(name: str, pairs: Pairs, **settings) -> np.ndarray:
    arm = registry()[name](norm="own", **settings)
    arm.fit(model(), tokenizer(), pairs)
    return arm.fitted().double().numpy()


def same_direction(found: np.ndarray, expected: np.ndarray, least: float = 1 - 1e-5) -> bool:
    """With the sign, in every layer."""
    both = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return bool(((found * expected).sum(-1) / both > least).all())


def signed(direction: np.ndarray, differences: np.ndarray) -> np.ndarray:
    return direction * np.sign((differences @ direction).mean())


def test_repe_pca(pairs, sides) -> None:
    """sklearn's PCA of the differences in both orders: their mean is then 0 and PCA's own centering takes nothing."""
    differences = sides[:, 0] - sides[:, 1]
    expected = [
        signed(PCA(1).fit(np.concatenate([one, -one])).components_[0], one) for one in differences.transpose(1, 0, 2)
    ]
    assert same_direction(fitted("repe_pca", pairs), np.stack(expected))


def test_pca_centred(pairs, sides) -> None:
    expected = [
        signed(PCA(1).fit(np.concatenate([one[:, 0], one[:, 1]])).components_[0], one[:, 0] - one[:, 1])
        for one in sides.transpose(2, 0, 1, 3)
    ]
    assert same_direction(fitted("pca_centred", pairs), np.stack(expected))


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_logistic(pairs, sides, strength) -> None:
    labels = np.repeat([1, 0], len(sides))
    expected = [
        LogisticRegression(C=strength, tol=1e-10, max_iter=20000)
        .fit(np.concatenate([x[:, 0], x[:, 1]]), labels)
        .coef_[0]
        for x in sides.transpose(2, 0, 1, 3)
    ]
    found = fitted("logistic", pairs, inverse_penalty=strength)
    assert same_direction(found, np.stack(expected), 0.9999)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), np.linalg.norm(expected, axis=-1), rtol=5e-3)


@pytest.mark.parametrize("shape", [(40, 6), (20, 50)])
def test_a_probe_is_sklearn_s_also_with_more_features_than_rows(shape) -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=shape) + 3
    first = draw.random(shape[0]) < 1 / (1 + np.exp(-(rows[:, 0] - 3) * 2))
    found, known = fit_probe(rows, first, inverse_penalty=0.7), LogisticRegression(C=0.7, tol=1e-12, max_iter=10000)
    known.fit(rows, first)
    np.testing.assert_allclose(found.weights, known.coef_[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bias, known.intercept_[0], rtol=1e-3, atol=1e-3)
    assert found.right(rows, first) == known.score(rows, first)
    with pytest.raises(ValueError, match="both classes"):
        fit_probe(rows, np.ones(shape[0], dtype=bool))


def test_mean_centring(pairs, sides) -> None:
    """Without a background it is half of CAA's vector; with one the matching mean less the background's."""
    half = (sides[:, 0].mean(0) - sides[:, 1].mean(0)) / 2
    np.testing.assert_allclose(fitted("mean_centring", pairs), half, atol=1e-5)
    other = load_behavior(write_behavior(pairs.source.beside / "far", train=6)).pairs()
    behind = letter_activations(model(), letter_prompts(tokenizer(), other)).double().numpy().mean((0, 1))
    found = fitted("mean_centring", pairs, background=["far"])
    np.testing.assert_allclose(found, sides[:, 0].mean(0) - behind, atol=1e-5)


def test_icv(pairs, sides) -> None:
    """The component of the items' differences, all layers side by side, as long as the mean difference is along it."""
    each = (sides[:, 0] - sides[:, 1]).reshape(len(sides), -1)
    names = [pair.item for pair in pairs]
    flat = np.stack([each[[n for n, own in enumerate(names) if own == item]].mean(0) for item in dict.fromkeys(names)])
    assert len(flat) == len(each) / 2, "each item stands in both orders"
    component = np.linalg.svd(flat, full_matrices=False)[2][0]
    expected = ((flat @ component).mean() * component).reshape(sides.shape[2:])
    np.testing.assert_allclose(fitted("icv", pairs), expected, atol=1e-5)
    state, delta = torch.randn(4, 5, 8), torch.randn(8)
    moved = AddKeepingNorm(delta)(state)
    torch.testing.assert_close(moved.norm(dim=-1), state.norm(dim=-1))
    torch.testing.assert_close(torch.cosine_similarity(moved, state + delta, dim=-1), torch.ones(4, 5))
    assert torch.equal(AddKeepingNorm(torch.zeros(8))(torch.zeros(2, 8)), torch.zeros(2, 8))


def test_iti(pairs) -> None:
    """Heads read by plain hooks one prompt at a time; shift = alpha x spread along the mean shift; the best share."""
    arm = registry()["iti"](share=0.25, alpha=2.0)
    arm.fit(model(), tokenizer(), pairs)
    heads = np.zeros((len(pairs), 2, 3, 32))
    for n, prompt in enumerate(letter_prompts(tokenizer(), pairs)):
        for side in (0, 1):
            kept: list[np.ndarray] = []
            hooks = [
                block.self_attn.o_proj.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0][0, -1]))
                for block in model().model.layers
            ]
            with torch.no_grad():
                model()(torch.tensor([[*prompt.ids, prompt.candidates[side]]]))
            for hook in hooks:
                hook.remove()
            heads[n, side] = torch.stack(kept).numpy()
    heads = heads.reshape(len(pairs), 2, 3, 4, 8)
    gap = heads[:, 0].mean(0) - heads[:, 1].mean(0)
    unit = gap / np.linalg.norm(gap, axis=-1, keepdims=True)
    spread = (heads * unit).sum(-1).std(axis=(0, 1))
    expected = 2.0 * spread[..., None] * unit
    found = arm.fitted().view(3, 4, 8).numpy()
    chosen = np.abs(found).sum(-1) > 0
    assert chosen.sum() == 3
    accuracy = arm.beside["accuracy"].numpy()
    assert accuracy[chosen].min() >= accuracy[~chosen].max()
    np.testing.assert_allclose(found[chosen], expected[chosen], atol=1e-5)


def test_activation_addition(pairs) -> None:
    """Position by position: plain forwards of the texts, and the sum of the edits that hold at each position."""
    arm = registry()["act_add"](norm="own", items=3, tokens=5)
    arm.fit(model(), tokenizer(), pairs)
    first = {}
    for pair in pairs:
        first.setdefault(pair.item, pair)
    begin = letter_prompts(tokenizer(), pairs)[0].ids[0]
    expected = np.zeros((3, 6, 32))
    for pair in list(first.values())[:3]:
        ids = [
            tokenizer()(text, add_special_tokens=False)["input_ids"] for text in (pair.matching_text, pair.other_text)
        ]
        blank = tokenizer()(" ", add_special_tokens=False)["input_ids"][-1]
        longest = max(map(len, ids))
        states = []
        for own in ids:
            with torch.no_grad():
                tokens = torch.tensor([[begin, *own, *[blank] * (longest - len(own))]])
                said = model()(tokens, output_hidden_states=True)
            # the last of hidden_states is behind the final norm, so the last block is left out
            states.append(torch.stack(said.hidden_states[1:-1])[:, 0, :6].numpy())
        width = states[0].shape[1]
        expected[:2, :width] += (states[0] - states[1]) / 3
    np.testing.assert_allclose(arm.fitted()[:2].numpy(), expected[:2], atol=1e-5)
    at = torch.zeros(8, 32)
    for edit in arm.edits(Condition(layer=1, multiplier=2.0)):
        at[: int(edit.positions.removeprefix("first:"))] += edit.change.delta
    np.testing.assert_allclose(at[:6].numpy(), 2 * expected[1], atol=1e-5)
    assert not at[6:].any()
    assert not arm.fitted()[:, 0].any(), "every prompt's first token stays"


def test_one_multiplier_is_one_dose(pairs) -> None:
    """`norm: caa`: as long as CAA's vector in every layer, whatever the method's own length."""
    caa = CAA()
    caa.fit(model(), tokenizer(), pairs)
    for name in ("repe_pca", "pca_centred", "logistic", "mean_centring"):
        arm = registry()[name]()
        arm.fit(model(), tokenizer(), pairs)
        torch.testing.assert_close(arm.fitted().norm(dim=-1), caa.fitted().norm(dim=-1))
        own = fitted(name, pairs)
        assert same_direction(own, arm.fitted().double().numpy())
        assert [line["norm"] for line in arm.diagnostics] == pytest.approx(caa.fitted().norm(dim=-1).tolist(), rel=1e-5)
        assert [line["residual_norm"] for line in arm.diagnostics] == [
            line["residual_norm"] for line in caa.diagnostics
        ]


def test_a_component_of_nothing_is_no_direction() -> None:
    assert np.isnan(first_component(np.zeros((4, 3)))).all()
    np.testing.assert_allclose(np.abs(first_component(np.array([[3.0, 4.0, 0.0]]))), [0.6, 0.8, 0.0])


def test_a_vector_file_in_each_form(pairs, tmp_path: Path) -> None:
    """Our own artifact, one tensor a layer, and a GGUF control vector, whose direction.N is added behind block N."""
    from safetensors.torch import save_file

    caa = CAA()
    caa.fit(model(), tokenizer(), pairs)
    caa.save_pretrained(tmp_path / "own")
    save_file({f"layer.{n}": caa.fitted()[n].clone() for n in (1, 2)}, tmp_path / "each.safetensors")
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "cv.gguf", "controlvector")
    for n in (1, 2):
        writer.add_tensor(f"direction.{n}", caa.fitted()[n].numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    for name, layers in (("own", 3), ("each.safetensors", 2), ("cv.gguf", 2)):
        arm = registry()["vector_file"](path=str(tmp_path / name))
        arm.fit(model(), tokenizer(), pairs)
        assert torch.equal(arm.fitted()[-2:], caa.fitted()[-2:])
        assert int((arm.fitted().norm(dim=-1) > 0).sum()) == layers
    from caa_bench.models.layers import Layers

    arm = registry()["vector_file"](path=str(tmp_path / "cv.gguf"), layers=[0])
    assert arm.check(Layers(count=3, default=1, hidden=32)) == [
        "vector_file.layers: the file has no vector for layer 0; it has 1, 2"
    ]
    assert arm.check(Layers(count=3, default=1, hidden=64)) == [
        "vector_file.path: its vectors have width 32, the model 64"
    ]


def test_bipo(pairs) -> None:
    """Its gradient is autograd's through plain forwards of whole prompts, and its vector raises what it is to raise."""
    from caa_bench.engine.changes import Add
    from caa_bench.engine.edit import Edit
    from caa_bench.engine.score import score
    from caa_bench.interventions.bipo import _gradient

    prompts = letter_prompts(tokenizer(), pairs)[:4]
    vectors = 0.3 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    want = torch.tensor([0.5, -0.5, 0.5, 0.5])
    found = _gradient(model(), prompts, vectors=vectors, want=want)
    for layer in range(3):
        vector, total = vectors[layer].clone().requires_grad_(), torch.zeros(())
        for prompt, weight in zip(prompts, want, strict=True):
            odds = []
            for added in (vector, torch.zeros(32)):
                behind = torch.arange(len(prompt.ids))[None, :, None] >= prompt.first_position
                hook = (
                    model()
                    .model.layers[layer]
                    .register_forward_hook(
                        lambda _m, _a, out, added=added, behind=behind: out + torch.where(behind, added, 0.0)
                    )
                )
                said = model()(torch.tensor([prompt.ids])).logits[0, -1]
                hook.remove()
                odds.append(said[prompt.candidates[0]] - said[prompt.candidates[1]])
            total = total - torch.nn.functional.logsigmoid(weight * (odds[0] - odds[1].detach())) / len(prompts)
        (expected,) = torch.autograd.grad(total, vector)
        torch.testing.assert_close(found[layer], expected, atol=1e-6, rtol=1e-3)
    assert all(weight.grad is None and weight.requires_grad for weight in model().parameters())
    arm = registry()["bipo"](seed=1, norm="own", epochs=6)
    arm.fit(model(), tokenizer(), pairs)
    prompts = letter_prompts(tokenizer(), pairs)
    for layer in (0, 1):  # behind the last block one vector moves A against B alike, whichever of them matches
        away, plain, toward = (
            float((logits[:, 0] - logits[:, 1]).mean())
            for logits in score(
                model(), prompts, [[Edit(layer, Add(m * arm.fitted()[layer]))] for m in (-1.0, 0.0, 1.0)]
            ).logits.unbind(1)
        )
        assert away < plain - 0.05 < plain + 0.05 < toward
    again = registry()["bipo"](seed=1, norm="own", epochs=6)
    again.fit(model(), tokenizer(), pairs)
    assert torch.equal(again.fitted(), arm.fitted()), "the same seed, the same vector"


def test_a_feature_of_a_sparse_autoencoder(pairs, tmp_path: Path) -> None:
    """One row of the decoder's matrix, whichever way it lies, at the layer that is named; mistakes are one line."""
    from safetensors.torch import save_file

    from caa_bench.models.layers import Layers

    decoder = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    file, layers = str(tmp_path / "sae.safetensors"), Layers(count=3, default=1, hidden=32)
    save_file({"W_dec": decoder, "across": decoder.T.contiguous(), "b_dec": torch.zeros(32)}, file)
    for name in ("W_dec", "across"):
        arm = registry()["vector_file"](path=file, tensor=name, feature=7, layers=[2])
        assert arm.check(layers) == []
        arm.fit(model(), tokenizer(), pairs)
        (edit,) = arm.edits(Condition(layer=2, multiplier=3.0))
        assert edit.layer == 2
        torch.testing.assert_close(edit.change.delta, 3 * decoder[7])
    as_long = registry()["vector_file"](path=file, tensor="W_dec", feature=7, layers=[2], norm="caa")
    as_long.fit(model(), tokenizer(), pairs)
    caa = CAA()
    caa.fit(model(), tokenizer(), pairs)
    torch.testing.assert_close(as_long.fitted().norm(dim=-1), caa.fitted().norm(dim=-1))
    wrong = {
        ("W_enc", 7): "vector_file.tensor: the file has no W_enc; it has W_dec, across, b_dec",
        ("W_dec", 50): "vector_file.feature: 50 is not there; W_dec has features 0 to 49",
        ("b_dec", 0): "vector_file.tensor: b_dec has shape [32], which holds no directions of width 32",
    }
    for (tensor, feature), line in wrong.items():
        arm = registry()["vector_file"](path=file, tensor=tensor, feature=feature)
        assert [said.replace("b_dec, W_dec, across", "W_dec, across, b_dec") for said in arm.check(layers)] == [line]
    with pytest.raises(UserError, match="a matrix \\(tensor\\) and one of its features belong together"):
        registry()["vector_file"](path=file, tensor="W_dec")
