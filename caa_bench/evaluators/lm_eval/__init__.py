"""lm-evaluation-harness as a library: task names -> one value of each document and metric on the steered model."""

from caa_bench.evaluators.lm_eval.evaluator import LmEval

__all__ = ["LmEval"]
