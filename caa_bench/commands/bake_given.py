"""What `bake` is given: a run or an artifact, as the options name it -> the arm, its dose, its model and its items."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import run_named
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.behaviors.items import Item, Protocol
    from caa_bench.interventions import Condition, Intervention
    from caa_bench.models.model import ChatModel
    from caa_bench.runs.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What is baked, and what it is checked on.

    Args:
        arm / condition: the fitted intervention, and its dose.
        artifact: the folder that it was read from.
        chat: the model, not loaded yet, to be loaded in float32.
        behavior / items / protocol: the questions of the check.
        origin: the run or the artifact, for a reader.
    """

    arm: Intervention
    condition: Condition
    artifact: Path
    chat: ChatModel
    behavior: Behavior
    items: list[Item]
    protocol: Protocol
    origin: str


def given_of_run(options: Namespace) -> Ingredients:
    """The arm of a run, its model and its items.

    Raises:
        UserError: no such run or arm, or the model's files are not those of the run.
    """
    from caa_bench.interventions import Intervention
    from caa_bench.models.model import ChatModel
    from caa_bench.recipe import load_recipe
    from caa_bench.runs.artifacts import kept_at
    from caa_bench.runs.described import behavior_of, with_data
    from caa_bench.runs.folder import read_manifest
    from caa_bench.runs.record import RunRecord

    for name in ("model", "behavior"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: a run has its own; leave it out, or give the folder of an artifact")
    run = run_named(options.source)
    manifest = read_manifest(run)
    record, recipe = RunRecord.of(manifest), load_recipe(run / "recipe.yaml")
    label = _arm_named(options.arm, record)
    artifact = kept_at(run, record.artifacts[label])
    arm = Intervention.from_pretrained(artifact)
    chat = _in_full(ChatModel.find(recipe.model, changes=dict(recipe.loading)))
    if chat.fingerprint()["files"] != record.model_facts.get("files"):
        raise UserError(f"model: the files of {recipe.model!r} are not those that the run measured; bring these back")
    args = with_data(recipe.args, embedded=chat.embedded, behavior=recipe.behavior)
    behavior = behavior_of(recipe.behavior, args)
    condition = _dose(options, arm, label=label, record=record)
    return Ingredients(
        arm=arm,
        condition=condition,
        artifact=artifact,
        chat=chat,
        behavior=behavior,
        items=_items(behavior, args.split, args.limit, options.limit),
        protocol=args.protocol,
        origin=f"run {run.name}, recipe key {record.recipe_key[:16]}",
    )


def given_of_artifact(options: Namespace) -> Ingredients:
    """An artifact of its own with the model that is named.

    Raises:
        UserError: no model is named, or no behavior is known.
    """
    from caa_bench.behaviors.behavior import load_behavior
    from caa_bench.behaviors.choice import data_of
    from caa_bench.interventions import Intervention
    from caa_bench.models.model import ChatModel
    from caa_bench.runs.identity import FITTED_FOR
    from caa_bench.storage.artifact_folder import read_meta

    folder = Path(options.source)
    arm, fitted_for = Intervention.from_pretrained(folder), read_meta(folder).get(FITTED_FOR, {})
    name = options.behavior or fitted_for.get("behavior")
    wanted = [f"--{key}: name {what}" for key, what, value in (
        ("model", "the model that the artifact was fitted on", options.model),
        ("behavior", "a behavior whose items it is compared on; the artifact says none", name),
    ) if not value]  # fmt: skip
    if options.arm:
        wanted.append("--arm: an artifact is one arm; leave it out")
    if wanted:
        raise UserError(*wanted)
    chat = _in_full(ChatModel.find(options.model))
    data: Any = data_of("auto", embedded=chat.embedded, behavior=name, data_dir=None)
    behavior = load_behavior(name, data=data)
    return Ingredients(
        arm=arm,
        condition=_dose(options, arm, label=arm.label, record=None),
        artifact=folder,
        chat=chat,
        behavior=behavior,
        items=_items(behavior, "test", None, options.limit),
        protocol=behavior.source.protocol,
        origin=f"artifact {folder.name}",
    )


def _in_full(chat: ChatModel) -> ChatModel:
    """The same model, to be loaded in float32: merged in less, the update would be rounded away.

    Raises:
        UserError: it is quantized.
    """
    if chat.loading.quantization != "none":
        raise UserError(
            f"loading.quantization: the arm was fitted on {chat.loading.quantization} weights, and a plain folder has "
            "others; fit it with loading.quantization=none first"
        )
    return replace(chat, loading=replace(chat.loading, dtype="float32"))


def _items(behavior: Behavior, split: str, *limits: int | None) -> list[Item]:
    from caa_bench.evaluators import AnswerProbability

    fewest = min(limit for limit in limits if limit is not None)
    return list(AnswerProbability().items(behavior, split=split))[:fewest]


def _arm_named(asked: str | None, record: RunRecord) -> str:
    """One of the run's artifacts that is no placebo."""
    known = [label for label in record.artifacts if label.partition("@")[0] not in record.placebos]
    if asked in known:
        return str(asked)
    if asked is None and len(known) == 1:
        return known[0]
    if not known:
        raise UserError("the run fitted nothing, so there is nothing to bake; prompts are in no weight")
    what = "name one" if asked is None else f"{terminal_safe(asked)!r} was not fitted in this run; use one"
    raise UserError(f"--arm: {what} of {', '.join(known)}")


def _dose(options: Namespace, arm: Intervention, *, label: str, record: RunRecord | None) -> Condition:
    """Where and how strong.

    Raises:
        UserError: of a vector no dose, or no layer where it was measured at several.
    """
    from caa_bench.commands.generate import check_multiplier
    from caa_bench.interventions import Condition

    if options.multiplier is not None:
        check_multiplier(options.multiplier)
    if arm.role != "vector":
        if options.layer is not None:
            raise UserError(f"--layer: {label} has no layer; leave it out")
        return Condition(multiplier=1.0 if options.multiplier is None else options.multiplier)
    own = label.partition("@")[0]
    layers = record.layers_of(own) if record else []
    doses = sorted({cell["multiplier"] for cell in (record.cells if record else ()) if cell["vector"] == own})
    if options.multiplier is None:
        measured = f"; the run measured {', '.join(f'{dose:g}' for dose in doses)}" if doses else ""
        raise UserError(f"--multiplier: give the dose of {label}{measured}")
    layer = options.layer if options.layer is not None or len(layers) != 1 else layers[0]
    if layer is None:
        measured = f"; the run measured {', '.join(map(str, layers))}" if layers else ""
        raise UserError(f"--layer: give the block that {label} steers, from 0{measured}")
    return Condition(multiplier=options.multiplier, layer=layer)
