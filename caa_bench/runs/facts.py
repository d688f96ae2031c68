"""What the report needs to know of a run beside its rows: part of the manifest, so that it needs no model or data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from caa_bench.behaviors.behavior import Behavior
from caa_bench.behaviors.choice import language_warning
from caa_bench.behaviors.items import Item, longer_matching, set_key, text_key
from caa_bench.evaluators import AnswerProbability, Evaluator
from caa_bench.interventions import Intervention
from caa_bench.interventions.placebos import Placebo
from caa_bench.interventions.vectors import SteeringVector
from caa_bench.models.layers import Layers
from caa_bench.recipe import BenchmarkArguments
from caa_bench.runs.artifacts import Artifact
from caa_bench.runs.plan import Plan

MOST_TEXTS = 500
"""Of the items of one evaluator beside the behavior's own."""


def run_facts(
    plan: Plan,
    *,
    args: BenchmarkArguments,
    behavior: Behavior,
    evaluators: Sequence[Evaluator],
    interventions: Sequence[Intervention],
    model_key: Mapping[str, Any],
    computes_in: str | None,
    layers: Layers,
    embedded: bool,
    artifacts: Mapping[str, Artifact],
    unfit: Mapping[str, str],
) -> dict[str, Any]:
    """All of it, JSON-ready: cells, batches, the behavior, its items, the model, interventions and their artifacts."""
    items = AnswerProbability().items(behavior, split=args.split)
    missing = [f"{label} could not be fitted ({why}); its cells are missing" for label, why in unfit.items()]
    return {
        "cells": [asdict(cell) for cell in plan.cells],
        "batches": [batch.key for batch in plan.batches],
        "behavior": {"id": behavior.id, "title": behavior.title, "matching": behavior.matching},
        "items": {item.id: text_key(item) for item in items},
        "texts": {item.id: _text(item) for item in items[: args.limit]} | _asked_texts(evaluators, behavior, args),
        "longer": _longer(behavior.train, items),
        "asked": _asked(evaluators, behavior, args),
        "model": {**model_key, "computes_in": computes_in},
        "layers": asdict(layers),
        "warnings": [*language_warning(behavior, embedded=embedded), *behavior.warnings, *missing],
        "interventions": {
            one.label: {"name": one.name, "role": one.role, "placebo_of": one.placebo_of}
            for one in interventions
            if one.key == one.label
        },
        "artifacts": {label: str(artifact.folder) for label, artifact in artifacts.items()},
        "diagnostics": {
            one.label: list(one.diagnostics)
            for one in interventions
            if isinstance(one, SteeringVector) and one.diagnostics and one.key == one.label  # the pairs of every fit
        },
        "lengths": _lengths(interventions),
    }


def _lengths(interventions: Sequence[Intervention]) -> dict[str, list[list[float | None]]]:
    """Of placebos with a length of their own: draw by draw, that length over the original's in each layer."""
    found: dict[str, list[list[float | None]]] = {}
    for one in interventions:
        if isinstance(one, Placebo) and one.own_length:
            found.setdefault(one.label, []).append(one.shares())
    return found


def _asked_texts(
    evaluators: Sequence[Evaluator], behavior: Behavior, args: BenchmarkArguments
) -> dict[str, dict[str, Any]]:
    """What else multiple-choice evaluators ask, such as plain facts; of a benchmark of thousands the first."""
    asked = [one.items(behavior, split=args.split)[: args.limit][:MOST_TEXTS] for one in evaluators]
    return {item.id: _text(item) for items in asked for item in items if isinstance(item, Item)}


def _text(item: Item) -> dict[str, Any]:
    """What a reader of the report sees of an item: question and options in the given order, and which one matches."""
    return {
        "question": item.head.strip().removesuffix("Choices:").strip(),
        "options": list(item.options),
        "matching": item.matching,
    }


def _longer(train: Sequence[Item], items: Sequence[Item]) -> dict[str, Any]:
    """Where the matching option is the longer one: the share of the training items, and which of the measured ones."""
    share = sum(map(longer_matching, train)) / len(train) if train else None
    return {"train_share": share, "items": [item.id for item in items if longer_matching(item)]}


def _asked(evaluators: Sequence[Evaluator], behavior: Behavior, args: BenchmarkArguments) -> dict[str, dict[str, Any]]:
    """Of every evaluator that asks multiple-choice questions: how many, and one key of what they ask."""
    found = {}
    for one in evaluators:
        asked = one.items(behavior, split=args.split)[: args.limit]
        if all(isinstance(item, Item) for item in asked):
            found[one.name] = {"n": len(asked), "key": set_key(map(text_key, asked))}
    return found
