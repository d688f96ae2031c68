"""A run with the paper's settings beside the paper's numbers: what `caa-bench report --published` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from caa_bench.analysis.estimates import ENDS
from caa_bench.analysis.published import AB, KEYS, OPEN_ENDED, TOLERANCE, Published, load_published, published_table
from caa_bench.behaviors.items import question_key, set_key
from caa_bench.errors import UserError
from caa_bench.report import words
from caa_bench.report.headline import CAPABILITY, MEASURE, in_order
from caa_bench.report.text import columns, safe
from caa_bench.storage.drawing import to_csv
from caa_bench.storage.files import terminal_safe, write_atomic

if TYPE_CHECKING:
    from caa_bench.report.model import Report

MODELS = {
    "meta-llama/Llama-2-7b-chat-hf": "llama2-7b-chat",
    "meta-llama/Llama-2-13b-chat-hf": "llama2-13b-chat",
    "meta-llama/Llama-2-7b-hf": "llama2-7b-base",
}
METHOD = "caa"
"""The class that the published numbers are of."""
DIFFERS = "text or key differs"
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
SETTINGS = {"protocol": "caa", "data": "caa", "split": "test"}


def published_text(report: Report) -> str:
    """The comparison as printed; written to `published.csv` in the run folder too.

    Raises:
        UserError: the run cannot be compared: another model, protocol, split, layer or other items; one line each.
    """
    published = load_published()
    mistakes = [f"{terminal_safe(str(report.folder))}: {line}" for line in _mistakes(report, published)]
    if mistakes:
        raise UserError(*mistakes)
    own = _own(report)
    texts = report.record.items or {}
    other_scale = () if paper_judge(report) else (OPEN_ENDED,)
    table = published_table(published, own, report.items, texts=texts, incomparable=other_scale, how=report.record.how)
    if table.empty:
        raise UserError(f"{terminal_safe(str(report.folder))}: {_nothing(report, published, own)}")
    parts = [in_order(part, report.record.bases) for _, part in table.groupby("kind", sort=False)]
    write_atomic(report.folder / "published.csv", to_csv(pd.concat(parts)))
    return safe(render(parts, report, source=published.source, measured=set(own["kind"])).rstrip())


def _nothing(report: Report, published: Published, own: pd.DataFrame) -> str:
    """Why no number of the paper is of any of the run's cells."""
    behavior, values = report.record.behavior.id, published.values
    here = values[(values["model"] == _model(report)) & (values["behavior"] == behavior)]
    here = here[here["kind"].isin(own["kind"])]
    if here.empty:
        kinds = ", ".join(dict.fromkeys(own["kind"])) or "CAA"
        return f"the paper has no number of {behavior} for what it measured ({kinds}); run recipes/paper.yaml"
    layers, doses = sorted(here["layer"].unique()), sorted(set(here["multiplier"]) - {0})
    return (
        f"the paper has no number for its layer and doses; run caa.layers=[N] with N in {layers[0]:.0f} to "
        f"{layers[-1]:.0f} and multipliers of {', '.join(f'{dose:g}' for dose in doses)}"
    )


def _model(report: Report) -> str:
    return MODELS.get(name := report.record.model, name)


def _mistakes(report: Report, published: Published) -> list[str]:
    """The settings first; items of another run say nothing."""
    return list(_other_settings(report, published)) or list(_other_items(report, published))


def _other_settings(report: Report, published: Published) -> Iterator[str]:
    recipe, behavior = report.record.settings, report.record.behavior.id
    models = list(dict.fromkeys(published.values["model"]))
    if _model(report) not in models:
        yield f"model is {recipe['model']!r}; the paper's numbers are of {' and '.join(models)}"
    if recipe.get("fits", 1) != 1:
        yield f"fits is {recipe['fits']!r}, the paper's numbers are of one; run with fits=1"
    for key, wanted in SETTINGS.items():
        if recipe[key] != wanted:
            yield f"{key} is {recipe[key]!r}, the paper's is {wanted!r}; run recipes/paper.yaml"
    if behavior not in published.items:
        yield f"behavior is {behavior!r}; the paper's are {', '.join(published.items)}"


def _other_items(report: Report, published: Published) -> Iterator[str]:
    """Nothing where exactly the published items were asked, whatever was measured of them."""
    record, source = report.record, _source(report)
    behavior = record.behavior.id
    chosen = _items_of(report, MEASURE)
    kept = record.asked.get(CAPABILITY, {})
    facts_needed = _items_of(report, CAPABILITY) if source in published.asked else set()
    if (chosen and record.items is None) or (facts_needed and not kept):
        yield "does not say which items were asked; run the same command again with this version"
        return
    if chosen:
        wanted, asked = set(published.items[behavior]), {(record.items or {}).get(item, item) for item in chosen}
        if strangers := len(asked - wanted):
            yield f"{strangers} of {len(asked)} items are not the paper's ({DIFFERS}); use data=caa as published"
        elif asked != wanted:
            yield f"asked {len(asked)} of the paper's {len(wanted)} items; run again with limit=null"
    if facts_needed:
        yield from _other_set(published, source, n=len(facts_needed), key=kept["key"], limit="limit")
    if report.answers is not None:
        keys = {question_key(question) for question in report.answers.items["question"]}
        name = f"{OPEN_ENDED}/{behavior}"
        yield from _other_set(published, name, n=len(keys), key=set_key(keys), limit="open_ended.limit")


def _other_set(published: Published, name: str, *, n: int, key: str, limit: str) -> Iterator[str]:
    wanted = published.asked[name]
    if n < wanted.n:
        yield f"{name}: asked {n} of the paper's {wanted.n} questions; run again with {limit}=null"
    elif (n, key) != (wanted.n, wanted.key):
        yield f"{name}: its {n} questions are not the paper's {wanted.n} ({DIFFERS}); use data=caa as published"


def _source(report: Report) -> str:
    return str(report.record.settings.get("capability.source", ""))


def _items_of(report: Report, evaluator: str) -> set[str]:
    """Ids of the items that rows are of."""
    cells = report.cells.loc[report.cells["evaluator"] == evaluator, "cell"]
    return set(report.items.loc[report.items["cell"].isin(cells), "item"])


def _own(report: Report) -> pd.DataFrame:
    """The cells of the behavior's own vector of that class, whatever was measured: `KEYS`, `level` and `change`."""
    scored = report.cells.rename(columns={f"p_balanced{end}": f"level{end}" for end in ENDS})
    parts = [scored.assign(**{f"change{end}": float("nan") for end in ENDS})]
    if report.answers is not None:
        names = {f"score{end}": f"level{end}" for end in ENDS} | {f"score_shift{end}": f"change{end}" for end in ENDS}
        parts.append(report.answers.cells.rename(columns=names))
    columns = ["cell", "evaluator", "vector", "vector_behavior", "base_dose", "n", *KEYS[2:]]
    cells = pd.concat([part[columns + [f"{x}{end}" for x in ("level", "change") for end in ENDS]] for part in parts])
    cells = cells[cells["evaluator"].isin([MEASURE, CAPABILITY, OPEN_ENDED])]
    own = cells["vector_behavior"].isin(["", report.record.behavior.id])
    still = (cells["multiplier"] == 0) & (cells["base_dose"] == 1)
    cells = cells[still | (cells["vector"].isin(report.record.labels_of(METHOD)) & own)].assign(model=_model(report))
    cells["vector_model"] = cells["vector_model"].replace(MODELS)
    return cells.assign(kind=_kinds(cells, source=_source(report)))


def _kinds(cells: pd.DataFrame, *, source: str) -> pd.Series:
    """What each cell is of; capability goes by the source of its questions."""
    kind = cells["evaluator"].replace({MEASURE: AB, CAPABILITY: source})
    moved = (kind == AB) & (cells["multiplier"] != 0)
    kind = kind.mask(moved & (cells["vector_layer"] != cells["layer"]), "layer_transfer")
    return kind.mask(moved & (cells["vector_model"] != ""), "base_to_chat_transfer")


def paper_judge(report: Report) -> bool:
    """Whether the leading judge of the answers in words is the paper's model."""
    judges = report.record.judges
    if not judges or judges[0]["name"] != "api":
        return False
    return str(judges[0]["settings"].get("model", "")).rpartition("/")[2] in JUDGES


def render(parts: Sequence[pd.DataFrame], report: Report, *, source: str, measured: set[str]) -> str:
    """All of it.

    Args:
        parts: the lines of `published_table`, one table a kind.
        measured: the kinds that the run has cells of.
    """
    tables = [_kind_text(part) for part in parts]
    known = {kind for part in parts for kind in part["kind"]}
    notes = [*_notes(parts, report), *_missing(measured - known, report)]
    first = (
        f"Beside {source}\nThe questions are the same, so a cell agrees within {TOLERANCE:g} of its published number; "
        "a larger error shows in every cell.\nIntervals are of the difference (here - published) over items"
        + ("; answers in words are new draws, and agree where theirs holds 0" if OPEN_ENDED in known else "")
    )
    return "\n\n".join([first, *tables, "\n".join(notes)])


def _kind_text(table: pd.DataFrame) -> str:
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
    recipe, bases = report.record.settings, {base for part in parts for base in part["base"]}
    if any(part["by_item"].any() for part in parts):
        yield "* taken item by item; elsewhere the published value has no interval of its own"
    if twice := sum(int(part.duplicated(["base", *KEYS[4:]]).sum()) for part in parts):
        yield f"{twice} cells have two published numbers, of two runs; each has its line"
    if any(base.startswith("lora_sft") for base in bases):
        yield "lora_sft: a LoRA here, a finetune of every weight there (recipes/paper_full_sft.yaml)"
    if any(base.startswith("system_prompt") for base in bases) and recipe.get("system_prompt.layout") != "paper":
        yield f"system_prompt.layout is {recipe.get('system_prompt.layout')!r} here; there it is 'paper'"
    if report.record.half and "7b" in str(recipe["model"]).lower():
        yield f"computed in {report.record.half} here; there it is float32 for 7B"
    if any((part["kind"] == OPEN_ENDED).any() for part in parts):
        yield from _judging(report)


def _judging(report: Report) -> Iterator[str]:
    recipe, judges = report.record.settings, report.record.judges
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
            source = report.record.settings.get("capability.source")
            yield f"capability.source is {source!r}; the paper asked 'mmlu' and 'truthfulqa'"
