"""`export` for other tools: each of them that is installed steers with the file as this project does."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import Small, run

import caa_bench
from caa_bench import CAA, UserError
from caa_bench.__main__ import main
from caa_bench.commands.interchange import write_interchange
from caa_bench.engine.easysteer import read_steering
from caa_bench.engine.steer import steered
from caa_bench.interventions import registry
from caa_bench.interventions.vector_file import read_rows

LAYER = 1


@pytest.fixture(scope="module")
def exported(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that other tools read, of a run of seconds."""
    folder = tmp_path_factory.mktemp("export")
    settings = ["bases=[none]", "vectors=[caa, random]", "random.draws=1", f"caa.layers=[{LAYER}]", "limit=4"]
    assert run(small.compare(*settings), folder=folder) == 0
    assert run(["export", "run", "out"], folder=folder) == 0
    said = (folder / "stdout.txt").read_text()
    assert "layer 1 for other tools: out/for_other_tools/caa (" in said
    assert [path.name for path in (folder / "out/for_other_tools").iterdir()] == ["caa"], "no placebo"
    return folder / "out" / "for_other_tools" / "caa"


@pytest.fixture(scope="module")
def chat(small: Small) -> caa_bench.ChatModel:
    """The model that it was fitted on."""
    return caa_bench.ChatModel.find(str(small.model))


def logits(chat: caa_bench.ChatModel, ids: tuple[int, ...] = (7,)) -> torch.Tensor:
    """Of one token, where "from the last token on" and "everywhere" are the same."""
    with torch.no_grad():
        return chat.model(input_ids=torch.tensor([ids])).logits[0, -1]


@pytest.fixture
def ours(exported: Path, chat: caa_bench.ChatModel) -> torch.Tensor:
    """What the kept artifact gives at a dose of 4."""
    caa = CAA.from_pretrained(exported.parents[1] / "caa")
    with caa.steer(chat.model, layer=LAYER, multiplier=4.0):
        steered = logits(chat)
    assert (steered - logits(chat)).abs().max() > 1e-3
    return steered


def test_every_file_says_what_it_is(exported: Path) -> None:
    facts = json.loads((exported / "interchange.json").read_text())
    named = {
        "operation",
        "site",
        "layer",
        "layer_base",
        "positions",
        "model",
        "model_key",
        "template_key",
        "width",
        "norm",
    }
    assert named <= facts.keys() and facts["layer"] == LAYER
    assert all(tool["differs"] and tool["layers"] and tool["use"] for tool in facts["tools"].values())
    with safe_open(exported / "vector.safetensors", "pt") as file:
        assert {**file.metadata()} == {key: str(value) for key, value in facts.items() if key != "tools"}
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(exported / "control_vector.gguf").fields
    text = {name.removeprefix("caa_bench."): bytes(one.parts[one.data[0]]).decode() for name, one in fields.items()
            if name.startswith("caa_bench.")}  # fmt: skip
    assert text == {key: str(value) for key, value in facts.items() if key != "tools"}


@pytest.mark.parametrize("name", ["vector.safetensors", "control_vector.gguf"])
def test_it_reads_back_as_an_arm(name: str, exported: Path) -> None:
    if name.endswith(".gguf"):
        pytest.importorskip("gguf")
    rows = read_rows(str(exported / name))
    caa = CAA.from_pretrained(exported.parents[1] / "caa")
    assert rows.keys() == {LAYER}
    assert torch.equal(rows[LAYER], caa.fitted()[LAYER])


def test_easysteer_s_spec_steers_as_here(exported: Path, chat: caa_bench.ChatModel, ours: torch.Tensor) -> None:
    """As `caa-bench serve` reads it, which speaks EasySteer's requests; vLLM itself is not tried."""
    spec = json.loads((exported / "easysteer.json").read_text())
    assert spec["vectors"][0]["apply"] == {"prompt_positions": [-1], "generation": "all"}
    spec["vectors"][0]["scale"] = 4.0
    layers = chat.loaded_layers()
    read = read_steering(spec, layers=layers.count, hidden=layers.hidden)
    with steered(chat.model, read.edits):
        assert torch.allclose(logits(chat), ours, atol=1e-5)


def test_lm_eval_s_steered_model_steers_as_here(exported: Path, chat: caa_bench.ChatModel, ours: torch.Tensor) -> None:
    theirs = pytest.importorskip("lm_eval.models.hf_steered", reason="lm-eval is not installed")
    vector = load_file(exported / "vector.safetensors")[f"layer.{LAYER}"]
    hook = partial(theirs.SteeredModel.add, vector=vector * 4.0, head_index=None)
    with theirs.steer(chat.model, {f"layers.{LAYER}": hook}):
        assert torch.allclose(logits(chat), ours, atol=1e-5)


def test_repeng_steers_as_here(
    exported: Path, chat: caa_bench.ChatModel, ours: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "float_", np.float64, raising=False)  # its release 0.4.0 is written for numpy 1
    repeng = pytest.importorskip("repeng", reason="repeng is not installed")
    vector = repeng.ControlVector.import_gguf(exported / "control_vector.gguf")
    model = repeng.ControlModel(chat.model, [LAYER])
    try:
        model.set_control(vector, 4.0)
        assert torch.allclose(logits(chat), ours, atol=1e-5)
    finally:
        model.unwrap()


def test_steering_vectors_steers_as_here(exported: Path, chat: caa_bench.ChatModel, ours: torch.Tensor) -> None:
    theirs = pytest.importorskip("steering_vectors", reason="steering-vectors is not installed")
    vector = theirs.SteeringVector(
        {LAYER: load_file(exported / "vector.safetensors")[f"layer.{LAYER}"]}, "decoder_block"
    )
    with vector.apply(chat.model, multiplier=4.0):
        assert torch.allclose(logits(chat), ours, atol=1e-5)


def test_what_is_no_addition_is_told_so(tmp_path: Path) -> None:
    ablation = registry()["ablation"]()
    ablation.vectors = torch.ones(3, 32)
    with pytest.raises(UserError, match="not an addition to the output of block 1; no other tool has its operation"):
        write_interchange(tmp_path / "x", ablation, layer=1, model="m", model_key={})
    assert not (tmp_path / "x").exists()
    caa = CAA()
    caa.vectors = torch.ones(3, 32)
    with pytest.raises(UserError, match="not an addition to the output of block 9"):
        write_interchange(tmp_path / "x", caa, layer=9, model="m", model_key={})


def test_a_place_that_cannot_be_written_is_one_line(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = exported.parents[2] / "run"
    assert main(["export", str(run_folder), str(run_folder / "rows.jsonl" / "x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot be written (Not a directory); choose another folder")
