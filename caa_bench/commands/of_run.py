"""A finished run -> what `generate`, `chat` and `serve` take of it: its recipe, vectors, layer and doses."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import run_named
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class OfRun:
    """What a run gives.

    Args:
        recipe: its file.
        changes: `key=value` texts over it, so that what the run fitted is found again.
        bases / vectors: its arms without placebos, by label; the vector that leads comes first.
        settled: label -> the layer that stands for the vector, and the multiplier that its recipe's 1 stood for.
        below: label -> the text or the dose that the run's search chose for a base.
        doses: the leading vector's, at most one a direction.
    """

    recipe: str
    changes: tuple[str, ...]
    bases: tuple[str, ...]
    vectors: tuple[str, ...]
    settled: Mapping[str, tuple[int, float]]
    below: Mapping[str, Mapping[str, Any]]
    doses: tuple[float, ...]


def of_run(options: Namespace) -> OfRun | None:
    """Of the run that is named; None where none is.

    Raises:
        UserError: there is no such run, it has no report yet or no vector, or something is named that a run has itself.
    """
    from caa_bench.interventions import registry
    from caa_bench.recipe import load_recipe
    from caa_bench.report import make_report
    from caa_bench.runs.artifacts import kept_at
    from caa_bench.runs.folder import read_manifest
    from caa_bench.runs.tuning_record import chosen_bases

    if not options.run:
        return None
    run = run_named(options.run)
    if options.behavior or options.model or options.recipe != "compare":
        raise UserError(f"{run}: has its own behavior, model and recipe; leave yours out")
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: has no report yet; wait for its end, or write one with caa-bench report {run}")
    report = make_report(run)
    args = load_recipe(run / "recipe.yaml").args
    placebos = {name for name, cls in registry().items() if cls.is_placebo}
    lead = report.headline.vector
    if not lead:
        raise UserError(f"{run}: has no vector to steer by; name another run")
    changes = ["fits=1"]
    for recorded in list(read_manifest(run)["facts"]["artifacts"].values())[:1]:
        changes.append(f"output_dir={json.dumps(str(kept_at(run, recorded).parent.parent))}")
    vectors = tuple(dict.fromkeys([lead, *(name for name in args.vectors if name not in placebos)]))
    return OfRun(
        recipe=str(run / "recipe.yaml"),
        changes=tuple(changes),
        bases=tuple(args.bases),
        vectors=vectors,
        settled=_layers_and_units(report, vectors, layer=options.layer),
        below=chosen_bases(report.record.tuning),
        doses=report.headline.doses,
    )


def _layers_and_units(report: Report, vectors: tuple[str, ...], *, layer: int | None) -> dict[str, tuple[int, float]]:
    """Vectors without layers are left out; `layer` is the user's own choice."""
    from caa_bench.commands.export import lead_layer
    from caa_bench.runs.tuning_record import dose_unit

    layers = {label: lead_layer(report, label) for label in vectors}
    return {
        label: (own if layer is None else layer, dose_unit(report.record.tuning, label))
        for label, own in layers.items()
        if own is not None
    }
