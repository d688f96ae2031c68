"""`dtype: auto` on a CPU takes what is faster there, if it fits, says so, and puts it into the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_runs import Small

from caa_bench.__main__ import main
from caa_bench.models import dtypes
from caa_bench.models.model import ChatModel

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes the checkpoint's own dtype")


def saved(folder: Path, dtype: torch.dtype) -> str:
    tokenizer = chatml_tokenizer()
    random_model("llama", layers=3, hidden=32, vocab=len(tokenizer), dtype=dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def times(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """The machine, as it would be: seconds of the trial in each dtype."""
    monkeypatch.setattr(dtypes, "_seconds", seconds.__getitem__)


@on_a_cpu
@pytest.mark.parametrize(("half", "loaded"), [(6.7, "float32"), (1.0, "float32"), (0.2, "bfloat16")])
def test_the_faster_dtype_is_taken_and_recorded(
    half: float, loaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    times(monkeypatch, float32=1.0, bfloat16=half)
    chat = ChatModel.find(saved(tmp_path / "model", torch.bfloat16))
    assert chat.model.dtype == getattr(torch, loaded)
    assert chat.fingerprint()["dtype"] == ("float32" if loaded == "float32" else "auto")
    said = [record.getMessage() for record in caplog.records]
    assert any(f"{half:.1f} times slower than float32; it is loaded as float32" in line for line in said) == (
        loaded == "float32"
    )


@on_a_cpu
def test_what_does_not_fit_keeps_its_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, float32=1.0, bfloat16=6.7)
    monkeypatch.setattr(dtypes, "memory_bytes", lambda: 1000.0)
    chat = ChatModel.find(saved(tmp_path / "model", torch.bfloat16))
    assert "are there; it stays bfloat16" in chat.dtype.said
    assert chat.model.dtype == torch.bfloat16


@on_a_cpu
def test_nothing_is_chosen_where_something_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch)  # asking for a time would fail
    source = saved(tmp_path / "half", torch.bfloat16)
    assert ChatModel.find(source, changes={"dtype": "bfloat16"}).model.dtype == torch.bfloat16
    assert ChatModel.find(source, changes={"quantization": "4bit"}).dtype.dtype == "auto"
    whole = ChatModel.find(saved(tmp_path / "whole", torch.float32))
    assert (whole.dtype.dtype, whole.dtype.said) == ("auto", "")


def test_the_trial_takes_a_moment() -> None:
    assert 0 < dtypes._seconds("float32") < 5
    assert dtypes.memory_bytes() > 1e8


@on_a_cpu
@pytest.mark.parametrize(("half", "expected"), [(6.7, "float32"), (0.5, "bfloat16")])
def test_what_auto_became_is_recorded_and_said_in_the_table(
    half: float, expected: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, float32=1.0, bfloat16=half)
    folder = saved(tmp_path / "model", torch.bfloat16)
    settings = [one for one in small.settings() if not one.startswith("model=")]
    command = ["compare", "--output", str(tmp_path / "run"), *settings, f"model={folder}", "bases=[none]"]
    assert main(command) == 0
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["facts"]["model"]["computes_in"] == expected
    said = "computed in bfloat16" in " ".join((tmp_path / "run/table.txt").read_text().split())
    assert said == (expected == "bfloat16")
