"""The paper's numbers and a run's as printed: a table a kind, how many cells agree, and what still differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caa_bench.analysis.published import KEYS, OPEN_ENDED
from caa_bench.report import words
from caa_bench.report.columns import columns

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

TITLES = {
    "ab": "A/B test, p(matching)",
    "layer_transfer": "Layer transfer, p(matching) with the vector of layer {layer}",
    "base_to_chat_transfer": "Base-to-chat transfer, p(matching) with the base model's vector",
    "mmlu": "MMLU, p(correct)",
    "truthfulqa": "TruthfulQA, p(correct)",
    OPEN_ENDED: "Answers in words, score from 0 to 1",
}
JUDGES = ("gpt-4", "gpt-4-0314", "gpt-4-0613")
"""The paper's judge; gpt-4o and others are other judges."""
MAX_NEW_TOKENS = 100


def paper_judge(report: Report) -> bool:
    """Whether the leading judge of the answers in words is the paper's model."""
    judges = report.manifest["facts"].get("judges", [])
    if not judges or judges[0]["name"] != "api":
        return False
    return str(judges[0]["settings"].get("model", "")).rpartition("/")[2] in JUDGES


def render(parts: Sequence[pd.DataFrame], report: Report, *, source: str, measured: set[str]) -> str:
    """All of it.

    Args:
        parts: the lines of `published_table`, one table a kind.
        measured: the kinds that the run has cells of.
    """
    tables = [_section(part) for part in parts]
    known = {kind for part in parts for kind in part["kind"]}
    notes = [*_notes(parts, report), *_missing(measured - known, report)]
    first = f"Beside {source}\nA cell agrees where the interval of its difference (here - published) holds 0"
    return "\n\n".join([first, *tables, "\n".join(notes)])


def _section(table: pd.DataFrame) -> str:
    kind = str(table["kind"].iloc[0])
    head = ["base", "layer", "dose", "n", "published", "here"]
    if one_scale := kind != OPEN_ENDED or bool(table["difference"].notna().any()):
        head += ["difference", "agrees"]
    if kind == OPEN_ENDED:
        head += ["published change", "change here"]
    lines = [_line(line, one_scale=one_scale, worded=kind == OPEN_ENDED) for line in table.to_dict("records")]
    title = TITLES[kind].format(layer=f"{table['vector_layer'].iloc[0]:.0f}")
    return f"{title}: {_answer(table)}\n{columns(head, lines)}"


def _answer(table: pd.DataFrame) -> str:
    """How many cells agree; on two scales, how many changes go the same way."""
    known = table[table["agrees"].notna()]
    if len(known):
        return f"{int(known['agrees'].sum())} of {len(known)} cells agree"
    moved = table[
        (table["change_published"].round(9) != 0) & table["change_published"].notna() & table["change"].notna()
    ]
    if len(moved):
        same = int((np.sign(moved["change"]) == np.sign(moved["change_published"])).sum())
        return f"{same} of {len(moved)} changes with the dose have the published sign"
    return "no interval (under 20 items)" if table["level"].notna().any() else "no score"


def _line(line: dict[str, Any], *, one_scale: bool, worded: bool) -> list[str]:
    shown = [
        line["base"],
        f"{line['layer']:.0f}",
        words.multiplier(line["multiplier"]),
        words.count(line["n"]),
        words.probability(line["published"]),
        words.interval(line, "level", words.probability),
    ]
    if one_scale:
        shown.append(words.interval(line, "difference", words.signed) + (" *" if line["by_item"] else ""))
        shown.append({True: "yes", False: "no", None: words.NA}[line["agrees"]])
    if worded:
        moved = bool(line["multiplier"])
        shown += (
            [words.signed(line["change_published"]), words.interval(line, "change", words.signed)]
            if moved
            else ["", ""]
        )
    return shown


def _notes(parts: Sequence[pd.DataFrame], report: Report) -> Iterator[str]:
    """What still differs from the paper's settings."""
    recipe, bases = report.manifest["recipe"], {base for part in parts for base in part["base"]}
    if any(part["by_item"].any() for part in parts):
        yield "* taken item by item; elsewhere the published value has no interval of its own"
    if twice := sum(int(part.duplicated(["base", *KEYS[4:]]).sum()) for part in parts):
        yield f"{twice} cells have two published numbers, of two runs; each has its line"
    if any(base.startswith("lora_sft") for base in bases):
        yield "lora_sft: a LoRA here, a finetune of every weight there (recipes/paper_full_sft.yaml)"
    if any(base.startswith("system_prompt") for base in bases) and recipe.get("system_prompt.layout") != "paper":
        yield f"system_prompt.layout is {recipe.get('system_prompt.layout')!r} here; there it is 'paper'"
    dtype = report.manifest["facts"].get("model", {}).get("dtype")
    if dtype not in ("float32", None) and "7b" in str(recipe["model"]).lower():
        yield f"loading.dtype is {dtype} here; there it is float32 for 7B"
    if any((part["kind"] == OPEN_ENDED).any() for part in parts):
        yield from _judging(report)


def _judging(report: Report) -> Iterator[str]:
    recipe, judges = report.manifest["recipe"], report.manifest["facts"].get("judges", [])
    if paper_judge(report):
        yield f"open_ended: judged by {judges[0]['settings']['model']} as there, with a rubric in other words"
    else:
        judge = judges[0]["name"] if judges else "nobody yet"
        yield f"open_ended: judged by {judge} here, by gpt-4 there: two scales, so compare how the score changes"
    for key, wanted in (("open_ended.max_new_tokens", MAX_NEW_TOKENS), ("open_ended.temperature", 0)):
        if key in recipe and recipe[key] != wanted:
            yield f"{key} is {recipe[key]} here; there it is {wanted}"


def _missing(kinds: set[str], report: Report) -> Iterator[str]:
    """What was measured but stands beside nothing."""
    for kind in sorted(kinds):
        if kind in TITLES:
            yield f"{TITLES[kind].partition(',')[0]}: no published number for these layers and doses"
        else:
            source = report.manifest["recipe"].get("capability.source")
            yield f"capability.source is {source!r}; the paper asked 'mmlu' and 'truthfulqa'"
