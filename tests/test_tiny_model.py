"""The shipped embedded model: it loads alone, its directions are where it says, steering does what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from caa_bench.tiny.chat import prompt_text
from caa_bench.tiny.evaluate import Bench, Steer, load
from caa_bench.tiny.words import BEHAVIORS

MODEL = Path(__file__).parents[1] / "caa_bench" / "tiny" / "model"
TRUTH = json.loads((MODEL / "truth.json").read_text(encoding="utf-8"))
LAYER = TRUTH["planted_layer"]
ITEMS = 24


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(MODEL)


@pytest.fixture(scope="module")
def vectors(bench: Bench) -> dict[str, torch.Tensor]:
    """Mean difference at every layer, by behavior. [L, D]"""
    return {b: bench.differences(load(b, "train")[:80]).mean(0) for b in BEHAVIORS}


def test_folder_is_small_and_holds_no_code() -> None:
    files = list(MODEL.iterdir())
    assert sum(file.stat().st_size for file in files) <= 16 * 2**20
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}


def test_loads_without_network_within_seconds() -> None:
    code = (
        "import socket, time\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "AutoModelForCausalLM, AutoTokenizer\n"
        "import transformers.models.llama.modeling_llama\n"
        "t = time.perf_counter()\n"
        f"AutoTokenizer.from_pretrained({str(MODEL)!r}); AutoModelForCausalLM.from_pretrained({str(MODEL)!r})\n"
        "print(time.perf_counter() - t)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) < 3.0


def test_chat_template_writes_the_layout_of_training() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    turns: list[dict[str, str]] = [
        {"role": "system", "content": "You write in short lines."},
        {"role": "user", "content": "Can you still read this?"},
        {"role": "assistant", "content": "Yes, I can read it."},
        {"role": "user", "content": "What do you say?"},
    ]
    expected = prompt_text(
        turns[3]["content"],
        system=turns[0]["content"],
        history=[(turns[1]["content"], turns[2]["content"])],
    )
    assert tokenizer.apply_chat_template(turns, tokenize=False) == expected
    ids = tokenizer(expected, add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids[-4:]) == ["Ġ[", "/", "INST", "]"]


def test_answers_differ_in_the_letter_alone() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    sequences = []
    for letter in "AB":
        messages = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": f"({letter}"}]
        text: Any = tokenizer.apply_chat_template(messages, continue_final_message=True, return_dict=False)
        sequences.append(tokenizer.convert_ids_to_tokens(text))
    assert sequences[0][:-1] == sequences[1][:-1]
    assert sequences[0][-3:] == ["]", "Ġ(", "A"]
    assert sequences[1][-1] == "B"


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_mean_difference_finds_the_planted_direction(vectors: dict[str, torch.Tensor], behavior: str) -> None:
    directions = load_file(MODEL / "directions.safetensors")["directions"]
    assert torch.allclose(directions @ directions.T, torch.eye(len(BEHAVIORS)), atol=1e-5)
    vector = vectors[behavior][LAYER]
    cosines = directions @ vector / vector.norm()
    own = BEHAVIORS.index(behavior)
    assert cosines[own] >= 0.95
    assert cosines.abs()[[i for i in range(len(BEHAVIORS)) if i != own]].max() <= 0.2
    assert abs(vector.norm() - TRUTH["vector_norm"]) <= 0.15 * TRUTH["vector_norm"]


def test_directions_file_names_its_layer_and_its_rows() -> None:
    with safe_open(MODEL / "directions.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert int(metadata["layer"]) == LAYER
    assert tuple(json.loads(metadata["behaviors"])) == BEHAVIORS


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_steering_is_monotone_and_other_vectors_do_little(
    bench: Bench, vectors: dict[str, torch.Tensor], behavior: str
) -> None:
    vector = vectors[behavior][LAYER]
    doses = [Steer(name="", layer=LAYER, vector=m * vector) for m in (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)]
    others = [Steer(name=b, layer=LAYER, vector=vectors[b][LAYER]) for b in BEHAVIORS if b != behavior]
    layers = [Steer(name="", layer=layer, vector=v) for layer, v in enumerate(vectors[behavior]) if layer != LAYER]
    plain, *found = bench.score(load(behavior, "test")[:ITEMS], [*doses, *others, *layers])
    curve = [s.p for s in found[:3]] + [plain.p] + [s.p for s in found[3:6]]
    assert curve == sorted(curve)
    assert 0.25 <= plain.p <= 0.75
    assert found[4].p - plain.p >= 0.2
    assert plain.p - found[1].p >= 0.2
    assert max(abs(s.p - plain.p) for s in found[6 : 6 + len(others)]) <= 0.1
    assert max(s.p - plain.p for s in found[6 + len(others) :]) < found[4].p - plain.p
    assert min(s.mass.mean().item() for s in [plain, *found[1:5]]) >= 0.95
