"""Prompts that cannot be asked are named before any weights load: too long, or with a control token in their words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_tokenizers import LLAMA2_TEMPLATE, chatml_tokenizer
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.__main__ import main

SETTINGS = ["vectors=[caa]", "bases=[none, system_prompt_positive]", "report_to=[]", "draws=9"]


def write_model(folder: Path, *, context: int, **tokenizer: object) -> Path:
    """A whole folder whose weights nobody may read: they are none."""
    made = chatml_tokenizer(**tokenizer)
    model = random_model("llama", layers=3, hidden=32, vocab=len(made), max_position_embeddings=context)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def change_question(file: Path, number: int, text: str) -> None:
    """Put a text in front of one item's question."""
    entries = json.loads(file.read_text())
    entries[number]["question"] = f"{text} {entries[number]['question']}"
    file.write_text(json.dumps(entries))


@pytest.mark.parametrize(("split", "where"), [("train", "train"), ("test", "test")])
def test_a_prompt_longer_than_the_context_is_named_with_both_numbers(
    split: str, where: str, tmp_path: Path, capsys
) -> None:
    folder = write_model(tmp_path / "model", context=512)
    behavior = write_behavior(tmp_path / "small", train=6, test=3)
    call = ["check", f"model={folder}", f"behavior={behavior}", *SETTINGS]
    assert main(call) == 0
    change_question(behavior / f"{split}.json", 1, "the garden " * 60)
    capsys.readouterr()
    assert main(call) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(f"{where}" in line and "takes 512; shorten it or take it out" in line for line in lines)
    sizes = [int(line.split("its prompt has ")[1].split(" tokens")[0].replace(",", "")) for line in lines]
    assert min(sizes) > 512
    assert main([*call[:1], f"model={write_model(tmp_path / 'longer', context=max(sizes))}", *call[2:]]) == 0


def test_only_items_that_are_asked_are_counted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", context=512)
    behavior = write_behavior(tmp_path / "small", train=6, test=3)
    change_question(behavior / "test.json", 2, "the garden " * 60)
    call = ["check", f"model={folder}", f"behavior={behavior}", *SETTINGS]
    assert main(call) == 2
    assert main([*call, "limit=2"]) == 0


def test_many_are_not_a_page(tmp_path: Path, capsys) -> None:
    folder = write_model(tmp_path / "model", context=20)
    behavior = write_behavior(tmp_path / "small", train=12, test=3)
    capsys.readouterr()
    assert main(["check", f"model={folder}", f"behavior={behavior}", *SETTINGS]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and " more like these" in lines[-1]


def test_a_control_token_that_cannot_stay_text_is_named_before_weights_load(tmp_path: Path, capsys) -> None:
    """The end token swallows the blank behind it, so that a text cannot be cut there and stay the same."""
    from tokenizers import AddedToken

    tokenizer = chatml_tokenizer(template=LLAMA2_TEMPLATE, bos=True)
    tokenizer.add_special_tokens({"eos_token": AddedToken("</s>", rstrip=True, special=True)})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '</s>  ' + (': ' if m.role == 'assistant' else '') + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '</s>  :' }}{% endif %}"
    )
    folder = tmp_path / "model"
    random_model("llama", layers=3, hidden=32, vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    behavior = write_behavior(tmp_path / "small", train=6, test=3)
    change_question(behavior / "train.json", 1, "Now</s>then.")
    capsys.readouterr()
    assert main(["fit", f"model={folder}", f"behavior={behavior}", f"output_dir={tmp_path / 'runs'}", *SETTINGS]) == 2
    said = capsys.readouterr().err.splitlines()
    named = [line for line in said if "cannot read the control token in" in line]
    assert named and all("train" in line and "Now</s>then." in line for line in named)
