"""Who scores answers in words. The folder scan IS the registry: a new file is a new judge."""

from __future__ import annotations

from functools import cache

from caa_bench.folder_scan import named_subclasses
from caa_bench.judges.base import Asked, Judge, Judgement, deciding

__all__ = ["Asked", "Judge", "Judgement", "deciding", "registry"]


@cache
def registry() -> dict[str, type[Judge]]:
    """Every judge in this folder by its `name`."""
    return named_subclasses(Judge, __name__)
