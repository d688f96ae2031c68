"""Vectors from elsewhere: another model's, another layer's, and the raw vectors that a normalization is made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer, llama2_tokenizer
from random_models import random_model
from safetensors.torch import load_file
from small_behavior import write_behavior

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, ShuffledLabels
from caa_bench.models.model import ChatModel
from caa_bench.recipe import load_recipe

TINY = {"layers": 3, "hidden": 32}


def write_model(folder: Path, *, seed: int, **shape: int) -> Path:
    tokenizer = chatml_tokenizer()
    random_model("llama", vocab=len(tokenizer), seed=seed, **(TINY | shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transfer")
    return {
        "chat": write_model(root / "chat", seed=0),
        "base": write_model(root / "base", seed=1),
        "wide": write_model(root / "wide", seed=2, hidden=64),
        "small": write_behavior(root / "behaviors" / "small", train=8, test=2),
        "other": write_behavior(root / "behaviors" / "other", train=6, test=2),
        "runs": root / "runs",
    }


def plain_vectors(model: Path, behavior: Path) -> torch.Tensor:
    chat, caa = ChatModel.find(str(model)), CAA()
    caa.fit(chat.model, chat.tokenizer, load_behavior(behavior).pairs())
    return caa.fitted()


def compare(folders: dict[str, Path], *more: str) -> int:
    paths = [f"model={folders['chat']}", f"behavior={folders['small']}", f"output_dir={folders['runs']}"]
    few = ["bases=[none]", "vectors=[caa, random]", "report_to=[]", "draws=9", "caa.layers=all", "random.draws=2"]
    return main(["fit", *paths, *few, *more])


def kept(folders: dict[str, Path], label: str) -> dict[str, torch.Tensor]:
    """Vectors of every kept artifact of a label, by folder name."""
    made = [path for path in (folders["runs"] / "artifacts").glob(f"{label}-*") if path.is_dir()]
    return {path.name: load_file(path / "tensors.safetensors")["vectors"] for path in made}


def test_another_models_vector_is_fitted_there_kept_and_that_model_freed(folders, monkeypatch) -> None:
    freed: list[str] = []
    real = ChatModel.free
    monkeypatch.setattr(ChatModel, "free", lambda self: freed.append(self.name) or real(self))
    assert compare(folders, f"caa.vector_model={folders['base']}") == 0
    expected = plain_vectors(folders["base"], folders["small"])
    found = kept(folders, "caa")
    assert len(found) == 2  # the base model's own raw vector, and the one that is applied: the same numbers
    assert all(torch.equal(vectors, expected) for vectors in found.values())
    assert str(folders["base"]) in freed and str(folders["chat"]) not in freed
    for placebo in kept(folders, "random").values():
        assert torch.allclose(placebo.norm(dim=-1), expected.norm(dim=-1), rtol=1e-5)
    freed.clear()
    assert compare(folders, f"caa.vector_model={folders['base']}") == 0  # all of it is there: nothing loaded or fitted
    assert freed == [] and len(kept(folders, "caa")) == 2


def test_the_other_models_weights_are_part_of_the_key(folders, tmp_path) -> None:
    base = write_model(tmp_path / "base", seed=1)
    runs = {"runs": tmp_path / "runs"}
    assert compare(folders | runs, f"caa.vector_model={base}") == 0
    before = kept(folders | runs, "caa").keys() | kept(folders | runs, "random").keys()
    write_model(base, seed=5)
    assert compare(folders | runs, f"caa.vector_model={base}") == 0
    after = kept(folders | runs, "caa").keys() | kept(folders | runs, "random").keys()
    assert len(after - before) == 2 + 2  # raw, applied, and the placebo's draws, which have its norm


def test_a_transferred_vector_says_where_it_comes_from(folders) -> None:
    caa = CAA(CAA.Config(vector_model="llama2-7b-base", vector_layer=1))
    source = caa.source(Condition(layer=2), behavior="small")
    assert (source.model, source.layer, source.behavior) == ("llama2-7b-base", 1, "small")
    assert compare(folders, f"caa.vector_model={folders['base']}", "caa.vector_layer=1") == 0


def test_a_transferred_vector_keeps_how_far_the_other_model_s_pairs_agree(folders) -> None:
    """But not how long that model's activations are, which says nothing of a dose in the measured one."""
    assert compare(folders, f"caa.vector_model={folders['base']}") == 0
    metas = [
        json.loads(path.read_text())["meta"] for path in (folders["runs"] / "artifacts").glob("caa-*/artifact.json")
    ]
    raw = next(meta for meta in metas if not meta["settings"]["vector_model"])["diagnostics"]
    taken = next(meta for meta in metas if meta["settings"]["vector_model"])["diagnostics"]
    assert [line | {"residual_norm": None} for line in raw] == taken
    assert all(line["residual_norm"] > 0 for line in raw)


def test_shuffled_labels_of_a_transferred_vector_are_read_in_the_other_model_too(folders) -> None:
    chat, pairs = ChatModel.find(str(folders["chat"])), load_behavior(folders["small"]).pairs()
    found = []
    for name in ("base", ""):
        original = CAA(CAA.Config(vector_model=str(folders[name]) if name else ""))
        reader = chat if name else ChatModel.find(str(folders["base"]))
        original.fit(reader.model, reader.tokenizer, pairs)
        shuffled = ShuffledLabels(original=original)
        shuffled.fit(reader.model, reader.tokenizer, pairs)
        found.append(shuffled.fitted())
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-model", "caa.vector_model: 'no-such-model' is unknown; use one of"),
        ("wide", "has 3 layers of width 64, the measured model 3 of width 32; name a model of the same shape"),
    ],
)
def test_a_model_that_cannot_give_the_vector_is_one_line(name, said, folders, capsys) -> None:
    assert compare(folders, f"caa.vector_model={folders.get(name, name)}") == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("caa-bench: ")]
    assert said in line


def test_a_vector_of_another_shape_is_refused_by_fit_itself(folders) -> None:
    chat, caa = ChatModel.find(str(folders["chat"])), CAA(CAA.Config(vector_model=str(folders["wide"])))
    with pytest.raises(UserError, match="name a model of the same shape"):
        caa.fit(chat.model, chat.tokenizer, load_behavior(folders["small"]).pairs())


def test_raw_vectors_of_a_normalization_are_kept_once_for_all_behaviors(folders, tmp_path) -> None:
    """Seven behaviors normalized over seven read 7 x the pairs, not 49 x."""
    runs = {"runs": tmp_path / "runs"}
    assert compare(folders | runs, "caa.normalize=[small, other]", "vectors=[caa]") == 0
    first = kept(folders | runs, "caa")
    settings = [f"behavior={folders['other']}", "caa.normalize=[small, other]", "vectors=[caa]"]
    assert compare(folders | runs, *settings) == 0
    second = kept(folders | runs, "caa")
    assert (len(first), len(second)) == (3, 4)
    raw = {name: plain_vectors(folders["chat"], folders[name]) for name in ("small", "other")}
    mean = torch.stack([vectors.norm(dim=-1) for vectors in raw.values()]).mean(0)
    (normalized,) = (vectors for name, vectors in second.items() if name not in first)
    assert torch.allclose(normalized.norm(dim=-1), mean, rtol=1e-5)
    assert torch.cosine_similarity(normalized, raw["other"]).min() > 1 - 1e-6


def test_a_second_fit_forgets_the_first_ones_ingredients(folders) -> None:
    pairs = load_behavior(folders["small"]).pairs()
    caa = CAA(CAA.Config(normalize=("small", "other")))
    said = []
    for name in ("base", "chat"):
        chat = ChatModel.find(str(folders[name]))
        caa.fit(chat.model, chat.tokenizer, pairs)
        said.append(caa.fitted())
    assert torch.cosine_similarity(said[1], plain_vectors(folders["chat"], folders["small"])).min() > 1 - 1e-6
    assert torch.cosine_similarity(*said).max() < 0.9


def test_transfer_recipes_say_what_they_are() -> None:
    base, layer = load_recipe("base_to_chat_transfer"), load_recipe("layer_transfer")
    assert base.sections["caa"].vector_model == "llama2-7b-base" and base.model == "llama2-7b-chat"
    assert layer.sections["caa"].vector_layer == 13
    for recipe in (base, layer, load_recipe("paper_sweep")):
        assert (recipe.sections["caa"].layers, recipe.sections["caa"].multipliers) == ("all", (-1.0, 1.0))
        assert (recipe.args.protocol, recipe.args.data, recipe.args.bases) == ("caa", "caa", ("none",))


def test_the_base_model_reads_the_papers_plain_prompt() -> None:
    """The vectors of base-to-chat transfer come from `Input: ... Response: (A)`, without [INST]."""
    tokenizer = llama2_tokenizer(template=None)
    loading = ChatModel.find("llama2-7b-base").loading
    from caa_bench.models.prompts import choice_prompt
    from caa_bench.models.templates import apply_template

    apply_template(tokenizer, loading.template)
    prompt = choice_prompt(tokenizer, [{"role": "user", "content": "Why?"}], "AB")
    assert tokenizer.decode(prompt.ids) == "<s> Input: Why?\nResponse: ("


def test_the_manifest_names_the_vectors_model(folders, tmp_path) -> None:
    paths = [f"model={folders['chat']}", f"behavior={folders['small']}", f"output_dir={tmp_path}"]
    few = ["bases=[none]", "vectors=[caa]", "report_to=[]", "draws=9", f"caa.vector_model={folders['base']}"]
    assert main(["compare", *paths, *few]) == 0
    (manifest,) = tmp_path.glob("*/*/manifest.json")
    cells = json.loads(manifest.read_text())["facts"]["cells"]
    assert {(cell["vector"], cell["vector_model"]) for cell in cells} == {("", ""), ("caa", str(folders["base"]))}
    table = (manifest.parent / "cells.csv").read_text().splitlines()
    assert "vector_model" in table[0] and str(folders["base"]) in table[-1]
