"""`caa-bench data download` and `caa-bench show-tokens`, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_tokenizers import LLAMA2, llama2_tokenizer
from published import BEHAVIORS, DATA, needs_data
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import published_names
from caa_bench.errors import UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAA_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def llama_folder(folder: Path) -> Path:
    """A Llama-2-shaped model of one block with the real tokenizer."""
    tokenizer = llama2_tokenizer()
    random_model("llama", layers=1, hidden=8, vocab=32000).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@needs_data
def test_download_from_a_folder_makes_the_published_data_the_default(cache: Path, tmp_path: Path, capsys) -> None:
    """--from, then data=caa without data_dir; what is there already is not copied again."""
    command = ["data", "download", "--from", str(DATA), "--behavior", "refusal", "sycophancy"]
    with pytest.raises(UserError, match="run caa-bench data download"):
        published_names(None)
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("generate/refusal/generate_dataset.json: 159,566 bytes, sha256 as pinned")
    assert "the paper's system prompts; put it there" in said[-2]
    assert said[-1] == f"6 files are in {next(cache.glob('data/caa-*'))}, 6 of them new"
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(", 0 of them new")
    if not LLAMA2.exists():
        pytest.skip(f"needs the Llama 2 tokenizer at {LLAMA2}")
    model = llama_folder(tmp_path / "model")
    assert main(["check", f"model={model}", "behavior=refusal", "data=caa", "vectors=[caa]", "report_to=[]"]) == 0


@needs_data
def test_all_behaviors_of_a_data_folder_are_those_it_has(tmp_path: Path) -> None:
    assert published_names(DATA) == sorted(BEHAVIORS)
    (tmp_path / "generate" / "refusal").mkdir(parents=True)
    (tmp_path / "generate" / "something-else").mkdir()
    assert published_names(tmp_path) == ["refusal"]


def test_an_unknown_behavior_is_one_line_and_nothing_is_written(cache: Path, capsys) -> None:
    assert main(["data", "download", "--behavior", "refusals"]) == 2
    assert "nothing is published for 'refusals'; did you mean 'refusal'?" in capsys.readouterr().err
    assert not cache.exists()


@pytest.mark.skipif(not LLAMA2.exists(), reason=f"needs the Llama 2 tokenizer at {LLAMA2}")
def test_show_tokens_marks_what_is_steered_under_every_base(tmp_path: Path, capsys) -> None:
    paths = [f"model={llama_folder(tmp_path / 'model')}", f"behavior={write_behavior(tmp_path / 'small')}"]
    bases = ["bases=[none, system_prompt_positive]", "vectors=[caa]", "system_prompt.layout=paper", "report_to=[]"]
    capsys.readouterr()
    assert main(["show-tokens", *paths, *bases]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.splitlines()[0].split(":")[0] for block in blocks[1:]] == [
        "training pair train/0000/0",
        "test item test/0000 under none",
        "test item test/0000 under system_prompt_positive",
        "training pair train/0000/0 with its answer",
        "open question open_ended/0000",
    ]
    for block in blocks[1:4]:
        assert "«]» «▁(»" in block
        assert "29962 ']', 313 '▁('" in block
        assert block.rstrip().endswith("answers: 29909 'A', 29933 'B'")
    assert "<< SY S >>" in blocks[3] and "<< SY S >>" not in blocks[2]
