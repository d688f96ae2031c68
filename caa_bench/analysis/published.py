"""The paper's published numbers, and a run's cells beside them: one line a number whose cell the run has too.

A published value is a mean over known items, so items are joined by what they ask (`items.text_key`). Where the paper's
answer to each item is known, the difference is taken item by item; elsewhere the run's own interval is moved by the
published value, which has none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.estimates import ENDS, STANDARD, Estimate, Resampling, codes
from caa_bench.analysis.intervals import bootstrap_mean
from caa_bench.storage.files import read_json
from caa_bench.storage.paths import configs_folder

AB, OPEN_ENDED = "ab", "open_ended"
KINDS = (AB, "layer_transfer", "base_to_chat_transfer", "mmlu", "truthfulqa", OPEN_ENDED)
KEYS = ["kind", "model", "behavior", "base", "vector_model", "vector_layer", "layer", "multiplier"]
FINETUNES = {
    "lora_sft_positive": "finetune_positive",
    "lora_sft_negative": "finetune_negative",
    "full_sft_positive": "finetune_positive",
    "full_sft_negative": "finetune_negative",
}
COLUMNS = [
    "cell", *KEYS, "n", "published", "decimals", *Estimate.columns("level", "difference"), "by_item", "item_gap",
    "agrees", "change_published", *Estimate.columns("change"),
]  # fmt: skip
TOLERANCE = 0.01
"""Of a mean probability over the same items: nothing is drawn anew, so only arithmetic may differ (bf16: .002). An
interval over items would let errors of .10 pass."""
TOP_SCORE = 10.0
"""The paper's judge gives 0 to 10, ours 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A set of published questions.

    Args:
        n: how many.
        key: `items.set_key` of their keys.
    """

    n: int
    key: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the paper and its repository say.

    Args:
        source: where the numbers are from, for a reader.
        values: columns `KEYS`, `published` (0-1), the `decimals` it was published with, and `series`, which numbers
            of one curve share.
        items: behavior -> the keys of the A/B items behind each of its values, in the published order.
        asked: the questions behind the other values: `mmlu`, `truthfulqa`, `open_ended/<behavior>`.
        answers: (model, behavior, base, layer, multiplier) -> p(matching) of each A/B item by key, where published.
    """

    source: str
    values: pd.DataFrame
    items: Mapping[str, tuple[str, ...]]
    asked: Mapping[str, Asked]
    answers: Mapping[tuple[str, str, str, float, float], Mapping[str, float]]


def load_published() -> Published:
    """The numbers in configs/data/published.json."""
    data = read_json(configs_folder() / "data" / "published.json")
    lines = [line for series, entry in enumerate(data["values"]) for line in _curve_values(entry, series)]
    return Published(
        source=f"{data['paper']}, {data['repository']}",
        values=pd.DataFrame(lines, columns=[*KEYS, "published", "decimals", "series"]),
        items={behavior: tuple(keys.split()) for behavior, keys in data["items"].items()},
        asked={name: Asked(**entry) for name, entry in data["asked"].items()},
        answers={
            (x["model"], x["behavior"], x["base"], float(x["layer"]), float(x["multiplier"])): x["p"]
            for x in data["answers"]
        },
    )


def _curve_values(entry: Mapping[str, Any], series: int) -> Iterator[list[Any]]:
    """One a layer and multiplier of a curve."""
    scored = entry["kind"] == OPEN_ENDED
    decimals = entry["decimals"] + (1 if scored else 0)
    for layer, row in zip(entry["layers"], entry["published"], strict=True):
        source = [entry.get("vector_model", ""), float(entry.get("vector_layer", layer)), float(layer)]
        for multiplier, value in zip(entry["multipliers"], row, strict=True):
            named = [entry[key] for key in KEYS[:4]]
            yield [*named, *source, multiplier, value / TOP_SCORE if scored else value, decimals, series]


def published_table(
    published: Published,
    cells: pd.DataFrame,
    items: pd.DataFrame,
    *,
    texts: Mapping[str, str],
    incomparable: Collection[str] = (),
    how: Resampling = STANDARD,
) -> pd.DataFrame:
    """Each cell that the paper published too, with the difference (run - published).

    Args:
        cells: one line a cell of the paper's settings: `KEYS`, `cell`, `base_dose`, `n`, `level` (0-1) and, for
            answers in words, `change` from the base unsteered, each with its interval. Unsteered cells stand for
            every layer asked.
        items: from `items.item_scores`.
        texts: item id -> `items.text_key`.
        incomparable: kinds whose levels are on another scale than the paper's: no difference is taken there.

    Returns:
        `COLUMNS`, by `KINDS`; `item_gap` is the mean size of the items' own differences, where each published answer is
        known. `agrees` says of answers to the same questions whether the difference is at most `TOLERANCE` and the
        published rounding, and `item_gap` at most `TOLERANCE`; of answers in words, which are sampled and judged anew,
        whether its interval, widened by that rounding, holds 0. A cell with two published numbers has two lines.
    """
    table = published.values.merge(_asked_at_each_layer(cells), on=KEYS, how="inner")
    table["change_published"] = _changes(table, published.values)
    for end in ENDS:
        table[f"change{end}"] = table[f"change{end}"].where(table["change_published"].notna())
        table[f"difference{end}"] = table[f"level{end}"] - table["published"]
    table["by_item"], table["item_gap"] = False, np.nan
    for place, line in table[table["kind"] == AB].iterrows():
        answers = published.answers.get(
            tuple(line[key] for key in ("model", "behavior", "base", "layer", "multiplier"))
        )
        if answers is not None:
            own = items[items["cell"] == line["cell"]]
            table.loc[place, Estimate.columns("difference")] = _paired(own, answers, texts, how=how)
            table.loc[place, "item_gap"] = np.abs(item_differences(own, answers, texts)).mean()
            table.loc[place, "by_item"] = True
    table.loc[table["kind"].isin(incomparable), Estimate.columns("difference")] = np.nan
    slack = 0.5 * 10.0 ** -table["decimals"]
    known = table["difference_low"].notna()
    within = (table["difference_low"] - slack <= 0) & (table["difference_high"] + slack >= 0)
    same = table["kind"] != OPEN_ENDED
    within[same] = table["difference"].abs()[same] <= TOLERANCE + slack[same] + 1e-12
    within &= ~(table["item_gap"] > TOLERANCE)  # errors that cancel in the mean are errors
    table["agrees"] = within.astype(object).where(known, None)
    table["base"] = table["run_base"]
    return table.sort_values("kind", key=lambda kind: kind.map(KINDS.index), kind="stable")[COLUMNS]


def _asked_at_each_layer(cells: pd.DataFrame) -> pd.DataFrame:
    """The run's cells under the paper's names of bases, the unsteered ones once for every layer."""
    layers = sorted(cells["layer"].dropna().unique())
    still = cells[cells["multiplier"] == 0].assign(vector_model="")
    still = pd.concat([still.assign(layer=layer, vector_layer=layer) for layer in layers] or [still[:0]])
    steered = cells[(cells["multiplier"] != 0) & (cells["base_dose"] == 1)]
    run = pd.concat([still, steered]).assign(run_base=lambda table: table["base"])
    run["base"] = run["base"].replace(FINETUNES)
    return run


def _changes(table: pd.DataFrame, values: pd.DataFrame) -> np.ndarray:
    """Published score minus that of the same base unsteered, on the same curve where it has one; NaN elsewhere."""
    keys = [key for key in KEYS if key != "multiplier"]
    still = values[values["multiplier"] == 0].rename(columns={"published": "still"})
    same = table.merge(still[["series", *keys, "still"]], on=["series", *keys], how="left")["still"]
    first = table.merge(still.drop_duplicates(keys)[[*keys, "still"]], on=keys, how="left")["still"]
    worded = (table["kind"] == OPEN_ENDED) & (table["multiplier"] != 0)
    change = table["published"].to_numpy() - same.fillna(first).to_numpy()
    return np.where(worded, change, np.nan)


def _paired(
    scores: pd.DataFrame, answers: Mapping[str, float], texts: Mapping[str, str], *, how: Resampling
) -> list[float]:
    """Mean over items of (run - published) with its interval."""
    difference = item_differences(scores, answers, texts)
    found = bootstrap_mean(difference[:, None], codes(scores["cluster"]), how=how)
    return [float(found.point[0]), float(found.low[0]), float(found.high[0])]


def item_differences(scores: pd.DataFrame, answers: Mapping[str, float], texts: Mapping[str, str]) -> np.ndarray:
    """p of the run less p of the paper, item by item. [N]

    Args:
        scores: one line an item: `item`, `p_balanced`.
        answers: the paper's p of each item by key.
        texts: item id -> key.
    """
    theirs = scores["item"].map(dict(texts)).map(dict(answers)).to_numpy(float)
    return scores["p_balanced"].to_numpy(float) - theirs
