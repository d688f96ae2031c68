"""A model's name and plain arguments -> a loaded model with its base and vector, for any harness that passes these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.session import Steered
    from caa_bench.interventions import Intervention
    from caa_bench.models.model import ChatModel

ARGUMENTS = {
    "run": "a run's folder or name: its recipe, and the vectors and finetunes that it fitted",
    "artifact": "a folder that save_pretrained or caa-bench export wrote, or owner/name on the hub",
    "behavior": "without a run or artifact: whose vector; it is fitted, or taken from runs/artifacts",
    "base": "what stands below: none, system_prompt_positive, lora_sft_negative, ... (none)",
    "vector": "what goes on top, by its label (caa); none for the base alone",
    "layer": "the block to steer, from 0 (the run's only one, or the model's default)",
    "multiplier": "the dose of the vector; 0 is unsteered",
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What answers, at which dose."""

    steered: Steered
    multiplier: float


def steered_model(name: str, arguments: dict[str, Any]) -> Made:
    """Find, fit or read everything that is named; the model is loaded when it is first asked.

    Args:
        name: a model's name or folder, as `--model` takes it; with `run` that run's model, or just `run`.
        arguments: some of `ARGUMENTS`.

    Raises:
        UserError: an unknown argument, or one that is missing or does not fit the others.
    """
    for key in arguments:
        if key not in ARGUMENTS:
            near = get_close_matches(key, ARGUMENTS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(ARGUMENTS)}"
            raise UserError(f"{terminal_safe(key)[:80]}: no such model argument; {hint}")
    if arguments.get("run") and arguments.get("artifact"):
        raise UserError("artifact: a run brings its own; give one of run and artifact")
    if arguments.get("artifact"):
        return _of_artifact(name, arguments)
    return _of_session(name, arguments)


def _of_session(name: str, arguments: dict[str, Any]) -> Made:
    """As `caa-bench generate` does it, with the recipe of a run where one is named."""
    from caa_bench.commands.session import Session, Settings
    from caa_bench.runs.folder import read_manifest
    from caa_bench.runs.record import RunRecord
    from caa_bench.runs.tuning_record import chosen_bases

    vector, base = str(arguments.get("vector", "caa")), str(arguments.get("base", "none"))
    steers = vector != "none"
    multiplier = _multiplier(arguments, vector=vector if steers else "")
    layer = arguments.get("layer")
    if (run := arguments.get("run")) is None:
        if steers and vector != "caa":
            raise UserError(f"vector: {terminal_safe(vector)!r} needs run, the run that it was fitted in")
        settings = Settings(model=name, behavior=arguments.get("behavior"), layer=layer, progress=False)
        steered = Session(settings, base=base).steered
    else:
        recipe, found = _run_named(name, str(run), vector=vector if steers else "", layer=layer)
        if arguments.get("behavior"):
            raise UserError("behavior: a run has its own; leave it out")
        settings = Settings(
            recipe=str(recipe / "recipe.yaml"),
            changes=(f"output_dir={recipe.resolve().parent.parent}", "fits=1"),
            progress=False,
            vectors=(vector if steers else "caa",),
            below=chosen_bases(RunRecord.of(read_manifest(recipe)).tuning),
        )
        session = Session(settings, base=base)
        session.layer = session.layer if found is None else _there(found, session.chat)
        steered = session.steered
    return Made(steered=steered, multiplier=multiplier if steers else 0.0)


def _run_named(name: str, run: str, *, vector: str, layer: Any) -> tuple[Path, int | None]:
    """The run's folder, and the layer: the one named, else the only one that it measured the vector at."""
    from caa_bench.commands.base import run_named
    from caa_bench.runs.folder import read_manifest
    from caa_bench.runs.record import RunRecord

    folder = run_named(run)
    record = RunRecord.of(read_manifest(folder))
    if name not in ("run", record.model, record.model_name):
        raise UserError(f"the run is of {record.model_name}, not of {terminal_safe(name)}; name that model, or `run`")
    if not vector or layer is not None:
        return folder, layer
    layers = record.layers_of(vector)
    if len(layers) == 1:
        return folder, layers[0]
    measured = f"; the run measured {', '.join(map(str, layers))}" if layers else ""
    raise UserError(f"layer: give the block that {terminal_safe(vector)} steers, from 0{measured}")


def _of_artifact(name: str, arguments: dict[str, Any]) -> Made:
    """A vector or finetune by itself, on the model that is named."""
    from caa_bench.commands.session import Steered
    from caa_bench.interventions import Intervention, registry
    from caa_bench.models.model import ChatModel

    if given := [key for key in ("behavior", "base", "vector") if key in arguments]:
        raise UserError(f"{given[0]}: an artifact stands on the plain model by itself; leave it out, or give a run")
    arm, chat = Intervention.from_pretrained(str(arguments["artifact"])), ChatModel.find(name)
    nothing = registry()["none"]()
    if arm.role != "vector":
        if wrong := [key for key in ("layer", "multiplier") if key in arguments]:
            raise UserError(f"{wrong[0]}: {arm.label} is no vector; leave it out")
        return Made(steered=Steered(chat=chat, base=arm, vector=None, layer=None), multiplier=0.0)
    multiplier = _multiplier(arguments, vector=arm.label)
    return Made(
        steered=Steered(chat=chat, base=nothing, vector=arm, layer=_layer_of(arm, chat, arguments.get("layer"))),
        multiplier=multiplier,
    )


def _layer_of(arm: Intervention, chat: ChatModel, asked: Any) -> int | None:
    """The block that is named; the model's default where none is, and none where the vector has none."""
    if asked is not None:
        return _there(asked, chat)
    return arm.conditions(chat.loaded_layers())[0].layer


def _there(layer: Any, chat: ChatModel) -> int:
    count = chat.loaded_layers().count
    if not isinstance(layer, int) or not 0 <= layer < count:
        raise UserError(f"layer: {layer!r} does not exist; the model has layers 0 to {count - 1}")
    return layer


def _multiplier(arguments: dict[str, Any], *, vector: str) -> float:
    """The dose; never a default, since a model that is not steered answers just as readily."""
    asked = arguments.get("multiplier")
    if not vector:
        if asked is not None:
            raise UserError("multiplier: without a vector there is no dose; leave it out")
        return 0.0
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not math.isfinite(asked):
        found = "it is missing" if asked is None else f"{terminal_safe(repr(asked))} is no dose"
        raise UserError(f"multiplier: {found}; give the dose of {vector}, for example 1.5; 0 is unsteered")
    return float(asked)
