"""A run with the paper's settings beside the paper's numbers: what `caa-bench report --published` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.published import Published, load_published, published_table
from caa_bench.errors import UserError
from caa_bench.files import terminal_safe, write_atomic
from caa_bench.report import words
from caa_bench.report.columns import columns, level_text
from caa_bench.report.headline import in_recipe_order, measured

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

MODELS = {
    "meta-llama/Llama-2-7b-chat-hf": "llama2-7b-chat",
    "meta-llama/Llama-2-13b-chat-hf": "llama2-13b-chat",
}
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
    model = MODELS.get(recipe["model"], recipe["model"])
    own = _own(report).assign(model=model)
    texts = report.manifest["facts"]["items"]
    how = {"seed": recipe["seed"], "draws": recipe["draws"]}
    table = in_recipe_order(published_table(published, own, report.items, texts=texts, **how), recipe.get("bases", []))
    if table.empty:
        layers = sorted(published.values[published.values["model"] == model]["layer"].unique())
        raise UserError(
            f"{terminal_safe(str(report.folder))}: the paper has no number for its layer and doses; run caa.layers="
            f"[N] with N in {layers[0]} to {layers[-1]} and multipliers of -1, -0.5, 0.5 or 1"
        )
    write_atomic(report.folder / "published.csv", to_csv(table))
    text = _render(table, published, report.manifest).rstrip()
    return "\n".join(terminal_safe(line).rstrip() for line in text.split("\n"))


def _mistakes(report: Report, published: Published) -> list[str]:
    """The settings first; items of another run say nothing."""
    return list(_other_settings(report, published)) or list(_other_items(report, published))


def _other_settings(report: Report, published: Published) -> Iterator[str]:
    recipe, behavior = report.manifest["recipe"], str(report.manifest["facts"]["behavior"]["id"])
    models = list(dict.fromkeys(published.values["model"]))
    if MODELS.get(recipe["model"], recipe["model"]) not in models:
        yield f"model is {recipe['model']!r}; the paper's numbers are of {' and '.join(models)}"
    for key, wanted in SETTINGS.items():
        if recipe[key] != wanted:
            yield f"{key} is {recipe[key]!r}, the paper's is {wanted!r}; run recipes/paper.yaml"
    if behavior not in published.items:
        yield f"behavior is {behavior!r}; the paper's are {', '.join(published.items)}"


def _other_items(report: Report, published: Published) -> Iterator[str]:
    """Nothing where exactly the published items were asked."""
    texts = report.manifest["facts"].get("items")
    if texts is None:
        yield "does not say which items were asked; run the same command again with this version"
        return
    wanted = set(published.items[str(report.manifest["facts"]["behavior"]["id"])])
    asked = {texts.get(item, item) for item in report.items["item"].unique()}
    if strangers := len(asked - wanted):
        yield f"{strangers} of {len(asked)} items are not the paper's (text or key differs); use data=caa as published"
    elif asked != wanted:
        yield f"asked {len(asked)} of the paper's {len(wanted)} items; run again with limit=null"


def _own(report: Report) -> pd.DataFrame:
    """The cells of the behavior's own CAA vector, taken at the steered layer in the measured model."""
    cells = measured(report.cells)
    still = cells["multiplier"] == 0
    own = (cells["vector"] == "caa") & cells["vector_behavior"].isin(["", report.manifest["facts"]["behavior"]["id"]])
    here = own & (cells["vector_layer"] == cells["layer"]) & (cells["vector_model"] == "")
    return cells[(still & (cells["base_dose"] == 1)) | here]


def _render(table: pd.DataFrame, published: Published, manifest: Mapping[str, Any]) -> str:
    dtype = manifest["facts"].get("model", {}).get("dtype")
    known = table[table["agrees"].notna()]
    answer = (
        f"{int(known['agrees'].sum())} of {len(known)} cells agree with {published.source}: the interval of the "
        "difference holds 0"
        if len(known)
        else f"no interval (under 20 items) beside {published.source}"
    )
    lines = [
        [
            line["base"],
            f"{line['layer']:.0f}",
            words.dose(line["multiplier"]) if line["multiplier"] else "0",
            words.probability(line["p_published"]),
            level_text(line),
            _difference(line),
            str(int(line["n"])),
            {True: "yes", False: "no", None: words.NA}[line["agrees"]],
        ]
        for line in table.to_dict("records")
    ]
    head = ["base", "layer", "dose", "published", "here", "difference", "n", "agrees"]
    return "\n".join([answer, "", columns(head, lines), "", *_notes(table, manifest["recipe"], dtype=dtype)])


def _difference(line: dict[str, Any]) -> str:
    point, low, high = (words.signed(line[f"difference{end}"]) for end in ("", "_low", "_high"))
    shown = point if words.NA in (low, high) else f"{point} [{low}, {high}]"
    return f"{shown} *" if line["by_item"] else shown


def _notes(table: pd.DataFrame, recipe: Mapping[str, Any], *, dtype: str | None) -> Iterator[str]:
    """What still differs from the paper's settings."""
    if table["by_item"].any():
        yield "* taken item by item; elsewhere the published value has no interval of its own"
    if table["base"].str.startswith("lora_sft").any():
        yield "lora_sft: a LoRA here, a finetune of every weight there (recipes/paper_full_sft.yaml)"
    if table["base"].str.startswith("system_prompt").any() and recipe.get("system_prompt.layout") != "paper":
        yield f"system_prompt.layout is {recipe.get('system_prompt.layout')!r} here; there it is 'paper'"
    if dtype not in ("float32", None) and "7b" in str(recipe["model"]).lower():
        yield f"loading.dtype is {dtype} here; there it is float32 for 7B"
