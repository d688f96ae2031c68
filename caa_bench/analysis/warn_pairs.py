"""What a reader must be told of the pairs that the leading vector was made from, before what it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caa_bench.analysis.diagnostics import HARDLY_AGREE, POORLY_SEPARATED
from caa_bench.analysis.warn_facts import Found, RunFacts, Severity, Tables


def pairs_hardly_agree(tables: Tables, facts: RunFacts) -> Found | None:
    """The training pairs' differences point in too many directions for their mean to steer reliably."""
    line = facts.vector
    if line is None or not line["agreement_high"] < HARDLY_AGREE:
        return None
    none = line["agreement_low"] <= 0
    severity: Severity = "severe" if none else "caution"
    said = "agree on no direction" if none else "hardly agree"
    return Found(severity=severity, text=f"The training pairs {said}: {_cosine(line)}; such vectors steer unreliably.")


def sides_overlap(tables: Tables, facts: RunFacts) -> Found | None:
    """Matching and other answers lie on top of each other along the vector."""
    line = facts.vector
    if line is None or not line["separability_high"] < POORLY_SEPARATED:
        return None
    low, high = f"{line['separability_low']:.2f}", f"{line['separability_high']:.2f}"
    where = f"at layer {line['layer']:.0f} (d' {line['separability']:.2f} [{low}, {high}], n {line['n']:.0f} pairs)"
    text = f"Matching and other answers overlap along the vector {where}: less is steered by such vectors."
    return Found(severity="note", text=text)


def _cosine(line: Mapping[str, Any]) -> str:
    low, high = f"{line['agreement_low']:+.2f}", f"{line['agreement_high']:+.2f}"
    place = f"at layer {line['layer']:.0f}, n {line['n']:.0f} pairs"
    return f"mean cosine with the vector {line['agreement']:+.2f} [{low}, {high}] {place}"
