"""What a judging model wrote -> its score, or none. Knows nothing of servers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

# How families write where a thought begins and ends: tags, Mistral, Cohere, Kimi, and the channels of gpt-oss.
_TAG = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis)"
_BEGINS = rf"(?:<{_TAG}(?:\s[^<>]*)?>|\[THINK\]|<\|START_THINKING\|>|◁think▷|<\|channel\|>(?:analysis|commentary))"
_ENDS = rf"(?:</{_TAG}>|\[/THINK\]|<\|END_THINKING\|>|◁/think▷|<\|channel\|>final(?:<\|message\|>)?)"
_THOUGHT = re.compile(f"{_BEGINS}.*?{_ENDS}", re.DOTALL | re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(_BEGINS, re.IGNORECASE)
_THOUGHT_ENDS = re.compile(f".*{_ENDS}", re.DOTALL | re.IGNORECASE)
_OBJECT = re.compile(r"\{[^{}]*\}")
# What may not follow: more of the number, a range, or another scale than 0-10.
_OTHERWISE = (
    r"[\d/%]|\.\d|\s*(?:%|percent|[-–—~,]\s*\d|(?:or|to)\s+\d)"
    r"|\s*(?:\w+\s+)?\(?out\s+of|\s+on\s+a\s+scale\s+(?:of|from)\s+(?!0\s*(?:to|-|–)\s*10\b)"
)
_NUMBER = rf"(\d{{1,2}}(?:\.\d+)?)(?:\s*/\s*10|\s+out\s+of\s+10)?(?!{_OTHERWISE})"
_ALONE = re.compile(rf"\s*(?:{_NUMBER})\s*\.?\s*")
_NAMED = re.compile(rf"\b(?:score|rating)\b\s*(?:is|:|=)\s*{_NUMBER}", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`\"'“”]+")


def without_thoughts(reply: str) -> str | None:
    """What was said beside thoughts; None where the reply ends inside one, so that nothing was said yet.

    A template may open the thought in the prompt, so that the reply holds only its end.
    """
    said = _THOUGHT_ENDS.sub("", _THOUGHT.sub("", reply))
    return None if _THOUGHT_BEGINS.search(said) else said


def thought_in_front(text: str) -> int | None:
    """How many characters of a text are a thought that it begins with: 0 for none, None where it does not end."""
    if not (begun := re.compile(rf"\s*{_BEGINS}", re.IGNORECASE).match(text)):
        return 0
    ends = re.compile(_ENDS, re.IGNORECASE).search(text, begun.end())
    return ends.end() if ends else None


def parse_score(reply: str) -> float | None:
    """The score in a reply as 0-1; None where it holds none, more than one, or one that is not from 0 to 10.

    Read are `{"score": 7}`, also with words around it; `7`, `"7"`, `**7**`, `7/10`; and `Score: 7` in a sentence.
    What stands in a thought is never taken.
    """
    said = without_thoughts(reply)
    if said is None:
        return None
    objects = list(_in_objects(said))
    if objects or _OBJECT.search(said):
        return _scaled(objects)
    plain = _MARKUP.sub("", said)
    if alone := _ALONE.fullmatch(plain):
        return _scaled([float(alone[1])])
    return _scaled([float(found[1]) for found in _NAMED.finditer(plain)])


def whole_score(reply: str) -> bool:
    """Whether the reply holds a finished JSON object with a score, to which nothing that was cut off could be added."""
    said = without_thoughts(reply)
    return said is not None and _scaled(list(_in_objects(said))) is not None


def _in_objects(said: str) -> Iterator[float]:
    """The scores of all JSON objects in a text, as they stand there; what is no number counts as not a number."""
    for found in _OBJECT.finditer(said):
        try:
            value = json.loads(found[0]).get("score")
        except ValueError:
            continue
        if isinstance(value, str) and (number := _ALONE.fullmatch(value)):
            value = float(number[1])
        known = isinstance(value, int | float) and not isinstance(value, bool)
        yield float(value) if known else math.nan


def _scaled(values: list[float]) -> float | None:
    """Their one value over 10; None where there are several, or it is out of range; .7 may be 7 of 10 or .7 of 10."""
    if len(set(values)) != 1 or not 0 <= values[0] <= 10 or 0 < values[0] < 1:
        return None
    return values[0] / 10
