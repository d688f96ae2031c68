"""Who scores answers in words. The folder scan IS the registry: a new file is a new judge."""

from __future__ import annotations

from functools import cache

from caa_bench.judges.base import Asked, Judge, Judgement, deciding
from caa_bench.storage.registry import named_subclasses

__all__ = ["Asked", "Judge", "Judgement", "deciding", "registry"]


@cache
def registry() -> dict[str, type[Judge]]:
    """Every judge in this folder by its `name`."""
    return named_subclasses(Judge, __name__)
