"""Rows, cells and item scores made from known log-odds, for the analysis tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit


def cell(base: str = "none", *, vector: str = "", multiplier: float = 0.0, layer: float = 3.0, **extra: object) -> dict:
    """One line of the cells frame; its key is spelled from its condition."""
    steered = multiplier != 0
    values = {
        "model": "tiny",
        "protocol": "default",
        "split": "test",
        "behavior": "refusal",
        "evaluator": "answer_probability",
        "base": base,
        "base_dose": 1.0,
        "vector": vector if steered else "",
        "vector_behavior": "refusal" if steered else "",
        "vector_layer": layer if steered else np.nan,
        "layer": layer if steered else np.nan,
        "multiplier": multiplier,
        **extra,
    }
    return {"cell": "|".join(str(value) for value in values.values()), **values}


def frame(lines: Sequence[dict]) -> pd.DataFrame:
    """The cells frame."""
    return pd.DataFrame(lines).set_index("cell")


def rows(
    log_odds: Mapping[str, np.ndarray], *, bias: float = 0.0, mass: float = 0.99, clusters: Sequence[str] | None = None
) -> pd.DataFrame:
    """Two-option rows in both orders: y = log_odds + bias when the matching option stands at A, - bias at B.

    Args:
        log_odds: each cell's balanced log-odds. [N]
        mass: the option mass of every row.
    """
    lines = []
    for key, values in log_odds.items():
        for index, value in enumerate(values):
            for order in (0, 1):
                matching = (index + order) % 2
                y = value + (bias if matching == 0 else -bias)
                logits = [0.0, 0.0]
                logits[matching] = y
                name = f"test/{index:04d}"
                cluster = name if clusters is None else clusters[index]
                log_z = np.logaddexp(*logits) - np.log(mass)
                lines.append((key, name, cluster, order, matching, "AB", *logits, log_z, None))
    columns = ["cell", "item", "cluster", "order", "matching", "letters", "logit_0", "logit_1", "log_z", "error"]
    return pd.DataFrame(lines, columns=columns)


def scores(log_odds: Mapping[str, np.ndarray], *, clusters: Sequence[str] | None = None) -> pd.DataFrame:
    """Item scores as `item_scores` gives them for unbiased rows with all mass on the options, without the detour."""
    parts = []
    for key, values in log_odds.items():
        names = [f"test/{index:04d}" for index in range(len(values))]
        part = pd.DataFrame({"cell": key, "item": names, "cluster": names if clusters is None else clusters})
        parts.append(part.assign(log_odds=values, p_balanced=expit(values)))
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(option_mass=1.0, option_mass_min=1.0, mass_p=table["p_balanced"], letter_bias=0.0)
    table = table.assign(letter_locked=0.0, error=False, orders=2, log_odds_given=table["log_odds"])
    table = table.assign(accuracy=np.heaviside(table["log_odds"], 0.5))
    return table.assign(p_given=table["p_balanced"], p_swapped=table["p_balanced"])


def stack(
    none: np.ndarray,
    alone: np.ndarray,
    base: np.ndarray,
    on_top: np.ndarray,
    *,
    multiplier: float = 1.0,
    vector: str = "caa",
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The four cells of one stacking line from y[none, 0], a, y[X, 0] and t (both signed by the multiplier)."""
    sign = np.sign(multiplier)
    lines = [
        cell(),
        cell(vector=vector, multiplier=multiplier),
        cell("system_prompt_positive"),
        cell("system_prompt_positive", vector=vector, multiplier=multiplier),
    ]
    values = [none, none + sign * alone, base, base + sign * on_top]
    return {line["cell"]: y for line, y in zip(lines, values, strict=True)}, frame(lines)


def simulated_stacks(
    retention: float,
    *,
    n: int,
    draws: int,
    rng: np.random.Generator,
    base: float = 0.0,
    effect: float = 1.5,
    effect_sd: float = 1.0,
    noise: float = 0.5,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Independent stacking lines with one true retention, as one group: its own base and vector for each draw.

    a ~ N(effect, effect_sd) and t = retention * a + N(0, noise) on each of n items; the base stands at N(base, .7).
    """
    none = rng.normal(0.0, 0.7, n)
    lines, values = [cell()], [none]
    for draw in range(draws):
        alone = rng.normal(effect, effect_sd, n)
        before = rng.normal(base, 0.7, n)
        after = before + retention * alone + rng.normal(0.0, noise, n)
        name, vector = f"base_{draw:04d}", f"vector_{draw:04d}"
        lines += [cell(vector=vector, multiplier=1.0), cell(name), cell(name, vector=vector, multiplier=1.0)]
        values += [none + alone, before, after]
    return {line["cell"]: y for line, y in zip(lines, values, strict=True)}, frame(lines)
