"""Interchangeable ways of moving a model's behavior: pairs go in, a vector, an adapter or a rewritten prompt comes out.

A new file in this folder is a new intervention; so is a class of an installed package, of a file that a recipe names
under `plugins`, or of a script or notebook (see `storage/registry.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from caa_bench.interventions.base import Condition, Intervention, registry
from caa_bench.interventions.caa import CAA
from caa_bench.interventions.full_sft import FullSFT
from caa_bench.interventions.lora_sft import LoraSFT
from caa_bench.interventions.none import Unchanged
from caa_bench.interventions.placebos import CovarianceDirection, Placebo, RandomDirection
from caa_bench.interventions.placebos_other import OtherBehaviors
from caa_bench.interventions.placebos_shuffled import OrthogonalShuffle, ShuffledLabels
from caa_bench.interventions.stack import Stack
from caa_bench.interventions.system_prompt import SystemPrompt
from caa_bench.models.layers import Layers

__all__ = [
    "CAA",
    "Condition",
    "CovarianceDirection",
    "FullSFT",
    "Intervention",
    "Layers",
    "LoraSFT",
    "OrthogonalShuffle",
    "OtherBehaviors",
    "Placebo",
    "RandomDirection",
    "ShuffledLabels",
    "Stack",
    "SystemPrompt",
    "Unchanged",
    "registry",
    "several_fits",
]


def several_fits(interventions: Sequence[Intervention], *, count: int) -> list[Intervention]:
    """Each with `count` fits of its own where its fit draws something, each placebo with its draws; fit by fit.

    None of the given ones is changed by `count`: a placebo of a vector with several fits is a new one, beside the
    first fit.
    """
    found: list[Intervention] = []
    for number in range(1, max(count, 1) + 1):
        made: dict[str, Intervention] = {}
        for one in interventions:
            if (again := one if count <= 1 else one.another_fit(number, made=made)) is not None:
                made[one.label] = again
                found += again.every_draw() if isinstance(again, Placebo) else [again]
    return found
