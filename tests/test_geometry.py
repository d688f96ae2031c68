"""`caa-bench analyze`: each number against a plain computation, text escaped, equal bytes, mistakes in a line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from conversations import conversation_text
from random_models import random_model
from small_behavior import write_behavior
from small_runs import Small

from caa_bench import CAA, Benchmark, BenchmarkArguments, RandomDirection
from caa_bench.__main__ import main
from caa_bench.geometry import analyze
from caa_bench.geometry.colored import colored_page
from caa_bench.geometry.lens import lens_table, projection_table
from caa_bench.geometry.numbers import between_table, component_table, cosine, layer_table, vector_table
from caa_bench.models.prompts import encode

RNG = np.random.default_rng(5)


def test_cosines_and_norms() -> None:
    """Parallel, opposite, orthogonal, and a zero vector, which has no direction."""
    vectors = np.array([[3.0, 4], [-6, -8], [4, -3], [0, 0]])
    assert cosine(vectors, vectors[0])[:3] == pytest.approx([1, -1, 0])
    assert np.isnan(cosine(vectors[3], vectors[0]))
    table = layer_table(vectors).pivot_table(index="layer", columns="other_layer", values="cosine", dropna=False)
    assert table.loc[0, 1] == pytest.approx(-1) and np.isnan(table.loc[3, 3])
    own = vector_table({"caa": vectors, "random": vectors[::-1]}, reference="caa").set_index(["vector", "layer"])
    assert own.loc[("caa", 1), "norm"] == 10 and own.loc[("random", 2), "cosine_with_caa"] == pytest.approx(0)
    between = between_table({"a": vectors, "b": -vectors, "c": vectors}, what="behavior")
    assert len(between) == 6 * 4
    assert between.query("behavior == 'a' and other_behavior == 'b' and layer == 0")["cosine"].item() == -1


def test_components_are_those_of_a_plain_decomposition() -> None:
    """Coordinates up to sign, shares of variance, and the sign: the matching side lies at the positive end."""
    activations = RNG.normal(size=(12, 2, 3, 7))
    activations[:, 0] += 2
    names = [f"p{i}" for i in range(12)]
    table = component_table(activations, pairs=names, letters=[("A", "B")] * 6 + [("B", "A")] * 6)
    assert len(table) == 12 * 2 * 3
    for layer in range(3):
        rows = activations[:, :, layer].reshape(24, 7)
        left, size, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
        own = table[table["layer"] == layer]
        for name, place in (("pc1", 0), ("pc2", 1)):
            assert np.allclose(own[name].abs(), np.abs(left[:, place] * size[place]), atol=1e-9)
        assert own["pc2_share"].iloc[0] == pytest.approx(size[1] ** 2 / (size**2).sum())
        assert own[own["side"] == "matching"]["pc1"].mean() > 0
    assert own[own["side"] == "other"]["letter"].tolist() == ["B"] * 6 + ["A"] * 6
    alone = component_table(activations[:1], pairs=["p"], letters=[("A", "B")])
    assert alone["pc1"].isna().all(), "one pair has no spread to speak of"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_lens_is_the_model_s_own_reading(family: str) -> None:
    """The top token is the argmax of norm and head on the vector, and the model is as it was."""
    tokenizer = chatml_tokenizer()
    model = random_model(family, layers=3, hidden=32, vocab=len(tokenizer)).eval()
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    table = lens_table(model, tokenizer, vectors, top=4)
    assert len(table) == 3 * 2 * 4
    inner = model.get_decoder()
    norm = inner.ln_f if family == "gpt2" else inner.norm
    with torch.no_grad():
        wanted = model.get_output_embeddings()(norm(vectors))
    first = table.query("direction == 'along' and rank == 1")
    assert first["token_id"].tolist() == wanted.argmax(dim=-1).tolist()
    assert not [hook for module in model.modules() for hook in module._forward_hooks.values()]


def test_the_projection_is_that_of_the_hidden_states() -> None:
    tokenizer = chatml_tokenizer()
    model = random_model("llama", layers=3, hidden=32, vocab=len(tokenizer)).eval()
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    table = projection_table(model, tokenizer, vectors, text="Would you <b>?", layer=1)
    ids = encode(tokenizer, conversation_text(tokenizer, [{"role": "user", "content": "Would you <b>?"}]))
    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
    wanted = (hidden @ vectors[1] / vectors[1].norm()).tolist()
    assert table["projection"].tolist() == pytest.approx(wanted, abs=1e-5)
    assert table["token_id"].tolist() == list(ids)


def test_colored_text_is_escaped_and_scaled_by_all_but_the_first_token() -> None:
    tokens = ["<s>", "<script>alert(1)</script>", "\n", '"&']
    table = pd.DataFrame({"position": range(4), "token": tokens, "layer": 2, "projection": [99.0, 2.0, -1.0, 0.0]})
    page = colored_page(table, title="<i>Refusal</i>")
    assert "<script" not in page and "<i>" not in page and "&lt;script&gt;" in page
    classes = re.findall(r'<span class="(\w+)"', page)
    assert classes == ["p5", "p5", "n2", "z"]
    assert "↵" in page and 'title="position 1: +2.000"' in page and "http" not in page.replace("http-equiv", "")


def benchmark(small: Small, folder: Path, behavior: Path) -> Benchmark:
    args = BenchmarkArguments(bases=("none",), report_to=(), output_dir=str(folder / "runs"))
    caa = CAA()
    return Benchmark(
        str(small.model), behavior=str(behavior), args=args, interventions=[caa, RandomDirection(original=caa)]
    )


def test_the_command_writes_every_table(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once more in another folder: the same bytes. Nothing but vectors is fitted; a map has no cosine with a vector."""
    monkeypatch.chdir(tmp_path)
    settings = small.settings("vectors=[caa, loreft, random]", "random.placebo_of=[caa]")
    assert main(["analyze", *settings, "--text", "<b>Hello</b>"]) == 0
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "runs/analyze").iterdir()
    assert "small, layer 1: norm" in said and "written to runs/analyze/small-model" in said
    names = {path.name for path in folder.iterdir()}
    assert names >= {"vectors.csv", "diagnostics.csv", "lens.csv", "text.csv", "text.html", "pca.csv", "pca.svg"}
    assert names >= {"layer_cosines.csv", "layer_cosines.svg", "layer_cosines.png"}
    assert ">&lt;</span>" in (folder / "text.html").read_text(), "one token a byte"
    table = pd.read_csv(folder / "vectors.csv").set_index(["vector", "layer"])
    assert (table.loc["random", "norm"] - table.loc["caa", "norm"]).abs().max() < 1e-5
    assert set(table.index.get_level_values("vector")) == {"caa", "random"}
    diagnostics = pd.read_csv(folder / "diagnostics.csv")
    assert diagnostics["norm"].tolist() == pytest.approx(table.loc["caa", "norm"].tolist(), rel=1e-5)
    assert {path.name.split("-")[0] for path in (tmp_path / "runs/artifacts").iterdir() if path.is_dir()} == {
        "caa", "loreft", "random",
    }  # fmt: skip
    assert main(["analyze", "--output", "again", *settings, "--text", "<b>Hello</b>"]) == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()
    }


def test_behaviors_and_models_are_compared(small: Small, tmp_path: Path) -> None:
    """Two behaviors on one model and, beside it, a second model."""
    tokenizer = chatml_tokenizer()
    other = random_model("llama", layers=3, hidden=32, vocab=len(tokenizer))
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    second = write_behavior(tmp_path / "behaviors" / "second", train=8, test=24, selection=4)
    made = [benchmark(small, tmp_path, small.behavior), benchmark(small, tmp_path, second)]
    found = analyze(made, [tmp_path / "a", tmp_path / "b"], against=str(tmp_path / "other"))
    assert [one.behavior for one in found] == ["small", "second"]
    behaviors = pd.read_csv(tmp_path / "a/behavior_cosines.csv")
    vectors = [one.vectors[0].fitted().double().numpy() for one in made]
    wanted = cosine(vectors[0], vectors[1])
    assert behaviors.query("behavior == 'small'")["cosine"].tolist() == pytest.approx(wanted.tolist())
    models = pd.read_csv(tmp_path / "b/model_cosines.csv")
    assert set(models["model"]) == {"model", "other"} and models["cosine"].abs().max() < 1


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--against", "tiny"], "--against: tiny has 6 layers of width 128, "),
        (["--against", "nonsense"], "'nonsense' is unknown"),
        (["--dry-run"], "--dry-run: analyze measures no cells"),
        (["vectors=[]"], "vectors: holds no caa vector to analyze; add caa"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], problem: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", *small.settings(), *more]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("fit ")]
    assert len(lines) == 1 and problem in lines[0]
