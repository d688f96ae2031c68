"""Benchmark CAA steering vectors, system prompts and LoRA finetuning on the same splits, and how they stack.

    from caa_bench import CAA, Benchmark, LoraSFT

    benchmark = Benchmark("tiny", behavior="refusal", interventions=["system_prompt_positive", LoraSFT(), CAA()])
    report = benchmark.compare().report()

Names are looked up on first use, so that `import caa_bench` and `caa-bench --help` cost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior as Behavior
    from caa_bench.behaviors.behavior import load_behavior as load_behavior
    from caa_bench.benchmark import Benchmark as Benchmark
    from caa_bench.callbacks import Callback as Callback
    from caa_bench.errors import UserError as UserError
    from caa_bench.evaluators import AnswerProbability as AnswerProbability
    from caa_bench.evaluators import Evaluator as Evaluator
    from caa_bench.evaluators.capability import Capability as Capability
    from caa_bench.evaluators.lm_eval.evaluator import LmEval as LmEval
    from caa_bench.evaluators.open_ended import OpenEnded as OpenEnded
    from caa_bench.evaluators.perplexity import Perplexity as Perplexity
    from caa_bench.interventions import CAA as CAA
    from caa_bench.interventions import Condition as Condition
    from caa_bench.interventions import CovarianceDirection as CovarianceDirection
    from caa_bench.interventions import FullSFT as FullSFT
    from caa_bench.interventions import Intervention as Intervention
    from caa_bench.interventions import LoraSFT as LoraSFT
    from caa_bench.interventions import OrthogonalShuffle as OrthogonalShuffle
    from caa_bench.interventions import OtherBehaviors as OtherBehaviors
    from caa_bench.interventions import RandomDirection as RandomDirection
    from caa_bench.interventions import ShuffledLabels as ShuffledLabels
    from caa_bench.interventions import Stack as Stack
    from caa_bench.interventions import SystemPrompt as SystemPrompt
    from caa_bench.interventions.vectors import SteeringVector as SteeringVector
    from caa_bench.judges import Judge as Judge
    from caa_bench.models.model import ChatModel as ChatModel
    from caa_bench.recipe import BenchmarkArguments as BenchmarkArguments
    from caa_bench.recipe import load_recipe as load_recipe
    from caa_bench.tracking import Tracker as Tracker

_HOMES = {
    "Behavior": "behaviors.behavior",
    "Judge": "judges",
    "Tracker": "tracking",
    "SteeringVector": "interventions.vectors",
    "load_behavior": "behaviors.behavior",
    "Benchmark": "benchmark",
    "Callback": "callbacks",
    "UserError": "errors",
    "AnswerProbability": "evaluators",
    "Capability": "evaluators.capability",
    "Evaluator": "evaluators",
    "LmEval": "evaluators.lm_eval.evaluator",
    "OpenEnded": "evaluators.open_ended",
    "Perplexity": "evaluators.perplexity",
    "CAA": "interventions",
    "CovarianceDirection": "interventions",
    "Condition": "interventions",
    "FullSFT": "interventions",
    "Intervention": "interventions",
    "LoraSFT": "interventions",
    "OrthogonalShuffle": "interventions",
    "OtherBehaviors": "interventions",
    "RandomDirection": "interventions",
    "ShuffledLabels": "interventions",
    "Stack": "interventions",
    "SystemPrompt": "interventions",
    "ChatModel": "models.model",
    "BenchmarkArguments": "recipe",
    "load_recipe": "recipe",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("caa-bench")
    if name not in _HOMES:
        raise AttributeError(f"module 'caa_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"caa_bench.{_HOMES[name]}"), name)
