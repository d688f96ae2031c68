"""What the report needs to know of a run beside its rows: part of the manifest, so that it needs no model or data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from caa_bench.evaluators import AnswerProbability
from caa_bench.interventions.vectors import SteeringVector
from caa_bench.items import Item, longer_matching, set_key, text_key

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark
    from caa_bench.plan import Plan


def run_facts(benchmark: Benchmark, plan: Plan) -> dict[str, Any]:
    """All of it, JSON-ready: cells, batches, the behavior and its items, the model, artifacts and their diagnostics."""
    behavior, args = benchmark.behavior, benchmark.args
    items = AnswerProbability().items(behavior, split=args.split)
    unfit = [f"{label} could not be fitted ({why}); its cells are missing" for label, why in benchmark.unfit.items()]
    return {
        "cells": [asdict(cell) for cell in plan.cells],
        "batches": [batch.key for batch in plan.batches],
        "behavior": {"id": behavior.id, "title": behavior.title, "matching": behavior.matching},
        "items": {item.id: text_key(item) for item in items},
        "longer": _longer(behavior.train, items),
        "asked": _asked(benchmark),
        "model": benchmark.model_key,
        "layers": asdict(benchmark.chat.loaded_layers()),
        "warnings": [*behavior.warnings, *unfit],
        "artifacts": {label: str(artifact.folder) for label, artifact in benchmark.artifacts.items()},
        "diagnostics": {
            one.label: list(one.diagnostics)
            for one in benchmark.interventions
            if isinstance(one, SteeringVector) and one.diagnostics and one.key == one.label  # the pairs of every fit
        },
    }


def _longer(train: Sequence[Item], items: Sequence[Item]) -> dict[str, Any]:
    """Where the matching option is the longer one: the share of the training items, and which of the measured ones."""
    share = sum(map(longer_matching, train)) / len(train) if train else None
    return {"train_share": share, "items": [item.id for item in items if longer_matching(item)]}


def _asked(benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    """Of every evaluator that asks multiple-choice questions: how many, and one key of what they ask."""
    found = {}
    for one in benchmark.evaluators:
        asked = one.items(benchmark.behavior, split=benchmark.args.split)[: benchmark.args.limit]
        if all(isinstance(item, Item) for item in asked):
            found[one.name] = {"n": len(asked), "key": set_key(map(text_key, asked))}
    return found
