"""Answers in words from a server that steers: a real `caa-bench serve` over real HTTP, checked before it is trusted."""

from __future__ import annotations

import hashlib
import json
import shutil
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_models import random_model
from serve_running import running
from small_runs import Small, contents

from caa_bench.__main__ import main
from caa_bench.benchmark import Benchmark
from caa_bench.commands.serve_doses import Offer
from caa_bench.commands.serve_requests import Asked
from caa_bench.commands.serve_speaker import Ready, Speaker, Spoken
from caa_bench.commands.session import Session, Settings
from caa_bench.engine.changes import Add, Project
from caa_bench.engine.easysteer import can_be_sent, read_steering, steering_field
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import Continuation
from caa_bench.errors import UserError
from caa_bench.evaluators import Evaluator
from caa_bench.evaluators.open_ended import OpenEnded
from caa_bench.evaluators.served.generation import _continuation
from caa_bench.judges.wire import Failed, Refused
from caa_bench.models.prompts import Prompt
from caa_bench.recipe import load_recipe
from caa_bench.runs.folder import RowStore

BASES = "bases=[none, system_prompt_positive, lora_sft_positive]"


@pytest.fixture(scope="module")
def session(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The small model, loaded by itself as in another process."""
    own = f"output_dir={json.dumps(str(tmp_path_factory.mktemp('there')))}"
    return Session(Settings(model=str(small.model), behavior=str(small.behavior), changes=(own,)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(small: Small, *more: str, output: str = "run") -> list[str]:
    """A comparison of answers in words alone."""
    asked = ["evaluators=[open_ended]", "open_ended.max_new_tokens=12", "open_ended.judges=[classifier]"]
    command = small.compare(*asked, *more)
    return [*command[:1], "--output", output, *command[3:]]


def compare(small: Small, *more: str, output: str = "run") -> list[dict[str, Any]]:
    """The rows of a comparison, without the page and figures of the whole command."""
    recipe = load_recipe("compare", settings(small, *more)[3:])
    Benchmark.from_recipe(recipe, folder=output, progress=False).compare()
    return answers(output)


def by(url: str, *more: str) -> list[str]:
    """What a recipe says of a server."""
    server = "open_ended.server"
    return [f"{server}.base_url={url}", f"{server}.model=model", f"{server}.first_wait_s=0", *more]


def answers(folder: str) -> list[dict[str, Any]]:
    return RowStore(Path(folder) / "rows.jsonl").answers()


class Counting(Speaker):
    """Counts what it says."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.said = 0

    def say(self, ready: Ready, **more: Any) -> Spoken:
        self.said += 1
        return super().say(ready, **more)


@pytest.fixture
def speaker(session: Session) -> Counting:
    return Counting(session)


@pytest.fixture
def url(session: Session, speaker: Counting) -> Iterator[str]:
    with running(session, Offer(session), speaker=speaker) as server:
        yield server.url


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_from_a_server_are_those_of_this_machine(
    temperature: float, small: Small, here: Path, url: str, speaker: Counting
) -> None:
    """Row by row; what cannot be sent is generated here, and each row says where it is from."""
    more = [BASES, "vectors=[caa, ablation]", "ablation.layers=[1]", f"open_ended.temperature={temperature}"]
    mine = compare(small, *more)
    theirs = compare(small, *more, *by(url), output="served")
    cells = json.loads(Path("served/manifest.json").read_text())["facts"]["cells"]
    of = {cell["key"]: (cell["base"], cell["vector"]) for cell in cells}
    sent = 0
    for own, other in zip(mine, theirs, strict=True):
        where = other.pop("server", None)
        base, vector = of[other["cell"]]
        assert (where is None) == (base == "lora_sft_positive" or vector == "ablation"), (base, vector)
        sent += where is not None
        assert where is None or where == f"{url} model: 8 of 8 checked answers equal"
        for name in ("log_prob", "plain_log_prob"):
            assert other.pop(name) == pytest.approx(own.pop(name), abs=1e-3)
        assert {**own, "cell": ""} == {**other, "cell": ""}
    assert len({row["text"] for row in theirs}) > 12
    assert sent == 4 * 2 * 3 and speaker.said == sent + 8, "and nothing was asked twice"


def test_a_server_that_fails_in_between_is_asked_later_for_what_is_missing(
    small: Small, here: Path, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    more = ["bases=[none, system_prompt_positive]", "batch_size=2", "open_ended.server.attempts=1"]

    class Breaking(Counting):
        left = 8 + 8  # the check, and something of the comparison

        def say(self, ready: Ready, **more: Any) -> Spoken:
            if self.said >= self.left:
                raise RuntimeError("out of order")
            return super().say(ready, **more)

    broken = Breaking(session)
    with running(session, Offer(session), speaker=broken) as server:
        command = [*more, *by(server.url)]
        kept = len(compare(small, *command))
        assert 0 < kept < 24 and broken.said == broken.left
        assert json.loads(Path("run/manifest.json").read_text())["status"] == "error"
        assert sum("open_ended.server: HTTP 500" in str(one.exc_info) for one in caplog.records if one.exc_info) > 1
        broken.left = 10_000
        whole = compare(small, *command)
        assert broken.said == 16 + 8 + (24 - kept) and len(whole) == 24
        assert compare(small, *command, output="again") == whole
        before, said = contents(Path("run")), broken.said
        compare(small, *command)
        assert (contents(Path("run")), broken.said) == (before, said), "a finished run asks nothing"


class Deaf(Speaker):
    """Takes vectors and leaves them out, as vLLM without EasySteer does."""

    def ready(self, asked: Asked) -> Ready:
        return replace(super().ready(asked), edits=[])


class Shifted(Speaker):
    """Counts layers from 1."""

    def ready(self, asked: Asked) -> Ready:
        made = super().ready(asked)
        return replace(made, edits=[replace(edit, layer=(edit.layer + 1) % 3) for edit in made.edits])


class Half(Speaker):
    """Steers the prompt's last token alone."""

    def ready(self, asked: Asked) -> Ready:
        made = super().ready(asked)
        return replace(made, edits=[replace(edit, positions="prompt") for edit in made.edits])


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Deaf, "it says the same with and without vectors: it does not steer"),
        (Shifted, "without a vector they agree: it reads layer, positions or dose in another way"),
        (Half, "without a vector they agree: it reads layer, positions or dose in another way"),
    ],
)
def test_a_server_that_steers_otherwise_is_refused_in_one_line(
    kind: type[Speaker], says: str, small: Small, here: Path, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also at a dose that changes next to nothing, which a silent server would answer alike."""
    with running(session, Offer(session), speaker=kind(session)) as server:
        assert main(settings(small, "bases=[none]", "caa.multipliers=[0.5]", *by(server.url))) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("caa-bench: ")]
    assert len(said) == 1 and says in said[0], said
    assert "checked answers are not what this machine generates" in said[0]
    assert answers("run") == []


def test_a_server_with_other_weights_is_refused(
    small: Small, here: Path, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path("other/model")
    shutil.copytree(small.model, other)
    vocab = json.loads((other / "config.json").read_text())["vocab_size"]
    random_model("llama", layers=3, hidden=32, vocab=vocab, seed=7).save_pretrained(other)
    strange = Session(replace(session.settings, model=str(other)))
    with running(strange, Offer(strange)) as server:
        assert main(settings(small, "bases=[none]", *by(server.url))) == 2
    assert "they differ without a vector already: other weights" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_line(small: Small, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(settings(small, "bases=[none]", *by("http://127.0.0.1:9/v1", "open_ended.server.attempts=2"))) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("caa-bench: ")]
    assert "open_ended.server: no connection; start the server, or leave base_url empty" in line


MISTAKES = {
    "base_url=ftp://x open_ended.server.model=m": "base_url: no http(s) address",
    "base_url=http://key@host/v1 open_ended.server.model=m": "base_url: holds a key or a query",
    "base_url=http://host/v1": "model: empty; write the model's name",
    "attempts=0": "attempts: 0 is too few",
    "timeout_s=0": "timeout_s: 0 is no time to wait",
    "check_nats=-1": "check_nats: -1 is no difference",
    "url=x": "url: unknown key",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistakes_cost_one_line_before_the_model_loads(
    typed: str, small: Small, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caa_bench.models.model.load_model", None)
    assert main(settings(small, *f"open_ended.server.{typed}".split())) == 2
    said = capsys.readouterr().err
    assert f"open_ended.server.{MISTAKES[typed]}" in said and said.count("\n") == 1


def test_the_key_is_read_from_the_environment_and_written_nowhere(
    small: Small, here: Path, session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bases=[none]", "open_ended.server.key_env=OUR_KEY"]
    monkeypatch.delenv("OUR_KEY", raising=False)
    assert main(settings(small, *command, *by("http://127.0.0.1:9/v1"))) == 2
    assert "open_ended.server.key_env: that environment variable is not set" in capsys.readouterr().err
    with running(session, Offer(session), key="sk-secret") as server:
        monkeypatch.setenv("OUR_KEY", "sk-wrong")
        assert main(settings(small, *command, *by(server.url))) == 2
        assert "open_ended.server: HTTP 401, 'the key is wrong or missing" in capsys.readouterr().err
        monkeypatch.setenv("OUR_KEY", "sk-secret")
        assert compare(small, *command, *by(server.url), output="with-key")
    assert not any(b"sk-secret" in data for data in contents(here).values())


def test_without_a_server_nothing_changes_and_patience_binds_no_run() -> None:
    plain = OpenEnded()
    assert "server" not in plain.settings() and type(plain).beforehand is not Evaluator.beforehand
    plain.beforehand([])
    recipe = load_recipe("open_ended", [])
    assert "server" not in recipe.flat()["open_ended"]
    named = {"base_url": "http://host/v1", "model": "m"}
    patient = OpenEnded(server={**named, "attempts": 9})
    assert patient.settings() == plain.settings() | {"server": named}
    asked = [f"open_ended.server.{key}={value}" for key, value in named.items()]
    assert load_recipe("open_ended", [*asked, "open_ended.server.timeout_s=9"]).flat()["open_ended"]["server"] == named


PROMPT = Prompt(ids=(5, 6, 7, 8), first_position=2)


def test_the_request_is_easysteers() -> None:
    """Field by field after its documentation; additions to one layer are summed, and layers are counted from 0."""
    delta = torch.tensor([1.0, -2.0, 0.5])
    field = steering_field([Edit(2, Add(delta)), Edit(2, Add(delta)), Edit(11, Add(-delta))], PROMPT)
    arrays = {"layer.11": np.float32([-1, 2, -0.5]), "layer.2": np.float32([2, -4, 1])}
    known = hashlib.sha256(b"direction:1")
    for name, array in arrays.items():
        known.update(name.encode() + b"(3,)" + array.tobytes())
    tensors = {n: {"shape": [3], "data": b64encode(a.tobytes()).decode()} for n, a in arrays.items()}
    data = {"version": 1, "kind": "direction", "tensors": tensors, "extra": {}, "sha256": known.hexdigest()}
    apply = {"prompt_positions": [-2, -1], "generation": "all"}
    assert field == {
        "vectors": [{"data": data, "algorithm": "direct", "scale": 1.0, "layers": [2, 11], "apply": apply}]
    }
    assert steering_field([], PROMPT) is steering_field([Edit(2, Add(0 * delta))], PROMPT) is False
    read = read_steering(json.loads(json.dumps(field)), layers=12, hidden=3)
    assert read.steered == 2
    assert {edit.layer: edit.change.delta.tolist() for edit in read.edits} == {2: [2, -4, 1], 11: [-1, 2, -0.5]}


def test_what_is_no_addition_is_not_sent() -> None:
    delta = torch.ones(3)
    others = [
        Edit(1, Project(delta)),
        Edit(1, Add(delta), site="mlp"),
        Edit(1, Add(delta), positions="all"),
        Edit(1, Add(delta), positions="answer"),
    ]
    assert can_be_sent([]) and can_be_sent([Edit(1, Add(delta))])
    for other in others:
        assert not can_be_sent([Edit(1, Add(delta)), other])
        with pytest.raises(ValueError, match="only additions"):
            steering_field([other], PROMPT)


def _damaged(change: dict[str, Any], **vector: Any) -> dict[str, Any]:
    field = steering_field([Edit(1, Add(torch.ones(3)))], PROMPT)
    assert field
    one = field["vectors"][0]
    return {"vectors": [one | {"data": one["data"] | change} | vector]}


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("x", "steering: expected an object"),
        ({"vectors": []}, "steering.vectors: expected a list"),
        (_damaged({"sha256": "0"}), "data.sha256: is not the checksum"),
        (_damaged({"kind": "linear"}), "data: expected version 1, kind 'direction'"),
        (_damaged({"tensors": {"layer.x": {}}}), "data.tensors: expected names like layer.13"),
        (_damaged({"tensors": {"layer.1": {"shape": [3], "data": "!"}}}), "layer.1: no base64"),
        (_damaged({"tensors": {"layer.1": {"shape": [2], "data": ""}}}), "layer.1: expected 3 finite numbers"),
        (_damaged({}, algorithm="erase"), "algorithm: only 'direct' is known here"),
        (_damaged({}, normalize=True), "normalize and params are not known here"),
        (_damaged({}, scale="1"), "scale: expected a number"),
        (_damaged({}, scale=10**400), "scale: expected a number"),
        (_damaged({}, layers=[4]), "layers: none of them is in data"),
        (_damaged({}, apply={"prompt_positions": [0], "generation": "all"}), "apply: this server steers"),
        ({"vectors": _damaged({})["vectors"] * 2}, "steering.conflict: two vectors act in one layer"),
    ],
)
def test_what_a_request_may_not_ask_for_is_told(field: Any, says: str) -> None:
    with pytest.raises(UserError, match="steering") as caught:
        read_steering(field, layers=2, hidden=3)
    assert says in caught.value.lines[0]
    with pytest.raises(UserError, match="layer 1 does not exist"):
        read_steering(_damaged({}), layers=1, hidden=3)


def _reply(
    ids: Sequence[int] | None, *, ended: str = "stop", log_probs: Sequence[float] | None = None
) -> dict[str, Any]:
    found = [-0.5] * len(ids or ()) if log_probs is None else log_probs
    return {"choices": [{"finish_reason": ended, "token_ids": ids, "logprobs": {"token_logprobs": found}}]}


def test_replies_are_read_as_both_kinds_of_servers_write_them() -> None:
    """vLLM counts the token that ended an answer among its tokens, `serve` does not."""
    body, stops = {"max_tokens": 3}, frozenset({9})
    own = Continuation(ids=(4, 5), ended="stop")
    assert _continuation(_reply([4, 5, 9]), body, stops) == _continuation(_reply([4, 5]), body, stops) == own
    assert _continuation(_reply([4, 5, 9]), body, stops).log_probs == (-0.5, -0.5)
    assert _continuation(_reply([4, 5, 6], ended="length"), body, stops).ended == "length"
    for wrong in (
        {},
        _reply([4, 9, 5]),
        _reply([4, 5, 6, 7]),
        _reply([4], ended="tool_calls"),
        _reply([4], log_probs=[]),
    ):
        with pytest.raises(Failed):
            _continuation(wrong, body, stops)
    with pytest.raises(Refused, match="gives no token_ids"):
        _continuation(_reply(None), body, stops)
