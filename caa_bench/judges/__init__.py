"""Who scores answers in words: questions and answers go in, scores from 0 to 1 come out. A new file is a new judge."""

from __future__ import annotations

from caa_bench.judges.base import Asked, Judge, Judgement, deciding
from caa_bench.storage.registry import Registry

__all__ = ["Asked", "Judge", "Judgement", "deciding", "registry"]

registry: Registry[Judge] = Registry(Judge, kind="judges", package=__name__)
"""Every judge by its `name`."""
