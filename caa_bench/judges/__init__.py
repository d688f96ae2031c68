"""Who scores answers in words. The folder scan IS the registry: a new file is a new judge."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from caa_bench.judges.base import Asked, Judge, Judgement, deciding

__all__ = ["Asked", "Judge", "Judgement", "deciding", "registry"]


@cache
def registry() -> dict[str, type[Judge]]:
    """Every judge in this folder by its `name`."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {cls.name: cls for cls in sorted(Judge.__subclasses__(), key=lambda cls: cls.name)}
