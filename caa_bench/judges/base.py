"""What a judge is: answers in words -> scores from 0 (not the behavior at all) to 1 (the behavior), or none."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from caa_bench.config.values import configured
from caa_bench.storage.registry import code_key

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.model import ChatModel


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An answer to be judged.

    Args:
        question: what the model was asked, without any system prompt.
        text: what it said; never empty.
    """

    question: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge said.

    Args:
        score: 0-1; None where what was said holds no score, which is missing and not 0.
        reply: the judge's own words, for whoever wants to look.
    """

    score: float | None
    reply: str = ""


Judging = Generator[tuple[int, Judgement], None, None]
"""Places and judgements, as they come in; to be closed by whoever stops listening."""


class Judge:
    """Scores answers in words.

    Args:
        config: its section under `judges` in the recipe; the defaults where neither it nor `settings` are given.
        **settings: the keys of that section by name, checked as in a recipe.

    Example:
        from caa_bench import Judge, OpenEnded
        from caa_bench.judges import Judgement

        class Length(Judge):
            name = "length"

            def judge(self, asked, *, behavior, chat):
                yield from ((n, Judgement(score=min(len(one.answer) / 1000, 1.0))) for n, one in enumerate(asked))

        OpenEnded(judges=[Length()])
    """

    name: ClassVar[str] = ""
    request_keys: ClassVar[tuple[str, ...]] = ()
    """Config keys that only say how patiently it is asked: no part of what a judgement or a run is bound to."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The recipe section's keys: none."""

    def __init__(self, config: Any = None, **settings: Any) -> None:
        self.config: Any = configured(self.Config, config, settings, section=f"judges.{self.name}")

    def check_slices(self) -> list[str]:
        """One line where it cannot work beside a measured model in slices (`loading.parallel: tensor`)."""
        return []

    def check(self, behavior: Behavior) -> list[str]:
        """One line for each thing that cannot work; run before any weights load."""
        return []

    def settings(self, behavior: Behavior) -> dict[str, Any]:
        """Everything that decides a judgement beside the answer, as JSON: part of each judgement's key."""
        code = {"code": key} if "name" in vars(type(self)) and (key := code_key(type(self))) else {}
        return {"name": self.name} | code | deciding(self.config, self.request_keys)

    def reliability(self, behavior: Behavior) -> dict[str, float]:
        """What is known of how good it is, by name (`held_out_accuracy`); empty where nothing is."""
        return {}

    def costs(self, behavior: Behavior, *, answers: int) -> list[str]:
        """What judging so many answers may cost, one line each, said before the run."""
        return []

    def judge(self, asked: Sequence[Asked], *, behavior: Behavior, chat: ChatModel) -> Judging:
        """Places in `asked` and their judgements, each as soon as it is there and in any order.

        An answer that could not be judged for now (no server, say) is left out, and asked about again by the next run.

        Args:
            chat: the measured model, not loaded until its weights are asked for.
        """
        raise NotImplementedError

    def finished(self, judgement: Judgement) -> bool:
        """Whether a kept judgement is one: what was cut off is asked about again."""
        return True

    def complaints(self) -> list[str]:
        """Why answers were left out by the last `judge`, in a few words each."""
        return []


def deciding(config: Any, request_keys: Sequence[str]) -> dict[str, Any]:
    """The config's keys without those in `request_keys`."""
    return {key: value for key, value in asdict(config).items() if key not in request_keys}
