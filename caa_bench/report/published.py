"""A run with the paper's settings beside the paper's numbers: what `caa-bench report --published` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from caa_bench.analysis.estimates import ENDS, Resampling
from caa_bench.analysis.published import AB, KEYS, OPEN_ENDED, Published, load_published, published_table
from caa_bench.behaviors.items import question_key, set_key
from caa_bench.errors import UserError
from caa_bench.report.conditions import CAPABILITY
from caa_bench.report.headline import MEASURE, in_recipe_order
from caa_bench.report.published_text import paper_judge, render
from caa_bench.storage.files import terminal_safe, write_atomic

if TYPE_CHECKING:
    from caa_bench.report import Report

MODELS = {
    "meta-llama/Llama-2-7b-chat-hf": "llama2-7b-chat",
    "meta-llama/Llama-2-13b-chat-hf": "llama2-13b-chat",
    "meta-llama/Llama-2-7b-hf": "llama2-7b-base",
}
DIFFERS = "text or key differs"
SETTINGS = {"protocol": "caa", "data": "caa", "split": "test"}


def published_text(report: Report) -> str:
    """The comparison as printed; written to `published.csv` in the run folder too.

    Raises:
        UserError: the run cannot be compared: another model, protocol, split, layer or other items; one line each.
    """
    from caa_bench.report import to_csv

    published, recipe = load_published(), report.manifest["recipe"]
    mistakes = [f"{terminal_safe(str(report.folder))}: {line}" for line in _mistakes(report, published)]
    if mistakes:
        raise UserError(*mistakes)
    own = _own(report)
    how = Resampling(seed=recipe["seed"], draws=recipe["draws"])
    texts = report.manifest["facts"].get("items", {})
    other_scale = () if paper_judge(report) else (OPEN_ENDED,)
    table = published_table(published, own, report.items, texts=texts, incomparable=other_scale, how=how)
    if table.empty:
        raise UserError(f"{terminal_safe(str(report.folder))}: {_nothing(report, published, own)}")
    parts = [in_recipe_order(part, recipe.get("bases", [])) for _, part in table.groupby("kind", sort=False)]
    write_atomic(report.folder / "published.csv", to_csv(pd.concat(parts)))
    text = render(parts, report, source=published.source, measured=set(own["kind"])).rstrip()
    return "\n".join(terminal_safe(line).rstrip() for line in text.split("\n"))


def _nothing(report: Report, published: Published, own: pd.DataFrame) -> str:
    """Why no number of the paper is of any of the run's cells."""
    behavior, values = report.manifest["facts"]["behavior"]["id"], published.values
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
    return MODELS.get(name := str(report.manifest["recipe"]["model"]), name)


def _mistakes(report: Report, published: Published) -> list[str]:
    """The settings first; items of another run say nothing."""
    return list(_other_settings(report, published)) or list(_other_items(report, published))


def _other_settings(report: Report, published: Published) -> Iterator[str]:
    recipe, behavior = report.manifest["recipe"], str(report.manifest["facts"]["behavior"]["id"])
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
    facts, source = report.manifest["facts"], _source(report)
    behavior = str(facts["behavior"]["id"])
    chosen = _items_of(report, MEASURE)
    kept = facts.get("asked", {}).get(CAPABILITY, {})
    facts_needed = _items_of(report, CAPABILITY) if source in published.asked else set()
    if (chosen and facts.get("items") is None) or (facts_needed and not kept):
        yield "does not say which items were asked; run the same command again with this version"
        return
    if chosen:
        wanted, asked = set(published.items[behavior]), {facts["items"].get(item, item) for item in chosen}
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
    return str(report.manifest["recipe"].get("capability.source", ""))


def _items_of(report: Report, evaluator: str) -> set[str]:
    """Ids of the items that rows are of."""
    cells = report.cells.loc[report.cells["evaluator"] == evaluator, "cell"]
    return set(report.items.loc[report.items["cell"].isin(cells), "item"])


def _own(report: Report) -> pd.DataFrame:
    """The cells of the behavior's own CAA vector, whatever was measured: `KEYS`, `level` and `change`."""
    scored = report.cells.rename(columns={f"p_balanced{end}": f"level{end}" for end in ENDS})
    parts = [scored.assign(**{f"change{end}": float("nan") for end in ENDS})]
    if report.answers is not None:
        names = {f"score{end}": f"level{end}" for end in ENDS} | {f"score_shift{end}": f"change{end}" for end in ENDS}
        parts.append(report.answers.cells.rename(columns=names))
    columns = ["cell", "evaluator", "vector", "vector_behavior", "base_dose", "n", *KEYS[2:]]
    cells = pd.concat([part[columns + [f"{x}{end}" for x in ("level", "change") for end in ENDS]] for part in parts])
    cells = cells[cells["evaluator"].isin([MEASURE, CAPABILITY, OPEN_ENDED])]
    own = cells["vector_behavior"].isin(["", report.manifest["facts"]["behavior"]["id"]])
    still = (cells["multiplier"] == 0) & (cells["base_dose"] == 1)
    cells = cells[still | ((cells["vector"] == "caa") & own)].assign(model=_model(report))
    cells["vector_model"] = cells["vector_model"].replace(MODELS)
    return cells.assign(kind=_kinds(cells, source=_source(report)))


def _kinds(cells: pd.DataFrame, *, source: str) -> pd.Series:
    """What each cell is of; capability goes by the source of its questions."""
    kind = cells["evaluator"].replace({MEASURE: AB, CAPABILITY: source})
    moved = (kind == AB) & (cells["multiplier"] != 0)
    kind = kind.mask(moved & (cells["vector_layer"] != cells["layer"]), "layer_transfer")
    return kind.mask(moved & (cells["vector_model"] != ""), "base_to_chat_transfer")
