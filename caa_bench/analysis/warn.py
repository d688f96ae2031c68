"""What a reader must be told without asking: the automatic warnings of NUMBERS.md, worst first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caa_bench.analysis.warn_facts import RunFacts, Severity, Tables
from caa_bench.analysis.warn_rules import RULES

RANK = {"severe": 0, "caution": 1, "note": 2}


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """One thing a reader must know.

    Args:
        code: stable name of the rule.
        severity: "severe" (a number may mean something else), "caution" (it may mislead) or "note".
        behavior: whose.
        text: one sentence.
        count: cells or lines concerned.
    """

    code: str
    severity: Severity
    behavior: str
    text: str
    count: int = 1


def find_warnings(tables: Tables, facts: Mapping[str, RunFacts]) -> list[RunWarning]:
    """Every warning of a run, most severe first, then by how much it concerns.

    Args:
        tables: the run's tables; where there are lines of the test split, only those count.
        facts: what else is known, by behavior; a behavior may be absent.
    """
    found = []
    for behavior in sorted(tables.cells["behavior"].unique()):
        here, known = tables.on_test(behavior), facts.get(behavior, RunFacts())
        for code, rule in RULES.items():
            hit = rule(here, known)
            if hit is not None:
                found.append(RunWarning(code=code, behavior=behavior, **vars(hit)))
    return sorted(found, key=lambda warning: (RANK[warning.severity], -warning.count, warning.code, warning.behavior))
