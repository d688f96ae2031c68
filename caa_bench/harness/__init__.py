"""lm-evaluation-harness as a library: its tasks, and the steered model as it knows models. Needs `lm_eval`."""
