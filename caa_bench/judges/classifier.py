"""`classifier`: a small text classifier fitted on the behavior's own answers; needs no model, no network and no key.

It learns the option texts of the train split, matching against not matching, as TF-IDF of words and word pairs. It is
tried on texts whose opening words it has not seen, because answers made from one template are no test of it; where it
is right on too few of these it gives no score at all. How well it carries over to free text is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from caa_bench.judges.base import Asked, Judge, Judgement, Judging
from caa_bench.judges.degenerate import degenerate

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.model import ChatModel

FOLDS = 5
OPENING_WORDS = 3
FEWEST_OPENINGS = 10
"""An accuracy over fewer says nothing: of four texts, three right may be chance."""
LEAST_ACCURACY = 0.75
"""On unseen openings; below it the classifier abstains."""
INSTEAD = "use the judge model or api (open_ended.judges)"


class ClassifierJudge(Judge):
    """The probability that an answer is of the matching side; none for what it knows nothing about."""

    name = "classifier"

    def check(self, behavior: Behavior) -> list[str]:
        """Something to learn of both sides."""
        fewest = _fewest(labeled_texts(behavior))
        if fewest >= 2:
            return []
        return [
            f"open_ended.judges: classifier needs two different answer texts of each side in the train split of "
            f"{behavior.id!r}, and finds {fewest}; give more items, or use model or api"
        ]

    def settings(self, behavior: Behavior) -> dict[str, Any]:
        """The texts it learns from, and when it abstains, decide everything."""
        abstains = {"opening_words": OPENING_WORDS, "least_accuracy": LEAST_ACCURACY}
        return {"name": self.name, "train": behavior.fingerprint("train"), "abstains": abstains}

    def reliability(self, behavior: Behavior) -> dict[str, float]:
        """Accuracy on held-out texts with openings that it has not seen; empty where that cannot be measured."""
        accuracy = held_out_accuracy(labeled_texts(behavior))
        return {} if accuracy is None else {"held_out_accuracy": accuracy}

    def costs(self, behavior: Behavior, *, answers: int) -> list[str]:
        """That it will give no score, where so."""
        abstention = self._abstention(behavior)
        return [f"judge classifier: gives no score here, {abstention}; {INSTEAD}"] if abstention else []

    def judge(self, asked: Sequence[Asked], *, behavior: Behavior, chat: ChatModel) -> Judging:
        """Fit, then all of them at once."""
        if abstention := self._abstention(behavior):
            yield from ((place, Judgement(score=None, reply=abstention)) for place in range(len(asked)))
            return
        texts, sides = zip(*labeled_texts(behavior), strict=True)
        fitted = _pipeline().fit(texts, sides)
        matching = list(fitted.classes_).index(True)
        said = [one.text for one in asked]
        known = fitted[0].transform(said).getnnz(axis=1)
        for place, row in enumerate(fitted.predict_proba(said)):
            reason = degenerate(said[place]) or ("" if known[place] else "none of its words is in the answers learned")
            yield place, Judgement(score=None if reason else float(row[matching]), reply=reason)

    def _abstention(self, behavior: Behavior) -> str:
        """Why it gives no score at all; empty where it does."""
        accuracy = held_out_accuracy(labeled_texts(behavior))
        if accuracy is None:
            return "as its training answers have too few different openings to try it on"
        if accuracy < LEAST_ACCURACY:
            needed = f"below the {LEAST_ACCURACY:.0%} needed"
            return f"as it is right on {accuracy:.0%} of answers with openings it has not seen, {needed}"
        return ""


def labeled_texts(behavior: Behavior) -> tuple[tuple[str, bool], ...]:
    """Each different option text of the train split, and whether it is of the matching side."""
    found = {
        (item.options[place].strip(), place == item.matching)
        for item in behavior.train
        for place in (item.matching, item.other)
    }
    return tuple(sorted(found))


@cache
def held_out_accuracy(labeled: tuple[tuple[str, bool], ...]) -> float | None:
    """Mean of both sides' accuracy on texts held out with all others of the same opening words; None: not measurable.

    Random folds would hold texts of one template on both sides of a fold: 1.000 on every behavior of the project.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    texts, sides = (list(column) for column in zip(*labeled, strict=True))
    openings = [opening(text) for text in texts]
    folds = min(FOLDS, _fewest(labeled))
    if folds < 2 or len(set(openings)) < FEWEST_OPENINGS:
        return None
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    parts = list(split.split(texts, sides, openings))
    if any(len({sides[index] for index in learned}) < 2 or not len(held) for learned, held in parts):
        return None
    said = cross_val_predict(_pipeline(), texts, sides, cv=parts)
    return float(balanced_accuracy_score(sides, said))


def opening(text: str) -> str:
    """The first words of a text, which tell the template that it was made from."""
    return " ".join(re.findall(r"\w+", text.lower())[:OPENING_WORDS])


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
