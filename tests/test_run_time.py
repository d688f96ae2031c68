"""The dry run's time: its arithmetic is what a forward does, and on a real model what the run then takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from shipped import shipped_vectors
from small_behavior import write_behavior
from torch.utils.flop_counter import FlopCounterMode

from caa_bench.benchmark import Benchmark
from caa_bench.commands.compare import say_time
from caa_bench.commands.dry_run import _has_edits, estimated_time
from caa_bench.commands.fit_memory import Shape
from caa_bench.commands.run_time import GPU_FLOPS, Operations, core_flops, fitting, in_words, run_time, together
from caa_bench.interventions import CAA, Condition, FullSFT, LoraSFT, SystemPrompt, registry
from caa_bench.models.model import ChatModel
from caa_bench.recipe import BenchmarkArguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose queries, keys, MLP and vocabulary all have widths of their own."""
    made = tmp_path_factory.mktemp("model")
    tokenizer = chatml_tokenizer()
    random_model(
        "qwen3", layers=3, hidden=64, vocab=len(tokenizer), intermediate_size=160, head_dim=32
    ).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


def test_its_operations_are_those_of_a_forward(folder: Path) -> None:
    chat = ChatModel.find(str(folder))
    shape = Shape.of(chat)
    assert shape is not None
    assert (shape.queries, shape.keys, shape.inner, shape.vocabulary) == (128, 64, 160, len(chat.tokenizer))
    counted, model = {}, chat.model
    for tokens in (8, 16):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.ones((1, tokens), dtype=torch.long), logits_to_keep=1)
        counted[tokens] = counter.get_total_flops()
        said = Operations(token_layers=3 * tokens, rows=1).flops(shape)
        assert said == pytest.approx(counted[tokens], rel=0.15), "attention's own products are left out"
        assert said <= counted[tokens]
    assert counted[16] - counted[8] == pytest.approx(Operations(token_layers=24).flops(shape), rel=0.15)


def test_vectors_share_one_reading_and_a_finetune_costs_its_epochs() -> None:
    tokens = [10, 20, 30, 40]
    assert fitting([CAA(), CAA(layers=[1]), SystemPrompt(text="Be kind.")], tokens=tokens, layers=5).token_layers == 500
    assert fitting([LoraSFT(epochs=2.0, max_pairs=2)], tokens=tokens, layers=5).token_layers == 2 * 2 * 30 * 5
    assert fitting([FullSFT(), CAA()], tokens=tokens, layers=5).token_layers == 3 * 500 + 500


def test_the_time_is_the_arithmetic_over_the_measured_speed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape.of(ChatModel.find(str(folder)))
    assert shape is not None
    assert core_flops() > 1e8
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work = Operations(token_layers=core_flops(), rows=1)
    found = run_time(shape, {"measuring": work, "tuning": Operations()})
    assert found.cores == 1
    assert found.seconds["measuring"] == pytest.approx(work.flops(shape) / core_flops())
    assert found.gpu_s == pytest.approx(work.flops(shape) / GPU_FLOPS)
    assert "tuning" not in found.text()
    assert (in_words(99.4), in_words(120), in_words(3000), in_words(5400)) == ("99 s", "2.0 min", "50 min", "1.5 h")


@pytest.mark.parametrize(
    ("cores_flops", "said"), [(1e6, r"about [\d.]+ min in all \(.*measuring .*\), less what is"), (1e15, "")]
)
def test_a_run_says_first_how_long_all_of_it_takes(
    folder: Path,
    tmp_path: Path,
    cores_flops: float,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A slow machine, on which it is minutes; and one so fast that there is nothing to say. On the CPU alone."""
    monkeypatch.setattr("caa_bench.commands.run_time.core_flops", lambda: cores_flops)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    behavior = write_behavior(tmp_path / "small")
    made = Benchmark(ChatModel.find(str(folder)), behavior=str(behavior), args=BenchmarkArguments(tune="off"))
    say_time([made, made])
    found = capsys.readouterr().err
    assert re.match(said, found) if said else not found
    both = estimated_time(made)
    assert both is not None and together([both, both]).seconds["measuring"] == 2 * both.seconds["measuring"]


@pytest.mark.parametrize("name", shipped_vectors())
def test_a_vector_that_is_not_fitted_says_so_and_nothing_else(name: str) -> None:
    """The estimate before a run asks each for its edits, and counts it as one row where there are none yet."""
    with pytest.raises(RuntimeError):
        registry()[name]().edits(Condition(layer=1, multiplier=1.0))


def test_a_vector_from_outside_may_say_so_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looks for what it has not learned yet: the estimate takes it for a row, as it does any other."""
    looking = CAA()
    monkeypatch.setattr(looking, "edits", lambda _condition: {}["direction"])
    assert _has_edits(looking, Condition(layer=1))
    assert not _has_edits(LoraSFT(), Condition()), "an adapter is attached"
