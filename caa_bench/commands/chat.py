"""`chat`: a conversation with the steered model; the dose can be changed while talking."""

from __future__ import annotations

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from caa_bench.commands.generate import SteeredCommand, answer_text, check_multiplier, described, dose_text
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.commands.session import Session

HELP = """/multiplier 1.5   another dose, from the next answer on; 0 is the base alone
/base NAME        put the vector on another base: none, system_prompt_negative, lora_sft_positive, ...
/reset            forget the conversation
/quit             leave (or end the input)
/help             this list"""


class Chat(SteeredCommand):
    """Reads lines from the terminal or a pipe."""

    name = "chat"
    help = "talk with the steered model; /multiplier changes the dose"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the dose that the conversation begins with."""
        parser.add_argument(
            "--multiplier",
            type=float,
            help="dose at the beginning (the run's or the tuned one towards matching, else 1)",
        )
        super().add_options(parser)

    def run(self, options: Namespace) -> int:
        """Until /quit or the end of the input; a mistake costs a line and not the conversation."""
        if options.multiplier is not None:
            check_multiplier(options.multiplier)
        session = self.session(options)
        multiplier = session.doses[-1] if options.multiplier is None else options.multiplier
        conversation = Conversation(session, multiplier=multiplier)
        print(f"{described(session)}, {dose_text(session, multiplier)}; /help lists what can be changed")
        with contextlib.suppress(KeyboardInterrupt):
            for line in _typed_lines():
                try:
                    said = conversation.take(line)
                except UserError as error:
                    print(*(f"caa-bench: {text}" for text in error.lines), sep="\n", file=sys.stderr, flush=True)
                    continue
                if said is None:
                    break
                print(said, flush=True)
        return 0


class Conversation:
    """What was said, and how the next answer is steered.

    Args:
        session: the model with its vector and base.
        multiplier: the dose.
    """

    def __init__(self, session: Session, *, multiplier: float) -> None:
        self.session = session
        self.multiplier = multiplier
        self.messages: list[dict[str, str]] = []

    def take(self, line: str) -> str | None:
        """A command, or the user's next turn; what is to be shown, None to leave.

        Raises:
            UserError: an unknown command, a value that it cannot take, or words that cannot be answered.
        """
        if not line.startswith("/"):
            return self._answer(line)
        name, _, value = line[1:].partition(" ")
        commands: dict[str, Callable[[str], str]] = {
            "multiplier": self._set_multiplier,
            "base": self._set_base,
            "reset": self._reset,
            "help": lambda _: HELP,
        }
        if name == "quit":
            return None
        if name not in commands:
            raise UserError(f"/{name}: no such command; use {', '.join(f'/{known}' for known in (*commands, 'quit'))}")
        return commands[name](value.strip())

    def _answer(self, words: str) -> str:
        turn = {"role": "user", "content": words}
        (answer,) = self.session.answers([*self.messages, turn], multipliers=[self.multiplier])
        self.messages += [turn, {"role": "assistant", "content": answer.text}]
        return answer_text(answer)

    def _set_multiplier(self, value: str) -> str:
        try:
            multiplier = float(value)
        except ValueError:
            raise UserError(f"/multiplier: {value!r} is no number; write one, as in /multiplier 1.5") from None
        check_multiplier(multiplier)
        self.multiplier = multiplier
        return dose_text(self.session, multiplier)

    def _set_base(self, value: str) -> str:
        if not value:
            raise UserError("/base: no name; write one, as in /base system_prompt_negative, or none")
        self.session.use_base(value)
        return f"base {self.session.base.label}"

    def _reset(self, _: str) -> str:
        self.messages = []
        return "a new conversation"


def _typed_lines() -> Iterator[str]:
    """What the user types, blank lines left out; no prompt where nobody sees it.

    Raises:
        UserError: a pipe that holds no UTF-8.
    """
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        except UnicodeDecodeError:
            raise UserError("stdin: not UTF-8; convert it first, for example with iconv") from None
        if line:
            yield line
