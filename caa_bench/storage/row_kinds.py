"""The kinds of rows there are, and each as one checked JSON line. Knows no files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

FIELDS = ("cell", "item", "cluster", "order", "matching", "letters", "logits", "log_z", "error")
ANSWER_FIELDS = (
    "cell", "item", "cluster", "question", "text", "tokens", "ended", "temperature", "max_new_tokens", "seed",
    "log_prob", "plain_log_prob", "error",
)  # fmt: skip
"""A row of an answer in words: `tokens` of it, why it `ended` (stop or length), the `seed` of its generator (None where
it is greedy), its log-probability where it was made and under the plain model that is asked the plain question."""
THOUGHT = "thought"
"""A further field of an answer that a thought stood in front of; no judge reads it."""
SERVER = "server"
"""A further field of an answer that a server gave: which one, and what its check found."""
METRIC_FIELDS = ("cell", "item", "cluster", "task", "metric", "aggregation", "value", "weight", "error")
"""A row of one metric of one item: its `value` is a sum over `weight` units (tokens of a passage; 1 of a question), and
`aggregation` says how sums over items become the metric (`analysis.metrics`). `task` is "" where there is one alone."""
AGGREGATIONS = ("mean", "perplexity", "bits")
NOT_FINITE = "the logits hold NaN or infinity"


def as_line(row: Mapping[str, Any]) -> bytes:
    """One JSON line.

    Raises:
        ValueError: the row is of no kind, or says neither a number nor why there is none.
    """
    if set(ANSWER_FIELDS) <= set(row) <= {*ANSWER_FIELDS, THOUGHT, SERVER}:
        return _json({name: row[name] for name in (*ANSWER_FIELDS, THOUGHT, SERVER) if name in row})
    if set(row) == set(METRIC_FIELDS):
        return _json(_checked_metric(row))
    if set(row) != set(FIELDS):
        raise ValueError(f"a row needs exactly the fields {FIELDS}, got {tuple(row)}")
    values = {name: row[name] for name in FIELDS}
    if row["logits"] is None or row["log_z"] is None:
        if not row["error"]:
            raise ValueError("a row without logits needs an error that says why")
        finite = False
    else:
        values["logits"], values["log_z"] = [float(logit) for logit in row["logits"]], float(row["log_z"])
        finite = all(map(math.isfinite, (*values["logits"], values["log_z"])))
    if not finite:
        values |= {"logits": [None] * len(row["letters"]), "log_z": None, "error": row["error"] or NOT_FINITE}
    if len(values["logits"]) != len(row["letters"]):
        raise ValueError(f"{len(values['logits'])} logits for the letters {row['letters']!r}")
    return _json(values)


def _checked_metric(row: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: row[name] for name in METRIC_FIELDS}
    if row["aggregation"] not in AGGREGATIONS:
        raise ValueError(f"a row's aggregation must be one of {AGGREGATIONS}, got {row['aggregation']!r}")
    if row["value"] is None:
        if not row["error"]:
            raise ValueError("a row without a value needs an error that says why")
        return values
    values |= {"value": float(row["value"]), "weight": int(row["weight"])}
    if values["weight"] < 1:
        raise ValueError(f"a row's weight ({values['weight']}) must be at least 1")
    return values if math.isfinite(values["value"]) else values | {"value": None, "error": row["error"] or NOT_FINITE}


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode() + b"\n"
