"""What tuning tries and what its choice does to the vectors: layers, doses as fractions of the residual norm.

A dose is |multiplier x vector| over the median norm of the activations at the steered layer, so that one grid means the
same on every model. Where a vector does not know its norms, TENTH is taken for multiplier 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any

from caa_bench.interventions import Condition, Intervention
from caa_bench.models.layers import Layers
from caa_bench.models.loading import Loading, tuned_key
from caa_bench.recipe import BenchmarkArguments
from caa_bench.runs.tuning_items import FEWEST, search_items

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior

TENTH = 0.1


@dataclass(frozen=True, kw_only=True)
class Search:
    """How finely is searched.

    Measured on Qwen2.5-0.5B: one layer of 24 can move a behavior ten times as far as its neighbors, so layers are
    skipped only in models with more than `most_layers`; doses are the coarse part.

    Args:
        most_layers: layers of the first round, evenly spread.
        doses: of the first round, fractions of the residual norm.
        finer: of the second round, at the best layers of the first.
        best: layers that go into the second round, beside those that the first skipped next to them.
        capability_items: questions behind each candidate's capability loss, at most.
        scales: of a finetune, tried with `tune: all`: as many as the wordings of a prompt.
    """

    most_layers: int = 32
    doses: tuple[float, ...] = (0.07, 0.2)
    finer: tuple[float, ...] = (0.035, 0.05, 0.1, 0.14, 0.28, 0.4)
    best: int = 2
    capability_items: int = 120
    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run searches for.

    Args:
        vectors: those whose layer and dose are searched for.
        why: what a reader is told where nothing is searched for; "" where that needs no word.
        known: label -> layer and multiplier that the model's config keeps from an earlier search.
    """

    vectors: Sequence[Intervention]
    why: str = ""
    known: Mapping[str, tuple[int, float]] = field(default_factory=dict)


def has_grid(vector: Intervention) -> bool:
    """Whether a vector has layers and multipliers to choose among and is no placebo, which follows its original."""
    return not vector.placebo_of and hasattr(vector.config, "layers") and hasattr(vector.config, "multipliers")


def first_layers(vector: Intervention, layers: Layers, search: Search) -> tuple[int, ...]:
    """The layers of the first round: those that the recipe names, else all, evenly thinned to `most_layers`."""
    named = sorted({condition.layer for condition in vector.conditions(layers) if condition.layer is not None})
    every = list(range(layers.count)) if vector.config.layers == "default" else named
    stride = ceil(len(every) / search.most_layers)
    return tuple(every[stride // 2 :: stride])


def first_cells(vectors: Sequence[Intervention], layers: Layers, search: Search | None = None) -> int:
    """Steered cells of the first round."""
    how = search or Search()
    return sum(len(first_layers(one, layers, how)) * len(how.doses) * len(directions(one)) for one in vectors)


def between(tried: Sequence[int], best: Iterable[int], vector: Intervention, layers: Layers) -> tuple[int, ...]:
    """The best layers, and those beside them that the first round skipped; none where the recipe names the layers."""
    found = set(best)
    if vector.config.layers != "default":
        return tuple(sorted(found))
    for layer in tuple(found):
        below = max((other for other in tried if other < layer), default=-1)
        above = min((other for other in tried if other > layer), default=layers.count)
        found |= set(range(below + 1, above))
    return tuple(sorted(found))


def unit(vector: Intervention, layer: int) -> float | None:
    """The multiplier at which the vector is as long as the median activation at that layer; None for no length."""
    lines = {line.get("layer"): line for line in getattr(vector, "diagnostics", ())}
    source = getattr(vector, "vector_layer", lambda condition: condition.layer)(Condition(layer=layer))
    residual = lines.get(layer, {}).get("residual_norm")
    norm = lines.get(source, {}).get("norm")
    if not lines or residual is None:
        return 1 / TENTH
    return residual / norm if norm and isfinite(residual / norm) else None


def multiplier_of(vector: Intervention, layer: int, dose: float) -> float | None:
    """The multiplier of a dose, of three digits; None where the vector has no length there."""
    whole = unit(vector, layer)
    return None if whole is None else float(f"{dose * whole:.3g}")


def dose_of(vector: Intervention, layer: int, multiplier: float) -> float | None:
    """|multiplier x vector| over the median norm of the activations at that layer; None where that is not known."""
    whole = unit(vector, layer)
    known = any(line.get("residual_norm") is not None for line in getattr(vector, "diagnostics", ()))
    return abs(multiplier) / whole if known and whole else None


def directions(vector: Intervention) -> tuple[int, ...]:
    """The directions that its own multipliers push in, + first."""
    signs = {1 if multiplier > 0 else -1 for multiplier in vector.config.multipliers if multiplier}
    return tuple(sorted(signs, reverse=True))


def at_doses(vector: Intervention, doses: Mapping[int, Sequence[float]]) -> list[Intervention]:
    """The fitted vector once a layer, each with its own multipliers as its grid."""
    return [_regridded(vector, layer, multipliers) for layer, multipliers in doses.items()]


def settled(vectors: Sequence[Intervention], chosen: Mapping[str, tuple[int, float]]) -> list[Intervention]:
    """The vectors as they are measured: at the chosen layer, with the chosen multiplier in the place of 1.

    What was given stays as it is: each of these is a copy that shares what was fitted. Placebos go with their original.

    Args:
        chosen: label -> layer and multiplier; a vector that is not named keeps its own grid.
    """
    copies = {
        id(one): _settled(one, *chosen[one.label]) for one in vectors if one.label in chosen and not one.placebo_of
    }
    made = []
    for one in vectors:
        original = getattr(one, "original", None)
        if id(original) in copies:
            one = copy.copy(one)
            one.original = copies[id(original)]  # type: ignore[attr-defined]  # placebos alone have one
            one.dose_unit = copies[id(original)].dose_unit
        made.append(copies.get(id(one), one))
    return made


def known_settings(
    vectors: Sequence[Intervention], *, args: BenchmarkArguments, loading: Loading, behavior: str
) -> dict[str, tuple[int, float]]:
    """What the model's config says of the vectors whose layer the recipe leaves open: label -> layer, multiplier."""
    if args.tune != "auto" or args.protocol == "caa":
        return {}
    found = {}
    for one in filter(has_grid, vectors):
        kept = loading.tuned.get(tuned_key(one.label, behavior))
        if kept is not None and one.config.layers == "default":
            found[one.label] = (int(kept[0]), kept[1])
    return found


def to_tune(
    vectors: Sequence[Intervention], *, args: BenchmarkArguments, loading: Loading, behavior: Behavior
) -> Wanted:
    """The vectors whose layer and dose are searched for.

    With `tune: auto` those whose layer the recipe leaves open on a model that nobody has swept, where the test split is
    asked in both option orders and there are items to choose on.
    """
    found = list(filter(has_grid, vectors))
    if args.tune in ("layers", "all"):
        return Wanted(vectors=found)
    known = known_settings(vectors, args=args, loading=loading, behavior=behavior.id)
    if known:
        said = ", ".join(f"{label} layer {layer} at multiplier {dose:g}" for label, (layer, dose) in known.items())
        why = f"Layer and dose are those that the model's config keeps from an earlier search: {said}."
    else:
        why = "Layer and dose are the recipe's own: nothing was tuned on this model (tune=off)."
    found = [one for one in found if one.config.layers == "default" and one.label not in known]
    if (loading.swept and not known) or args.split != "test" or args.protocol == "caa" or not (found or known):
        return Wanted(vectors=[], known=known)
    found = [] if loading.swept else found
    if args.tune == "off" or not found:
        return Wanted(vectors=[], why=why, known=known)
    if (items := len(search_items(behavior, limit=args.limit))) < FEWEST:
        why = (
            f"Layer and dose are defaults that nobody has tuned on this model: {items} items of the selection and "
            f"training splits are fewer than the {FEWEST} that a choice needs."
        )
        return Wanted(vectors=[], why=why, known=known)
    return Wanted(vectors=found, known=known)


def first_fits(vectors: Sequence[Intervention]) -> list[Intervention]:
    """Of several fits of a thing the first."""
    return list({one.label: one for one in reversed(vectors)}.values())[::-1]


def _settled(vector: Intervention, layer: int, multiplier: float) -> Intervention:
    made = copy.copy(vector)
    made.dose_unit = multiplier
    made.config = replace(
        vector.config, layers=(layer,), multipliers=tuple(map(made.scaled, vector.config.multipliers))
    )
    return made


def _regridded(vector: Intervention, layer: int, multipliers: Sequence[float]) -> Any:
    made = copy.copy(vector)
    made.config = replace(vector.config, layers=(layer,), multipliers=tuple(multipliers))
    return made
