"""What is measured: items of a behavior under treatments go in, rows come out. A new file is a new evaluator."""

from __future__ import annotations

from caa_bench.evaluators.answer_probability import AnswerProbability
from caa_bench.evaluators.base import Evaluator, Job, Treatment
from caa_bench.storage.registry import Registry

__all__ = ["AnswerProbability", "Evaluator", "Job", "Treatment", "registry"]

registry: Registry[Evaluator] = Registry(Evaluator, kind="evaluators", package=__name__)
"""Every evaluator by its `name`."""
