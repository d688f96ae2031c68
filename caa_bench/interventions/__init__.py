"""Interchangeable ways of moving a model's behavior. The folder scan IS the registry: a new file is a new one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention
from caa_bench.interventions.caa import CAA
from caa_bench.interventions.full_sft import FullSFT
from caa_bench.interventions.lora_sft import LoraSFT
from caa_bench.interventions.none import Unchanged
from caa_bench.interventions.placebos import RandomDirection, ShuffledLabels
from caa_bench.interventions.stack import Stack
from caa_bench.interventions.system_prompt import SystemPrompt
from caa_bench.models.layers import Layers
from caa_bench.storage.registry import import_modules

__all__ = [
    "CAA",
    "Condition",
    "FullSFT",
    "Intervention",
    "Layers",
    "LoraSFT",
    "RandomDirection",
    "ShuffledLabels",
    "Stack",
    "SystemPrompt",
    "Unchanged",
    "from_folder",
    "registry",
    "several_fits",
]


@cache
def registry() -> dict[str, type[Intervention]]:
    """Every intervention in this folder by its `name`, originals before their placebos."""
    import_modules(__name__)
    found: dict[str, type[Intervention]] = {}
    waiting = [Intervention]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if cls.name and cls.__module__.startswith(__name__):
            if cls.name in found:
                raise TypeError(f"two interventions are called {cls.name!r}: {found[cls.name]} and {cls}")
            found[cls.name] = cls
    return dict(sorted(found.items(), key=lambda pair: (bool(pair[1].placebo_of), pair[0])))


def several_fits(interventions: Sequence[Intervention], *, count: int) -> list[Intervention]:
    """Each with `count` fits of its own where its fit draws something; in the given order, fit by fit."""
    if count <= 1:
        return list(interventions)
    found: dict[int, Intervention] = {}
    for number in range(1, count + 1):
        made: dict[str, Intervention] = {}
        for one in interventions:
            made[one.label] = one.another_fit(number, made=made)
        found |= {id(one): one for one in made.values()}
    return list(found.values())


def from_folder(folder: Path, *, expected: type[Intervention] = Intervention) -> Intervention:
    """The intervention saved in `folder`.

    Raises:
        UserError: no artifact, a damaged one, or one of another class than `expected`.
    """
    from caa_bench.storage.files import read_artifact

    settings = dict(read_artifact(folder, expect=None).meta["settings"])
    name, variant = settings.pop("name"), settings.pop("variant")
    cls = registry().get(name)
    if cls is None or not issubclass(cls, expected):
        raise UserError(
            f"{folder}: holds a {name!r}, not a {expected.name or 'known intervention'}; give its own folder"
        )
    return cls.revive(settings, variant=variant).load(folder)
