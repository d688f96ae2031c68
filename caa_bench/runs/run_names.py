"""What a run is bound to, and what its folder is called: another setting, or other data, is another folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.behaviors.behavior import Behavior, SplitName
from caa_bench.errors import UserError
from caa_bench.storage.files import content_key, inside

if TYPE_CHECKING:
    from caa_bench.evaluators import Evaluator
    from caa_bench.interventions import Intervention
    from caa_bench.recipe import BenchmarkArguments


def run_folder(output_dir: str, *, recipe: str, behavior: Behavior, model: str, settings: Mapping[str, Any]) -> Path:
    """`<output_dir>/<recipe>/<behavior>-<model>-<key>`.

    Args:
        settings: what decides the results; the key is of these and of the behavior's data and prompts.

    Raises:
        UserError: output_dir is no path, or a link leads out of it.
    """
    splits: tuple[SplitName, ...] = ("train", "selection", "test", "open_ended")
    data = {name: behavior.fingerprint(name) for name in splits}
    key = content_key([dict(settings), data, dict(behavior.system_prompts)])[:8]
    try:
        return inside(inside(Path(output_dir), _part(recipe)), f"{behavior.id}-{_part(Path(model).name)}-{key}")
    except ValueError as error:
        raise UserError(f"output_dir: {output_dir!r} is no path ({error}); give a folder") from None


def settings_of(
    args: BenchmarkArguments,
    *,
    model: str,
    behavior: str,
    interventions: Sequence[Intervention],
    evaluators: Sequence[Evaluator],
) -> dict[str, Any]:
    """What decides the results of a benchmark that was built without a recipe, as JSON."""
    own = asdict(args)
    for view in ("report_to", "project", "output_dir"):
        del own[view]
    fitted = [one.settings() | asdict(one.config) for one in interventions]
    measured = {one.name: config for one in evaluators if (config := asdict(one.config))}
    return {"model": model, "behavior": behavior, "interventions": fitted} | measured | own


def _part(name: str) -> str:
    """Any name as a part of a file's: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:40].strip(".-") or "run"
