"""`classifier`: a small text classifier fitted on the behavior's own answers; needs no model, no network and no key.

It learns the option texts of the train split, matching against not matching, as TF-IDF of words and word pairs. How
well that carries over to free text is not known; how well it does on option texts it has not seen stands beside every
score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from caa_bench.judges.base import Asked, Judge, Judgement, Judging

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.model import ChatModel

FOLDS = 5


class ClassifierJudge(Judge):
    """The probability that an answer is of the matching side."""

    name = "classifier"

    def check(self, behavior: Behavior) -> list[str]:
        """Something to learn, and something to hold out, of both sides."""
        fewest = _fewest(labeled_texts(behavior))
        if fewest >= 2:
            return []
        return [
            f"open_ended.judges: classifier needs two different answer texts of each side in the train split of "
            f"{behavior.id!r}, and finds {fewest}; give more items, or use model or api"
        ]

    def settings(self, behavior: Behavior) -> dict[str, Any]:
        """The texts it learns from decide everything."""
        return {"name": self.name, "train": behavior.fingerprint("train")}

    def reliability(self, behavior: Behavior) -> dict[str, float]:
        """Accuracy on texts held out in up to `FOLDS` folds, the same text never on both sides of a fold."""
        return {"held_out_accuracy": held_out_accuracy(labeled_texts(behavior))}

    def judge(self, asked: Sequence[Asked], *, behavior: Behavior, chat: ChatModel) -> Judging:
        """Fit, then all of them at once."""
        texts, sides = zip(*labeled_texts(behavior), strict=True)
        fitted = _pipeline().fit(texts, sides)
        matching = list(fitted.classes_).index(True)
        for place, row in enumerate(fitted.predict_proba([one.text for one in asked])):
            yield place, Judgement(score=float(row[matching]))


def labeled_texts(behavior: Behavior) -> tuple[tuple[str, bool], ...]:
    """Each different option text of the train split, and whether it is of the matching side."""
    found = {
        (item.options[place].strip(), place == item.matching)
        for item in behavior.train
        for place in (item.matching, item.other)
    }
    return tuple(sorted(found))


@cache
def held_out_accuracy(labeled: tuple[tuple[str, bool], ...]) -> float:
    """Mean accuracy over stratified folds; a text that stands on both sides is always held out with itself."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score

    texts, sides = zip(*labeled, strict=True)
    folds = StratifiedGroupKFold(min(FOLDS, _fewest(labeled)), shuffle=True, random_state=0)
    return float(cross_val_score(_pipeline(), list(texts), list(sides), groups=texts, cv=folds).mean())


def _fewest(labeled: Sequence[tuple[str, bool]]) -> int:
    """Texts of the side that has fewer."""
    sides = [side for _, side in labeled]
    return min(sides.count(True), sides.count(False))


def _pipeline() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # Single letters count too: "I" and "a" tell refusals from offers. C=10: a hundred short texts say little each.
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", sublinear_tf=True)  # noqa: S106
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced"))
