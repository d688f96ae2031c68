"""Recipe -> cells with content keys, in fixed batches. A pure function: loads no model.

A cell (base, layer, multiplier, evaluator) is what the user sees; a batch (some items x every treatment of one base) is
what is computed, written, retried and resumed whole, because last bits depend on what is computed together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from caa_bench.behaviors.behavior import Behavior
from caa_bench.errors import UserError
from caa_bench.evaluators.base import Evaluator, Treatment
from caa_bench.interventions import Condition, Intervention, Layers, Stack, Unchanged
from caa_bench.interventions.arms import Arm
from caa_bench.interventions.building import intervention_class
from caa_bench.interventions.stack import SteeredBase
from caa_bench.recipe import BenchmarkArguments
from caa_bench.storage.files import content_key

SCHEMA = 1
"""Version of the row format; part of every key."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one result is about: the leading columns of cells.csv.

    Args:
        key: content key of everything that decides the result; 16 hex digits.
        base_dose: the base's own multiplier, 1 as fitted.
        vector: "" for the base alone (multiplier 0, no layer).
        vector_behavior / vector_layer / vector_model: where the vector was fitted; model "" is the measured one.
        fit: which of a run's several fits it is of; "" where it is of none, or there is one alone.
    """

    key: str
    model: str
    protocol: str
    split: str
    behavior: str
    evaluator: str
    base: str
    base_dose: float
    vector: str
    vector_behavior: str
    vector_layer: int | None
    layer: int | None
    multiplier: float
    vector_model: str = ""
    fit: str = ""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is computed and written as a whole.

    Args:
        key: content key of its cells and item texts.
        items: its items, of the evaluator's own kind.
        base / dose / treatments: see `evaluators.Job`.
    """

    key: str
    evaluator: Evaluator
    items: tuple[Any, ...]
    base: Intervention
    dose: Condition
    treatments: tuple[Treatment, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run will compute, in order."""

    cells: tuple[Cell, ...]
    batches: tuple[Batch, ...]


def bases_of(named: Sequence[str], *, interventions: Sequence[Intervention]) -> list[Intervention]:
    """`none` first, then what the recipe names, several joined by `+` as a stack.

    Raises:
        UserError: a part of a name that none of the interventions has, or two vectors in one base.
    """
    by_label: dict[str, list[Intervention]] = {}
    for one in interventions:
        by_label.setdefault(one.label, []).append(one)
    parts = [name.split("+") for name in dict.fromkeys(named) if name != "none"]
    missing = sorted({part for many in parts for part in many if part not in by_label})
    if missing:
        raise UserError(f"bases: {', '.join(missing)} is not among the interventions; add it or take it out")
    vectors = [[part for part in many if by_label[part][0].role == "vector"] for many in parts]
    if several := [own for own in vectors if len(own) > 1]:
        raise UserError(
            *(
                f"bases: {'+'.join(own)} in one base are two vectors; keep one there and name the other in vectors"
                for own in several
            )
        )
    stacked = [own for many in parts for own in _fit_by_fit([by_label[part] for part in many])]
    return [Unchanged(), *map(_stacked, stacked)]


def _stacked(parts: Sequence[Intervention]) -> Intervention:
    """One base of its parts."""
    if len(parts) == 1:
        return parts[0]
    return SteeredBase(*parts) if any(part.role == "vector" for part in parts) else Stack(*parts)


def _fit_by_fit(parts: Sequence[Sequence[Intervention]]) -> list[list[Intervention]]:
    """The parts of a base once for each of their fits; a part that is not fitted is in all of them."""
    numbers = dict.fromkeys(one.number for fits in parts for one in fits if one.number) or {"": None}
    return [[next(one for one in fits if one.number in ("", number)) for fits in parts] for number in numbers]


def bases_under(evaluator: Evaluator, bases: Sequence[Intervention]) -> list[Intervention]:
    """Those that the evaluator measures: all, or what its section names and `none`, which every change is against."""
    named = evaluator.config.bases
    return [base for base in bases if named is None or base.label in ("none", *named)]


def doses_under(
    evaluator: Evaluator, vectors: Sequence[Intervention], base: Intervention, layers: Layers
) -> dict[Intervention, list[Condition]]:
    """What the evaluator measures on top of a base: placebos only where it measures the behavior itself, and of
    several fits those of the base's own number."""
    multipliers = evaluator.config.multipliers
    found = {}
    for vector in vectors:
        joint = "" in (base.number, vector.number) or base.number == vector.number
        if joint and (evaluator.of_behavior or not vector.placebo_of):
            own = list(dict.fromkeys(vector.conditions(layers)))  # a dose that a recipe names twice once
            if multipliers is not None:
                places = dict.fromkeys(condition.layer for condition in own)
                doses = dict.fromkeys(vector.scaled(m) for m in multipliers if m)
                own = [Condition(layer=layer, multiplier=dose) for layer in places for dose in doses]
            found[vector] = own
    return found


def unknown_bases(evaluators: Sequence[Evaluator], arms: Mapping[str, Arm]) -> list[str]:
    """One line for each name in an evaluator's `bases` that can be no base; one that a run leaves out is left out."""
    return [
        f"{one.name}.bases: {name!r} is no intervention; use names that stand in bases"
        for one in evaluators
        for name in one.config.bases or ()
        if name != "none" and not all(intervention_class(part, arms) for part in name.split("+"))
    ]


def make_plan(
    *,
    args: BenchmarkArguments,
    model: str,
    model_key: Mapping[str, Any],
    layers: Layers,
    behavior: Behavior,
    bases: Sequence[Intervention],
    vectors: Sequence[Intervention],
    evaluators: Sequence[Evaluator],
    learned: Mapping[str, str],
) -> Plan:
    """All cells and batches of one behavior.

    Args:
        model_key: what identifies the model (`ChatModel.fingerprint`).
        bases / vectors: what stands below and what goes on top.
        learned: checksum of each fitted intervention's artifact, by key.
    """
    cells: list[Cell] = []
    batches: list[Batch] = []
    how = {name: getattr(args, name) for name in ("protocol", "share_prefix", "batch_size", "seed")}
    common = {"schema": SCHEMA, "model": model_key} | how
    for evaluator in evaluators:
        items = _in_batches(evaluator.items(behavior, split=args.split), limit=args.limit, size=args.batch_size)
        measured = common | {"evaluator": evaluator.name, "config": evaluator.settings()}
        for base, dose in _grid(bases_under(evaluator, bases), layers):
            own = _cells(
                measured | {"base": _identity(base, dose, learned)},
                shared={
                    "model": model,
                    "protocol": args.protocol,
                    "split": args.split,
                    "behavior": behavior.id,
                    "evaluator": evaluator.name,
                    "base": base.label,
                    "base_dose": dose.multiplier,
                },
                treatments=_treatments(doses_under(evaluator, vectors, base, layers)),
                learned=learned,
                fit=base.number,
            )
            cells += [cell for cell, _ in own]
            batches += [_batch(evaluator, chunk, own, base=base, dose=dose) for chunk in items]
    return Plan(cells=tuple(cells), batches=tuple(batches))


def _treatments(doses: Mapping[Intervention, Sequence[Condition]]) -> list[tuple[Intervention | None, Condition]]:
    """The base alone first, then every vector at each of its doses."""
    on_top = [(vector, condition) for vector, conditions in doses.items() for condition in conditions]
    return [(None, Condition(multiplier=0.0)), *on_top]


def _batch(
    evaluator: Evaluator,
    items: tuple[Any, ...],
    own: Sequence[tuple[Cell, Treatment]],
    *,
    base: Intervention,
    dose: Condition,
) -> Batch:
    return Batch(
        key=content_key([[cell.key for cell, _ in own], [asdict(item) for item in items]])[:16],
        evaluator=evaluator,
        items=items,
        base=base,
        dose=dose,
        treatments=tuple(treatment for _, treatment in own),
    )


def _grid(interventions: Sequence[Intervention], layers: Layers) -> list[tuple[Intervention, Condition]]:
    """Every intervention at each of its doses, a dose that a recipe names twice once."""
    return [(one, condition) for one in interventions for condition in dict.fromkeys(one.conditions(layers))]


def _cells(
    identity: dict[str, Any],
    *,
    shared: dict[str, Any],
    treatments: Sequence[tuple[Intervention | None, Condition]],
    learned: Mapping[str, str],
    fit: str,
) -> list[tuple[Cell, Treatment]]:
    """A cell and its treatment for each grid point."""
    made = []
    for vector, condition in treatments:
        # Nested: `shared` has a model and a base too, their names.
        key = content_key([identity, shared, _identity(vector, condition, learned)])[:16]
        source = None if vector is None else vector.source(condition, behavior=shared["behavior"])
        cell = Cell(
            key=key,
            **shared,
            vector="" if vector is None else vector.label,
            vector_behavior="" if source is None else source.behavior,
            vector_layer=None if source is None else source.layer,
            vector_model="" if source is None else source.model,
            layer=condition.layer,
            multiplier=condition.multiplier,
            fit=fit or ("" if vector is None else vector.number),
        )
        made.append((cell, Treatment(cell=key, intervention=vector, condition=condition)))
    return made


def _identity(intervention: Intervention | None, condition: Condition, learned: Mapping[str, str]) -> Any:
    """What decides an intervention's effect: settings, the artifact's bytes, the dose."""
    if intervention is None:
        return None
    artifacts = {part: learned[part] for part in intervention.key.split("+") if part in learned}
    return {"settings": intervention.settings(), "artifacts": artifacts, "condition": asdict(condition)}


def _in_batches(items: Sequence[Any], *, limit: int | None, size: int) -> list[tuple[Any, ...]]:
    """Items of similar length together, so that little is padded; the order is fixed by the texts, not by the file."""
    ordered = sorted(items[:limit], key=lambda item: (len(item.question), item.question, item.id))
    return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
