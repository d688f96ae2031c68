"""What was typed -> what a command's parser reads: `key=value` and `--key value` mean the same in every command.

A word `key=value` sets the option `--key` where the command has it, else the recipe's key. An option that the command
does not have sets the recipe's key of that name where the command runs a recipe; elsewhere it is refused with the
nearest one.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

RECIPE_KEY = "KEY=VALUE"
"""The metavar of the arguments that change a recipe."""
OVERRIDE = "--override"
"""Takes them in a command whose free words are something else."""
NEAR = 0.8
_WORD = re.compile(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*)=(.*)", re.DOTALL)
_NUMBERS = re.compile(r"-[\d.eE+,-]*,[\d.eE+,-]*")
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


def command_of(words: Sequence[str], known: Sequence[str]) -> str:
    """The first word, as a command.

    Raises:
        UserError: there is no such command.
    """
    name = words[0]
    if name not in known:
        raise UserError(f"there is no command {shown(name)}{_near(name, known) or '; see caa-bench --help'}")
    return name


def normalized(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The words behind a command's name, each as its parser knows it.

    Args:
        words: as typed; those behind `--` stay as they are.
        parser: the command's own.

    Raises:
        UserError: an option that there is not, or a recipe key without a value.
    """
    steps = next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)
    if steps is not None:
        return _step(words, parser, steps)
    reader = _Reader(parser)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*reader.words, word, *rest]
        reader.take(word, rest)
    return reader.words


def shown(word: str) -> str:
    """The word in quotes, short and inert."""
    return repr(terminal_safe(word[:60])) + ("..." if len(word) > 60 else "")


def _step(words: Sequence[str], parser: argparse.ArgumentParser, steps: argparse.Action) -> list[str]:
    if not words or words[0].startswith("-"):
        return list(words)
    parsers: Mapping[str, argparse.ArgumentParser] = dict(steps.choices or {})
    if words[0] not in parsers:
        hint = _near(words[0], list(parsers)) or f"; use {', '.join(parsers)}"
        raise UserError(f"{_command_name(parser)}: there is no step {shown(words[0])}{hint}")
    return [words[0], *normalized(words[1:], parsers[words[0]])]


class _Reader:
    """Reads word by word into `read`, and changes of the recipe into `changes` where nothing else stands free."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.read: list[str] = []
        self.changes: list[str] = []
        self.parser = parser
        self.options = {name: action for action in parser._actions for name in action.option_strings}
        free = [one for one in parser._actions if not one.option_strings]
        self.recipe = OVERRIDE in self.options or any(one.metavar == RECIPE_KEY for one in free)
        self.alone = [one.metavar for one in free] == [RECIPE_KEY]

    @property
    def words(self) -> list[str]:
        """All of them; changes of the recipe together, since argparse takes no more of them behind an option."""
        return [*self.changes, *self.read]

    def take(self, word: str, rest: list[str]) -> None:
        """Read a word, and those of `rest` that are its value."""
        if word.startswith("--"):
            self._option(word, rest)
        elif found := _WORD.fullmatch(word):
            self._key(word, key=found[1], value=found[2])
        else:
            self.read.append(word)

    def _option(self, word: str, rest: list[str]) -> None:
        name, equals, value = word.partition("=")
        dashed = "--" + name[2:].replace("_", "-")
        action = self.options.get(dashed)
        if action is None:
            self._unknown(name, equals, value, rest)
        elif equals or action.nargs == 0 or not rest:
            self.read.append(dashed + equals + value)
        elif action.nargs is None and not rest[0].startswith("--"):
            self.read.append(f"{dashed}={rest.pop(0)}")  # whatever it begins with, it is the value
        elif _NUMBERS.fullmatch(rest[0]):
            self.read.append(f"{dashed}={rest.pop(0)}")
        else:
            self.read.append(dashed)

    def _unknown(self, name: str, equals: str, value: str, rest: list[str]) -> None:
        near = get_close_matches(name, self.options, n=1, cutoff=NEAR)
        if near or not self.recipe:
            hint = f"; did you mean {near[0]}?" if near else f"; see caa-bench {_command_name(self.parser)} --help"
            raise UserError(f"{_command_name(self.parser)}: there is no option {shown(name)}{hint}")
        key = name[2:].replace("-", "_")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{shown(name)}: no value; write {shown(f'{name} VALUE')} or {shown(f'{key}=VALUE')}")
            value = rest.pop(0)
        self._override(f"{key}={value}")

    def _key(self, word: str, *, key: str, value: str) -> None:
        option = "--" + key.replace("_", "-")
        action = self.options.get(option)
        if action is not None and option != OVERRIDE:
            if action.nargs != 0:
                self.read.append(f"{option}={value}")
            elif value.lower() in (*_YES, *_NO):
                self.read += [option] if value.lower() in _YES else []
            else:
                raise UserError(f"{shown(word)}: {option} takes no value; write {option}, or leave it out")
        elif self.recipe and not ("." not in key and re.search(r"\s", value) and OVERRIDE in self.options):
            self._override(word)
        else:
            self.read.append(word)  # a question may hold an equals sign

    def _override(self, text: str) -> None:
        if OVERRIDE in self.options:
            text = f"{OVERRIDE}={text}"
        (self.changes if self.alone else self.read).append(text)


def _command_name(parser: argparse.ArgumentParser) -> str:
    return parser.prog.removeprefix("caa-bench ")


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
