"""The paper's published numbers, and a run's cells beside them: one line a cell that both have.

A published value is a mean over known items, so items are joined by what they ask (`items.text_key`). Where the paper's
answer to each item is known, the difference is taken item by item; elsewhere the run's own interval is moved by the
published value, which has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from caa_bench.analysis.intervals import bootstrap_mean
from caa_bench.analysis.resample import DRAWS
from caa_bench.files import read_json
from caa_bench.paths import configs_folder

KEYS = ["model", "behavior", "base", "layer", "multiplier"]
FINETUNES = {
    "lora_sft_positive": "finetune_positive",
    "lora_sft_negative": "finetune_negative",
    "full_sft_positive": "finetune_positive",
    "full_sft_negative": "finetune_negative",
}
_ENDS = ("", "_low", "_high")
COLUMNS = [
    "cell", *KEYS, "n", "p_published", "decimals", *(f"p_balanced{end}" for end in _ENDS),
    *(f"difference{end}" for end in _ENDS), "by_item", "agrees",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the paper and its repository say.

    Args:
        source: where the numbers are from, for a reader.
        values: columns `KEYS`, `p_published` (0-1) and the `decimals` it was published with.
        items: behavior -> the keys of the items behind each of its values, in the published order.
        answers: (model, behavior, base, layer, multiplier) -> p(matching) of each item by key, where published.
    """

    source: str
    values: pd.DataFrame
    items: Mapping[str, tuple[str, ...]]
    answers: Mapping[tuple[str, str, str, float, float], Mapping[str, float]]


def load_published() -> Published:
    """The numbers in configs/data/published.json."""
    data = read_json(configs_folder() / "data" / "published.json")
    lines = [
        [*(entry[key] for key in KEYS[:-1]), float(multiplier), p, entry["decimals"]]
        for entry in data["values"]
        for multiplier, p in entry["p"].items()
    ]
    return Published(
        source=f"{data['paper']}, {data['repository']}",
        values=pd.DataFrame(lines, columns=[*KEYS, "p_published", "decimals"]),
        items={behavior: tuple(keys.split()) for behavior, keys in data["items"].items()},
        answers={
            (x["model"], x["behavior"], x["base"], float(x["layer"]), float(x["multiplier"])): x["p"]
            for x in data["answers"]
        },
    )


def published_table(
    published: Published,
    cells: pd.DataFrame,
    items: pd.DataFrame,
    *,
    texts: Mapping[str, str],
    seed: int = 0,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Each cell that the paper published too, with the difference (run - published).

    Args:
        cells: from `cells.cell_table`, of the paper's settings. Its unsteered cells stand for every layer asked.
        items: from `items.item_scores`.
        texts: item id -> `items.text_key`.

    Returns:
        `COLUMNS`; `agrees` says whether the difference's interval, widened by the published rounding, holds 0.
    """
    layers = sorted(cells["layer"].dropna().unique())
    still = pd.concat([cells[cells["multiplier"] == 0].assign(layer=layer) for layer in layers] or [cells[:0]])
    steered = cells[(cells["multiplier"] != 0) & (cells["base_dose"] == 1)]
    run = pd.concat([still, steered]).assign(run_base=lambda table: table["base"])
    run["base"] = run["base"].replace(FINETUNES)
    table = published.values.merge(run, on=KEYS, how="inner")
    for end in _ENDS:
        table[f"difference{end}"] = table[f"p_balanced{end}"] - table["p_published"]
    table["by_item"] = False
    for place, line in table.iterrows():
        answers = published.answers.get(tuple(line[KEYS]))
        if answers is not None:
            table.loc[place, [f"difference{end}" for end in _ENDS]] = _paired(
                items[items["cell"] == line["cell"]], answers, texts, seed=seed, draws=draws
            )
            table.loc[place, "by_item"] = True
    slack = 0.5 * 10.0 ** -table["decimals"]
    known = table["difference_low"].notna()
    within = (table["difference_low"] - slack <= 0) & (table["difference_high"] + slack >= 0)
    table["agrees"] = within.astype(object).where(known, None)
    table["base"] = table["run_base"]
    return table[COLUMNS]


def _paired(
    scores: pd.DataFrame, answers: Mapping[str, float], texts: Mapping[str, str], *, seed: int, draws: int
) -> list[float]:
    """Mean over items of (run - published) with its interval."""
    theirs = scores["item"].map(texts).map(answers).to_numpy(float)
    _, clusters = np.unique(scores["cluster"].astype(str).to_numpy(), return_inverse=True)
    found = bootstrap_mean((scores["p_balanced"].to_numpy(float) - theirs)[:, None], clusters, seed=seed, draws=draws)
    return [float(found.point[0]), float(found.low[0]), float(found.high[0])]
