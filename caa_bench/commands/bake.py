"""`bake`: a model folder with an intervention in its weights, which plain transformers loads.

caa-bench bake runs/compare/refusal-tiny-1a2b3c4d baked --arm lora_sft_positive
caa-bench bake an-artifact baked --model Qwen/Qwen2.5-7B-Instruct
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.commands.bake_given import Ingredients, given_of_artifact, given_of_run
from caa_bench.commands.base import Command, quiet_libraries
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.interventions.baking import Baking

ITEMS = 50
"""On which the baked model is compared with the arm, unless `--limit` says otherwise."""
DTYPES = ("float32", "bfloat16", "float16")


class Bake(Command):
    """Written only where it does what the arm does, which is measured on the folder as plain transformers loads it."""

    name = "bake"
    help = "a model folder with a run's finetune in its weights, for plain transformers"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the run or artifact, the new folder, which arm at which dose, and how it is kept."""
        parser.add_argument("source", metavar="RUN", help="the run's folder or name, or the folder of an artifact")
        parser.add_argument("target", metavar="FOLDER", help="a new folder")
        parser.add_argument("--arm", help="which of the run's fitted arms (default: its only one)")
        parser.add_argument("--multiplier", type=float, help="the dose (default: 1; of a vector it must be given)")
        parser.add_argument("--layer", type=int, help="of a vector, from 0 (default: the run's only one)")
        parser.add_argument(
            "--everywhere",
            action="store_true",
            help="bake a vector as a bias at EVERY position, the prompt's too, and measure what differs",
        )
        parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (%(default)s)")
        parser.add_argument(
            "--limit", type=int, default=ITEMS, help="items to compare it with the arm on (%(default)s)"
        )
        parser.add_argument("--model", help="of an artifact: the model that it was fitted on")
        parser.add_argument("--behavior", help="of an artifact: whose items it is compared on (default: its own)")
        parser.set_defaults(verbose=False)

    def run(self, options: Namespace) -> int:
        """Bake, compare, write; one line each."""
        from caa_bench.interventions.baking import baking_of, refuse_family
        from caa_bench.interventions.lora.targets import empty_model

        target = Path(options.target)
        if target.exists():
            raise UserError(f"{terminal_safe(str(target))}: exists already; give a new folder")
        if options.limit < 1:
            raise UserError(f"--limit: {options.limit} is too few; give 1 or more")
        given = given_of_artifact(options) if _is_artifact(Path(options.source)) else given_of_run(options)
        baking = baking_of(given.arm, given.condition, everywhere=options.everywhere)
        if (empty := empty_model(given.chat.source)) is not None:
            refuse_family(empty, baking)
        quiet_libraries(options)
        for line in _baked(given, baking, target, dtype=options.dtype):
            print(line)
        return 0


def _baked(given: Ingredients, baking: Baking, target: Path, *, dtype: str) -> list[str]:
    """Write the folder, whole or not at all; what there is to say of it."""
    import torch

    from caa_bench.commands.bake_card import bake_card
    from caa_bench.interventions.baking import bake_into, refuse_family
    from caa_bench.interventions.card import CARD
    from caa_bench.runs.bake_check import Before, refuse_other
    from caa_bench.storage.atomic import whole_folder, write_synced

    chat = given.chat
    refuse_family(chat.model, baking)
    before = Before.of(chat, baking, items=given.items, protocol=given.protocol)
    changed = bake_into(chat.model, baking)
    refuse_other(before.against(chat), baking)
    with whole_folder(target) as staged:
        chat.model.to(getattr(torch, dtype)).save_pretrained(staged)
        chat.tokenizer.save_pretrained(staged)
        chat.free()
        found = before.against_folder(staged, dtype=dtype)
        if dtype == "float32":
            refuse_other(found, baking)
        write_synced(staged / CARD, bake_card(given, baking, found, dtype=dtype))
    what = f"{len(changed)} {'module' if len(changed) == 1 else 'modules'}"
    return [f"{baking.arm.label} x{baking.condition.multiplier:+g} is in {what} of {target}", *found.lines()]


def _is_artifact(folder: Path) -> bool:
    return (folder / "artifact.json").is_file()
