"""Which bases a run has, and which doses of which vectors each evaluator measures on top of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caa_bench.errors import UserError
from caa_bench.evaluators.base import Evaluator
from caa_bench.interventions import Condition, Intervention, Layers, Stack, Unchanged
from caa_bench.interventions.arms import Arm
from caa_bench.interventions.building import intervention_class
from caa_bench.interventions.stack import SteeredBase


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
    """What the evaluator measures on top of a base: of several fits those of the base's own number, and placebos, the
    null of a vector alone, on the unchanged model only and where the evaluator measures the behavior itself."""
    multipliers = evaluator.config.multipliers
    found = {}
    for vector in vectors:
        joint = "" in (base.number, vector.number) or base.number == vector.number
        if joint and (not vector.placebo_of or (evaluator.of_behavior and base.label == "none")):
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
