"""behavior.yaml -> what a behavior is called, what "matching" means, its system prompts and its judge's rubric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from caa_bench.config.yaml_lines import Node, parse, read_text
from caa_bench.errors import UserError

TEXTS = ("title", "matching", "rubric")
# The neutral one is the placebo: a text of similar length that asks for nothing.
PROMPTS = ("positive", "negative", "neutral")


@dataclass(frozen=True, kw_only=True)
class Card:
    """The content of a behavior.yaml; fields as in Behavior."""

    title: str
    matching: str
    rubric: str
    system_prompts: Mapping[str, str]


def read_card(path: Path) -> Card:
    """Read and check a behavior.yaml.

    Raises:
        UserError: a line for each mistake, with file and line.
    """
    document = parse(read_text(path, str(path)), source=str(path))
    mistakes = [str(mistake) for mistake in document.mistakes]
    fields = _mapping(document.root, str(path), wanted=(*TEXTS, "system_prompts"), mistakes=mistakes)
    for key in fields.keys() - {*TEXTS, "system_prompts"}:
        close = get_close_matches(key, (*TEXTS, "system_prompts"), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        keys = ", ".join((*TEXTS, "system_prompts"))
        mistakes.append(f"{fields[key].where}: unknown key {key!r}; {hint}the keys are {keys}")
    texts = {key: _text(fields[key], key, mistakes) for key in TEXTS if key in fields}
    prompts = {}
    if "system_prompts" in fields:
        node = fields["system_prompts"]
        wanted = () if node.value == {} else PROMPTS  # written as {}: a behavior without prompts of its own
        prompts = _mapping(node, f"{node.where}: system_prompts", wanted=wanted, mistakes=mistakes)
    system_prompts = {key: _text(prompt, f"system_prompts.{key}", mistakes) for key, prompt in prompts.items()}
    if mistakes:
        raise UserError(*mistakes)
    return Card(system_prompts=system_prompts, **texts)


def drafted(title: str, matching: str) -> Card:
    """A card that a run can begin with, its prompts and rubric made of the sentence that says what matching means."""
    said = matching.strip().rstrip(".")
    return Card(
        title=title,
        matching=f"{said}.",
        rubric=f"How far does this hold: {said}? 0: not at all. 5: in part. 10: entirely.",
        system_prompts={
            "positive": f"See to it that this holds of every answer you give: {said}.",
            "negative": f"See to it that the opposite of this holds of every answer you give: {said}.",
            "neutral": "You write in short and simple lines. Use plain words and avoid long lists.",
        },
    )


def _mapping(node: Node, where: str, *, wanted: tuple[str, ...], mistakes: list[str]) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        mistakes.append(f"{node.where}: keys and texts expected; write {', '.join(f'{key}: ...' for key in wanted)}")
        return {}
    missing = [key for key in wanted if key not in node.value]
    if missing:
        mistakes.append(f"{where}: {', '.join(missing)} missing; write {', '.join(f'{key}: ...' for key in missing)}")
    return node.value


def _text(node: Node, key: str, mistakes: list[str]) -> str:
    if isinstance(node.value, str) and node.value.strip():
        text = node.value.strip()
        if text.startswith("<") and text.endswith(">"):
            mistakes.append(f"{node.where}: {key} is still the skeleton's {text}; write your own")
        return text
    found = "empty" if node.value is None or node.value == "" else "not a text"
    mistakes.append(f"{node.where}: {key} is {found}; write a sentence, in quotes where YAML reads it otherwise")
    return ""
