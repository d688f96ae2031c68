"""`generate`: a question answered at several multipliers, one below the other."""

from __future__ import annotations

import math
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import Command, add_loudness, add_set, overrides_of, quiet_libraries
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.of_run import OfRun
    from caa_bench.commands.session import Answer, Session, Settings


class SteeredCommand(Command):
    """A command that lets the model speak."""

    def add_options(self, parser: ArgumentParser) -> None:
        """The run, or the behavior and the model; what stands below and where it is steered."""
        self.add_run(parser)
        parser.add_argument("--behavior", help="a behavior's name or folder (default: the recipe's)")
        parser.add_argument("--model", help="a model's name, folder or hub name (default: the recipe's)")
        parser.add_argument("--base", default="none", help="what CAA is put on top of, as in a recipe (%(default)s)")
        parser.add_argument("--layer", type=int, help="the block to steer, from 0 (default: the recipe's)")
        parser.add_argument("--max-new-tokens", type=int, default=100, help="longest answer (%(default)s)")
        parser.add_argument("--recipe", default="compare", help="where all other settings are from (%(default)s)")
        add_set(parser)
        parser.add_argument("--override", action="append", default=[], help=SUPPRESS)  # `key=value`, as it was typed
        add_loudness(parser)

    def add_run(self, parser: ArgumentParser) -> None:
        """How a run is named."""
        parser.add_argument(
            "--run", metavar="RUN", help="a finished run: its behavior, model, vector, layer and doses are taken"
        )

    def session(self, options: Namespace) -> Session:
        """The loaded model with its vector and base; says where its layer is one that nobody has tuned.

        Raises:
            UserError: one line a mistake.
        """
        from caa_bench.commands.of_run import of_run
        from caa_bench.commands.session import Session

        quiet_libraries(options)
        made = Session(self.settings(options, of_run(options)), base=options.base)
        if made.is_default_layer:
            print(
                f"caa-bench: layer {made.layer} is a default that nobody has tuned on this model, and so is the dose; "
                "name a finished run, or --layer",
                file=sys.stderr,
            )
        return made

    def settings(self, options: Namespace, run: OfRun | None = None) -> Settings:
        """What is steered, and how."""
        from caa_bench.commands.session import Settings

        return Settings(
            recipe=options.recipe if run is None else run.recipe,
            changes=(*(run.changes if run else ()), *overrides_of(options), *options.override),
            vectors=run.vectors[:1] if run else (),
            settled=run.settled if run else {},
            below=run.below if run else {},
            doses=run.doses if run else (),
            behavior=options.behavior,
            model=options.model,
            layer=options.layer,
            max_new_tokens=options.max_new_tokens,
            progress=not options.quiet,
        )


class Generate(SteeredCommand):
    """All multipliers are decoded together."""

    name = "generate"
    help = "answer a question at several multipliers, side by side"

    def add_options(self, parser: ArgumentParser) -> None:
        """The question and the doses."""
        parser.add_argument("question", help="what the model is asked")
        parser.add_argument(
            "--multipliers",
            nargs="+",
            action=Doses,
            default=[],
            help="doses: -1 0 1 or [-1,0,1] (0, and the run's or the tuned dose both ways, else -1 and 1)",
        )
        super().add_options(parser)

    def run(self, options: Namespace) -> int:
        """Print the answer at each multiplier, one below the other."""
        for multiplier in options.multipliers:
            check_multiplier(multiplier)
        session = self.session(options)
        asked = [{"role": "user", "content": options.question}]
        multipliers = options.multipliers or sorted({0.0, *session.doses})
        answers = session.answers(asked, multipliers=multipliers)
        print(described(session))
        for multiplier, answer in zip(multipliers, answers, strict=True):
            print(f"\n{dose_text(session, multiplier)}\n{answer_text(answer, indent='    ')}")
        return 0


class Doses(Action):
    """Numbers with blanks or commas between them, also in brackets as in a recipe."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Read them all."""
        texts = [text for value in values for text in value.strip("[] ").replace(",", " ").split()]
        setattr(namespace, self.dest, doses(texts, option=str(option_string)))


def doses(texts: Sequence[str], *, option: str) -> list[float]:
    """Texts as doses.

    Raises:
        UserError: one of them is no finite number, or there is none.
    """
    found = []
    for text in texts:
        try:
            found.append(float(text))
        except ValueError:
            raise UserError(
                f"{option}: {terminal_safe(text)!r} is no number; write for example {option} -1 0 1"
            ) from None
    if not found:
        raise UserError(f"{option}: no number; write for example {option} -1 0 1")
    return found


def described(session: Session) -> str:
    """What speaks, in a line."""
    where = "" if session.layer is None else f", layer {session.layer}"
    return f"{session.behavior.title} on {session.chat.name}{where}, base {session.base.label}"


def dose_text(session: Session, multiplier: float) -> str:
    """The vector and its dose, as in `CAA +1.5`."""
    from caa_bench.report.words import display

    return f"{display(session.vector.label)} {multiplier:+g}"


def answer_text(answer: Answer, *, indent: str = "") -> str:
    """The answer's lines, inert: a model's words cannot drive the reader's terminal."""
    lines = [terminal_safe(line).rstrip() for line in answer.text.split("\n")] if answer.text else ["(nothing)"]
    return "\n".join(indent + line for line in [*lines, *(["(cut at --max-new-tokens)"] if answer.cut else [])])


def check_multiplier(multiplier: float) -> None:
    """Refuse what is no dose.

    Raises:
        UserError: infinite, or not a number.
    """
    if not math.isfinite(multiplier):
        raise UserError(f"multiplier: {multiplier} is no dose; give a finite number, for example 1.5")
