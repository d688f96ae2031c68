"""The shipped embedded model: it loads alone, its directions are where it says, and its card says what is measured."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks import measure_tiny as measure
from caa_bench.behaviors.behavior import load_behavior, variants
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.score import score
from caa_bench.interventions import CAA
from caa_bench.models.model import ChatModel
from caa_bench.recipe import load_recipe
from caa_bench.tiny.card import tiny_card
from caa_bench.tiny.chat import prompt_text
from caa_bench.tiny.truth import NON_ADDITIVE
from caa_bench.tiny.words import BEHAVIORS

TINY = Path(__file__).parents[1] / "caa_bench" / "tiny"
MODEL = TINY / "model"
TRUTH = json.loads((MODEL / "truth.json").read_text(encoding="utf-8"))
MEASURED = json.loads((TINY / "measured.json").read_text(encoding="utf-8"))
LAYER = TRUTH["planted_layer"]
ITEMS = 24
NEAR = (-1.0, -0.5, 0.0, 0.5, 1.0)
BASES = ("system_prompt", "lora_sft")


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return ChatModel.find("tiny")


@pytest.fixture(scope="module")
def vectors(chat: ChatModel) -> dict[str, torch.Tensor]:
    """The CAA vector of 80 pairs at every layer, by behavior. [L, D]"""
    made = {}
    for behavior in BEHAVIORS:
        caa = CAA()
        caa.fit(chat.model, chat.tokenizer, load_behavior(behavior).pairs()[:80])
        made[behavior] = caa.fitted()
    return made


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
    chat: ChatModel, vectors: dict[str, torch.Tensor], behavior: str
) -> None:
    """On a few test items, by the engine: what the card says of all of them."""
    asked = [variant for item in load_behavior(behavior).test[:ITEMS] for variant in variants(item)]
    prompts = [chat.choice_prompt([{"role": "user", "content": v.question}], v.letters) for v in asked]
    own = vectors[behavior]
    doses = [[Edit(LAYER, Add(m * own[LAYER]))] for m in (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)]
    others = [[Edit(LAYER, Add(vectors[b][LAYER]))] for b in BEHAVIORS if b != behavior]
    layers = [[Edit(layer, Add(own[layer]))] for layer in range(len(own)) if layer != LAYER]
    logits = score(chat.model, prompts, [*doses, *others, *layers]).logits
    sign = torch.tensor([1.0 if v.matching == 0 else -1.0 for v in asked])[:, None]
    p = ((logits[..., 0] - logits[..., 1]) * sign).sigmoid().mean(0).tolist()
    curve, plain = p[:7], p[3]
    assert curve == sorted(curve)
    assert 0.25 <= plain <= 0.75
    assert curve[5] - plain >= 0.2
    assert plain - curve[1] >= 0.2
    assert max(abs(value - plain) for value in p[7 : 7 + len(others)]) <= 0.1
    assert max(value - plain for value in p[7 + len(others) :]) < curve[5] - plain


def test_the_card_is_made_from_what_was_measured() -> None:
    assert (MODEL / "README.md").read_text(encoding="utf-8") == tiny_card(MODEL, MEASURED)


@pytest.mark.slow
def test_the_card_s_figures_are_those_of_compare(tmp_path: Path, chat: ChatModel) -> None:
    """One behavior measured anew, without the placebos and finetunes; the slow test measures everything."""
    cells, _ = _compared(chat, "refusal", tmp_path)
    _assert_same(cells, "refusal")


@pytest.mark.slow
@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_every_figure_of_the_card_is_that_of_compare(tmp_path: Path, chat: ChatModel, behavior: str) -> None:
    bases = measure.CALIBRATION_BASES if behavior == measure.truth.CALIBRATION else ()
    found = measure._behavior(chat, behavior, tmp_path, bases)
    _assert_same(found["cells"], behavior)
    known = MEASURED["behaviors"][behavior]
    for dose, share in known["words"].items():
        assert found["words"][dose]["score"] == pytest.approx(share["score"], abs=0.05)
    assert found["sweep"] == pytest.approx(known["sweep"], abs=2e-3)


def _compared(chat: ChatModel, behavior: str, runs: Path) -> tuple[list[dict[str, Any]], Any]:
    bases = "bases=[none, system_prompt_positive, system_prompt_negative]"
    benchmark, report = measure._run(chat, behavior, runs, "compare", (bases, "vectors=[caa]", "draws=99"))
    return measure._cells(report.cells), benchmark


def _assert_same(cells: list[dict[str, Any]], behavior: str) -> None:
    known = {_place(cell): cell for cell in MEASURED["behaviors"][behavior]["cells"]}
    for cell in cells:
        for key in ("n", "p_balanced", "option_mass", "letter_bias", "letter_locked"):
            assert cell[key] == pytest.approx(known[_place(cell)][key], abs=0.006), (key, _place(cell))


def _place(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["base"], cell["vector"], cell["multiplier"]


def test_the_recipe_that_is_measured_is_the_default_one() -> None:
    bases = load_recipe("compare").args.bases
    measured = {cell["base"] for cell in MEASURED["behaviors"]["refusal"]["cells"]}
    assert measured == set(bases)


def level(behavior: str, *, base: str = "none", vector: str = "caa", multiplier: float = 0.0) -> float:
    """p(matching) of a cell of the card."""
    vector = vector if multiplier else ""
    (cell,) = [c for c in MEASURED["behaviors"][behavior]["cells"] if _place(c) == (base, vector, multiplier)]
    assert cell["n"] == 210
    return float(cell["p_balanced"])


def stacked(behavior: str, base: str, multiplier: float) -> dict[str, Any]:
    """A line of the card's stacking."""
    lines = MEASURED["behaviors"][behavior]["stacking"]
    (line,) = [one for one in lines if (one["base"], one["multiplier"]) == (base, multiplier)]
    return line


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_every_arm_moves_it_and_leaves_room(behavior: str) -> None:
    plain = level(behavior)
    assert 0.25 <= plain <= 0.75
    for kind in BASES:
        up, down = level(behavior, base=f"{kind}_positive"), level(behavior, base=f"{kind}_negative")
        assert up - plain >= 0.2
        assert plain - down >= 0.2
        assert level(behavior, base=f"{kind}_positive", multiplier=1.0) > up
        assert level(behavior, base=f"{kind}_negative", multiplier=-1.0) < down
    assert level(behavior, base="lora_sft_positive") <= 0.95
    assert level(behavior, base="lora_sft_negative") >= 0.05
    curve = [level(behavior, multiplier=m) for m in (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)]
    assert curve == sorted(curve)
    assert curve[5] - plain >= 0.2
    assert plain - curve[1] >= 0.2


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_letters_options_and_placebos(behavior: str) -> None:
    cells = [c for c in MEASURED["behaviors"][behavior]["cells"] if abs(c["multiplier"]) <= 1]
    assert min(c["option_mass"] for c in cells) >= 0.95
    untrained = [c for c in cells if not c["base"].startswith("lora_sft")]
    assert max(abs(c["letter_bias"]) for c in untrained) <= 0.2
    assert max(c["letter_locked"] for c in untrained) <= 0.05
    plain = level(behavior)
    for vector in ("random", "shuffled"):
        assert max(abs(level(behavior, vector=vector, multiplier=m) - plain) for m in (-1.0, 1.0)) <= 0.05


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_directions_and_layers_are_found(behavior: str) -> None:
    found = MEASURED["behaviors"][behavior]
    assert max(found["sweep"], key=lambda layer: found["sweep"][layer]) == str(LAYER)
    cosines = dict(found["cosines"])
    assert cosines.pop(behavior) >= 0.95
    assert max(map(abs, cosines.values())) <= 0.2
    assert max(map(abs, MEASURED["transfer"][behavior].values())) <= 0.1


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_answers_in_words_follow(behavior: str) -> None:
    words = MEASURED["behaviors"][behavior]["words"]
    shares = [words[f"{m:g}"]["score"] for m in NEAR]
    assert shares == sorted(shares)
    assert shares[0] < shares[2] < shares[-1]
    assert not any(map(math.isnan, shares))
    assert min(share["parsed"] for share in words.values()) >= 0.95


def test_plain_facts_are_known() -> None:
    for found in MEASURED["behaviors"].values():
        assert found["capability"]["n"] >= 100
        assert found["capability"]["accuracy"] >= 0.9


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_the_built_in_interaction_is_measured(behavior: str) -> None:
    lines = [stacked(behavior, f"system_prompt_{side}", m) for side in ("positive", "negative") for m in (-0.5, 0.5)]
    sizes = [abs(line["interaction"]) for line in lines]
    if behavior == NON_ADDITIVE:
        assert min(sizes) >= 1.0
    else:
        assert max(sizes) <= 0.25
    assert all(line["interaction_low"] <= line["interaction"] <= line["interaction_high"] for line in lines)


def test_the_calibration_bases_are_found() -> None:
    behavior = measure.truth.CALIBRATION
    assert level(behavior, base="system_prompt_no_room") > 0.95
    assert "no room" in (stacked(behavior, "system_prompt_no_room", 1.0)["tags"] or "")
    assert stacked(behavior, "system_prompt_works_against", 1.0)["verdict"] == "works against"
    assert stacked(behavior, "system_prompt_untouched", 1.0)["verdict"] == "adds nothing"
