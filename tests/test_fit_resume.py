"""A fit that is killed or stopped in the middle goes on from what it kept, and ends in the same bytes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from fit_process import fit_one, made
from small_runs import Command, Small, start_call
from torch import Tensor

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.interventions import ShuffledLabels
from caa_bench.interventions.fitting import Fitting, current, during
from caa_bench.interventions.lora.watched import newest_checkpoint, saturated
from caa_bench.models.model import ChatModel
from caa_bench.runs.signals import Stop


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An uninterrupted fit: what it told, and the bytes it left."""

    steps: list[str]
    files: dict[str, bytes]


def fit(small: Small, folder: Path, name: str, *, wait: int = -1) -> Command:
    """Begin the fit; what it prints goes beside the artifacts' folder."""
    number = len(list(folder.parent.glob(f"{folder.name}-*")))
    own = folder.parent / f"{folder.name}-{number}"
    return start_call(fit_one, str(small.model), str(small.behavior), str(folder), name, wait, folder=own)


def until_step(process: Command, done: int) -> None:
    process.until(lambda: any(int(line.split()[0]) >= done for line in process.stdout().splitlines()))
    assert process.process.is_alive(), process.stderr()


def finished(process: Command) -> list[str]:
    """The steps it told of."""
    assert process.wait() == 0, process.stderr()
    return process.stdout().splitlines()


def of_training(steps: list[str]) -> list[str]:
    """Without the steps of what a fit reads before it: those with another number of pairs in all."""
    return [step for step in steps if step.split()[1] == steps[-1].split()[1]]


def artifact(folder: Path) -> dict[str, bytes]:
    (found,) = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert not list(folder.glob(".*unfinished")), "its unfinished state was not cleared away"
    return {path.name: path.read_bytes() for path in found.iterdir()}


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """The steps and the artifact of a fit that nobody interrupts, by name."""

    @cache
    def of(name: str) -> Whole:
        folder = tmp_path_factory.mktemp(name)
        steps = finished(fit(small, folder, name))
        return Whole(steps=steps, files=artifact(folder))

    return of


# Pairs that are done when it is killed: of 24 (caa), 2 x 22 (lora_sft, soft_prompt and loreft, two are held out) and
# 2 x 24 (the others; bipo and loreft read the 24 first).
MIDDLE = {"caa": 4, "bipo": 30, "loreft": 30, "lora_sft": 30, "dpo": 30, "orpo": 30, "soft_prompt": 30, "full_sft": 24}
LIKE_A_LORA = ("loreft", "dpo", "orpo", "soft_prompt", "full_sft")  # they stop as it does
NAMES = ["caa", "bipo", "lora_sft", *(pytest.param(name, marks=pytest.mark.slow) for name in LIKE_A_LORA)]
ALL = ["caa", "bipo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora_sft", *LIKE_A_LORA))]


@pytest.mark.parametrize("name", NAMES)
def test_killed_in_the_middle_it_goes_on_there_and_ends_in_the_same_bytes(
    name: str, small: Small, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    killed = fit(small, tmp_path / "killed", name, wait=MIDDLE[name])
    until_step(killed, MIDDLE[name])
    time.sleep(0.5)  # where it is waiting now, nothing is computed
    killed.send(signal.SIGKILL)
    assert killed.wait() == 128 + signal.SIGKILL
    again, known = (of_training(one) for one in (finished(fit(small, tmp_path / "killed", name)), whole(name).steps))
    assert int(again[0].split()[0]) > (0 if name == "loreft" else MIDDLE[name] // 2), "it began anew"
    assert again == known[-len(again) :]
    assert artifact(tmp_path / "killed") == whole(name).files


@pytest.mark.parametrize("name", ALL)
def test_a_first_ctrl_c_keeps_the_step_and_a_second_one_says_what_is_lost(
    name: str, small: Small, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    stopped = fit(small, tmp_path / "stopped", name, wait=MIDDLE[name])
    until_step(stopped, MIDDLE[name])
    stopped.send(signal.SIGINT)
    time.sleep(1)
    stopped.send(signal.SIGINT)
    assert stopped.wait() == 130
    said = stopped.stderr()
    assert "stopping after this batch or step of the fit; again to stop at once" in said
    assert "finished work is kept; the fit of " in said
    assert "starts again from pair " in said
    again = finished(fit(small, tmp_path / "stopped", name))
    assert len(again) < len(whole(name).steps)
    assert artifact(tmp_path / "stopped") == whole(name).files


@pytest.mark.parametrize("name", ALL)
def test_stopped_after_every_step_in_turn_it_ends_in_the_same_bytes(name: str, small: Small, tmp_path: Path) -> None:
    """Also at the end of an epoch and within one, where the held-out loss is not to be measured once more."""
    chat, pairs = ChatModel.find(str(small.model)), load_behavior(small.behavior).pairs()

    def fitted(folder: Path, stop_at: int | None = None) -> list[int]:
        """Fit, with one Ctrl-C at that call of `tell`; the pairs done at each."""
        stop, told, arm = Stop(), list[int](), made(name, batch_size=12)

        def tell(done: int, total: int, note: str) -> None:
            told.append(done)
            if len(told) - 1 == stop_at:
                stop.request(signal.SIGINT, None)

        with during(Fitting(folder=folder / "state", tell=tell, stop=stop)):
            arm.fit(chat.model, chat.tokenizer, pairs)
        arm.save_pretrained(folder / "artifact")
        return told

    whole = fitted(tmp_path / "whole")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "artifact").iterdir()}
    left = 0
    for stop_at in range(len(whole) - 1):
        folder = tmp_path / str(stop_at)
        try:
            fitted(folder, stop_at)
        except SystemExit as stopped:
            assert stopped.code == 130
            left += 1
            fitted(folder)
        assert {path.name: path.read_bytes() for path in (folder / "artifact").iterdir()} == expected, stop_at
    assert left, "it was never stopped"


def test_a_shuffled_placebo_of_bipo_goes_on_too_and_not_from_another_draw(small: Small, tmp_path: Path) -> None:
    chat, pairs = ChatModel.find(str(small.model)), load_behavior(small.behavior).pairs()
    bipo = made("bipo", batch_size=6)
    bipo.fit(chat.model, chat.tokenizer, pairs)

    def drawn(number: int, *, stop_at: int | None = None, folder: Path | None = tmp_path) -> tuple[Tensor, list[int]]:
        placebo, stop, told = ShuffledLabels(original=bipo, draws=2).every_draw()[number], Stop(), list[int]()

        def tell(done: int, total: int, note: str) -> None:
            told.append(done)
            if done == stop_at:
                stop.request(signal.SIGINT, None)

        with during(Fitting(folder=folder, tell=tell, stop=stop)):
            placebo.fit(chat.model, chat.tokenizer, pairs)
        return placebo.fitted(), told[told.index(len(pairs)) + 1 :]  # behind the reading of the pairs

    whole = [drawn(number, folder=None) for number in (0, 1)]
    assert not torch.equal(whole[0][0], whole[1][0])
    with pytest.raises(SystemExit):
        drawn(0, stop_at=30)
    assert drawn(1)[1] == whole[1][1], "another draw's state is not its own"
    vectors, told = drawn(0)
    assert told == [36, 42, 48]
    assert torch.equal(vectors, whole[0][0])


def test_the_second_signal_names_the_pair(capsys) -> None:
    stop = Stop()
    stop.fit = ("caa", Fitting(kept=128))
    stop.request(signal.SIGINT, None)
    with pytest.raises(SystemExit) as left:
        stop.request(signal.SIGINT, None)
    assert left.value.code == 130
    assert "finished work is kept; the fit of caa starts again from pair 129\n" in capsys.readouterr().err


def test_state_of_other_pairs_is_not_gone_on_from(small: Small, tmp_path: Path) -> None:
    from caa_bench.interventions.activations import STATE, read_activations

    chat, pairs = ChatModel.find(str(small.model)), load_behavior(small.behavior).pairs()
    with during(Fitting(folder=tmp_path)):
        read_activations(chat.model, chat.tokenizer, pairs[:8])
        first = (tmp_path / STATE).read_bytes()
        assert len(first) == 8 * 2 * 3 * 32 * 4
        wanted = read_activations(chat.model, chat.tokenizer, pairs[8:16]).mean_difference()
    assert (tmp_path / STATE).read_bytes() != first
    assert current().folder is None
    assert wanted.equal(read_activations(chat.model, chat.tokenizer, pairs[8:16]).mean_difference())


def test_the_newest_checkpoint_is_one_that_was_written_to_its_end(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step, text in {9: json.dumps({}), 10: json.dumps({}), 11: '{"epoch": 1', 12: None}.items():
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if text is not None:
            (folder / "trainer_state.json").write_text(text)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize(
    ("found", "stops"),
    [([], False), ([1.0], False), ([1.0, 0.5], False), ([1.0, 0.995], True), ([1.0, 0.5, 0.6], True)],
)
def test_training_ends_once_the_held_out_loss_no_longer_falls(found: list[float], stops: bool) -> None:
    assert saturated(found) == stops
