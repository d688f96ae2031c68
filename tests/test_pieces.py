"""A folder with `tokenizer.model` alone: said where transformers splits texts otherwise than sentencepiece."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from chat_tokenizers import LLAMA2, chatml_tokenizer, llama2_tokenizer
from random_models import random_model

from caa_bench.models.model import ChatModel
from caa_bench.models.pieces import split_otherwise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama with Llama 2's sentencepiece file and no tokenizer.json."""
    if not LLAMA2.exists():
        pytest.skip(f"needs the Llama 2 tokenizer at {LLAMA2}")
    random_model("llama", layers=2, hidden=32, vocab=32_000).save_pretrained(tmp_path)
    shutil.copy(LLAMA2, tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    return tmp_path


def test_what_transformers_makes_of_it_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = ChatModel.find(str(folder)).tokenizer
    said = [record.getMessage() for record in caplog.records if "sentencepiece" in record.getMessage()]
    if split_otherwise(tokenizer, folder):
        assert len(said) == 1 and "put its tokenizer.json beside it" in said[0]
    else:
        assert said == [], "a later transformers splits as sentencepiece does"


def test_the_published_order_of_merges_is_no_difference(folder: Path) -> None:
    assert split_otherwise(llama2_tokenizer(), folder) == ""
    assert split_otherwise(chatml_tokenizer(), folder) != "", "a tokenizer of another kind"


def test_a_folder_with_its_own_tokenizer_json_is_taken_as_it_is(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert split_otherwise(chatml_tokenizer(), folder) == ""
