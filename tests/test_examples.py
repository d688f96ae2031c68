"""Every public name carries an example: what it prints is what it says, and what needs a model is Python."""

from __future__ import annotations

import ast
import doctest
import inspect
import textwrap
from pathlib import Path

import pytest

import caa_bench

FINDER, PARSER = doctest.DocTestFinder(recurse=False), doctest.DocTestParser()


@pytest.mark.parametrize("name", caa_bench.__all__)
def test_the_example_of_a_public_name_does_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect.cleandoc(getattr(caa_bench, name).__doc__ or "")
    example = textwrap.dedent(text.partition("Example:\n")[2])
    assert example, f"{name} has no example"
    if ">>>" not in example:
        # A class of one's own, which would stand in every registry from here on: read and not run.
        assert any(isinstance(node, ast.ClassDef) for node in ast.parse(example).body)
        return
    said: list[str] = []
    test = PARSER.get_doctest(example, {}, name, None, None)
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.attempted >= 2 and not result.failed, "".join(said)
    assert f"{name}" in example
