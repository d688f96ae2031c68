"""A thousand damaged tokenizers and behavior folders: each ends in a result or in lines of one kind, within seconds."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.__main__ import main

LIMIT_S = 20
"""Of one case: many times what one takes, so that a slow machine is no failure and a hang is."""
JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "",
    "x",
    "\u0000",
    "<|im_end|>",
    "{{",
    [],
    [[]],
    {},
    {"a": {}},
    "é" * 50,
]
TEXTS = [
    *("", "{", "[]", "null", "\ufeff{}", "\x00\x01", "{{ x", "{% for m in messages %}", "{{ 1 / 0 }}"),
    *("{{ messages[9].x }}", "{% set x = messages %}{{ x.foo.bar }}", "\ud800", "a\r\nb", "9" * 5000, "[" * 3000),
]


class Hangs(BaseException):
    """Past LIMIT_S; no Exception, so that nothing takes it for a mistake of the user's."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a JSON value, a few of a long list."""
    if isinstance(value, dict):
        inner: Any = list(value.items())[:40]
    else:
        inner = list(enumerate(value))[:20] if isinstance(value, list) else []
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


def damaged_json(r: random.Random, text: str) -> str:
    """A JSON text with one to three values replaced, taken out or put in twice."""
    value = json.loads(text)
    for _ in range(r.randrange(1, 4)):
        found = list(places(value))
        if not found:
            break
        *outer, last = r.choice(found)
        here = value
        for key in outer:
            here = here[key]
        kind = r.randrange(4)
        if kind == 0:
            del here[last]
        elif kind == 1 and isinstance(here, list):
            here.append(here[last])
        else:
            here[last] = r.choice(JUNK)
    return json.dumps(value)


def damaged(r: random.Random, path: Path) -> None:
    """One file of a folder: a value of its JSON, some bytes, its end, all of it, or the file itself."""
    data, kind = path.read_bytes(), r.randrange(10)
    if kind < 5 and path.suffix == ".json":
        path.write_text(damaged_json(r, data.decode()))
    elif kind < 7:
        at = r.randrange(len(data) + 1)
        path.write_bytes(
            data[:at] + bytes(r.randrange(256) for _ in range(r.randrange(1, 5))) + data[at + r.randrange(9) :]
        )
    elif kind == 7:
        path.write_bytes(data[: r.randrange(len(data) + 1)])
    elif kind == 8:
        path.write_text(r.choice(TEXTS), encoding="utf-8", errors="surrogatepass")
    else:
        path.unlink()
        if r.random() < 0.5:
            path.mkdir()


def tried(call: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code of a command that may say anything but a traceback."""
    try:
        with limited():
            code = main(call)
    except Hangs:
        pytest.fail(f"hangs: {what}")
    said = capsys.readouterr().err
    assert code in (0, 2), f"{what}: exit {code}: {said[-3000:]}"
    assert "Traceback" not in said, f"{what}: {said[-3000:]}"
    if code == 2:
        lines = [line for line in said.splitlines() if not line.startswith(("model: ", "warning"))]
        assert lines and all(len(line) < 1500 for line in lines), f"{what}: {said[-3000:]}"
    return code


def fuzz(folder: Path, whole: Path, names: list[str], call: Callable[[Path], list[str]], *, count: int, seed: int,
         capsys: pytest.CaptureFixture[str]) -> int:  # fmt: skip
    """Damage copies of a folder at random; how many were refused."""
    r, refused = random.Random(seed), 0
    for number in range(count):
        copy = folder / "broken"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        chosen = r.sample(sorted({name for name in names if (copy / name).exists()}), k=r.choice([1, 1, 1, 2]))
        for name in chosen:
            damaged(r, copy / name)
        refused += tried(call(copy), f"case {number} of seed {seed}, {' and '.join(chosen)}", capsys) == 2
    return refused


def model_folder(folder: Path) -> Path:
    """A small model with its tokenizer in every file that one may have."""
    tokenizer = chatml_tokenizer(bos=True)
    random_model("llama", layers=2, hidden=16, vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokenizers(tmp_path: Path, capsys: pytest.CaptureFixture[str], *, count: int, seed: int) -> int:
    behavior = write_behavior(tmp_path / "small", train=6, test=2)
    settings = [f"behavior={behavior}", "bases=[none]", "vectors=[caa]", "report_to=[]"]
    names = ["tokenizer.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    whole = model_folder(tmp_path / "model")
    call = lambda copy: ["show-tokens", f"model={copy}", *settings]  # noqa: E731 - one line says it
    return fuzz(tmp_path, whole, names, call, count=count, seed=seed, capsys=capsys)


def behaviors(tmp_path: Path, capsys: pytest.CaptureFixture[str], *, count: int, seed: int) -> int:
    behavior = write_behavior(tmp_path / "small", train=6, test=2)
    settings = [f"model={model_folder(tmp_path / 'model')}", "bases=[none, system_prompt_positive]", "vectors=[caa]"]
    names = ["behavior.yaml", "train.json", "test.json", "selection.json", "open_ended.json"]
    more = ["evaluators=[answer_probability, open_ended]", "report_to=[]"]
    return fuzz(tmp_path, behavior, names, lambda copy: ["check", f"behavior={copy}", *settings, *more],
                count=count, seed=seed, capsys=capsys)  # fmt: skip


@pytest.mark.parametrize("kind", [tokenizers, behaviors])
def test_damaged_folders_end_without_a_traceback(kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kind(tmp_path, capsys, count=25, seed=0) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", [tokenizers, behaviors])
def test_a_thousand_damaged_folders_end_without_a_traceback(
    kind: Any, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kind(tmp_path, capsys, count=250, seed=seed) > 100
