"""`data: auto`: the embedded model keeps its own splits, any other model is measured on the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import Small

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.behaviors.choice import data_of, language_warning
from caa_bench.benchmark import Benchmark
from caa_bench.errors import UserError
from caa_bench.recipe import load_recipe

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "caa"


@pytest.fixture(autouse=True)
def nothing_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAA_BENCH_CACHE", str(tmp_path / "cache"))


def test_the_embedded_model_and_own_behaviors_have_their_own_splits() -> None:
    assert data_of("auto", embedded=True, behavior="refusal", data_dir=None) == "own"
    assert data_of("auto", embedded=False, behavior="/my/behavior", data_dir=None) == "own"
    assert data_of("auto", embedded=False, behavior=[{"question": "..."}], data_dir=None) == "own"


def test_another_model_needs_the_published_splits_and_says_how_to_get_them() -> None:
    with pytest.raises(UserError) as error:
        data_of("auto", embedded=False, behavior="refusal", data_dir=None)
    (line,) = error.value.lines
    assert line.startswith("data: ")
    for way in ("caa-bench data download", "--from DIR", "data_dir", "data=own"):
        assert way in line
    assert data_of("own", embedded=False, behavior="refusal", data_dir=None) == "own"
    assert data_of("auto", embedded=False, behavior="refusal", data_dir="/published") == "caa"


def test_a_recipe_records_what_auto_came_to(small: Small) -> None:
    benchmark = Benchmark.from_recipe(load_recipe(None, ["behavior=refusal", "report_to=[]"]))
    assert (benchmark.args.data, benchmark.settings["data"]) == ("own", "own")
    with pytest.raises(UserError, match="data download"):
        Benchmark.from_recipe(load_recipe(None, ["behavior=refusal", f"model={small.model}", "report_to=[]"]))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published data are not beside the repository")
def test_published_splits_in_a_folder_are_taken(small: Small) -> None:
    overrides = ["behavior=refusal", f"model={small.model}", f"data_dir={PUBLISHED}", "report_to=[]"]
    assert Benchmark.from_recipe(load_recipe(None, [*overrides, "tune=off"])).behavior.source.data == "caa"


def test_a_real_model_on_the_embedded_language_is_warned_of() -> None:
    behavior = load_behavior("refusal")
    assert language_warning(behavior, embedded=True) == []
    (line,) = language_warning(behavior, embedded=False)
    assert "data=caa" in line
