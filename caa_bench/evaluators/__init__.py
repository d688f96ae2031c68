"""What is measured. The folder scan IS the registry: a new file is a new evaluator."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from caa_bench.evaluators.answer_probability import AnswerProbability
from caa_bench.evaluators.base import Evaluator, Job, Treatment

__all__ = ["AnswerProbability", "Evaluator", "Job", "Treatment", "registry"]


@cache
def registry() -> dict[str, type[Evaluator]]:
    """Every evaluator in this folder by its `name`."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {cls.name: cls for cls in sorted(Evaluator.__subclasses__(), key=lambda cls: cls.name)}
