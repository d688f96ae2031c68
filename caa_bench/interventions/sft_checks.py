"""What both kinds of finetuning check of their recipe section before any weights are loaded."""

from __future__ import annotations

from typing import Any

from caa_bench.errors import too_few


def check_training(config: Any) -> None:
    """Validate the training settings.

    Raises:
        ValueError: one line a mistake, beginning with the key.
    """
    above = {"learning_rate": config.learning_rate, "epochs": config.epochs}
    counts = {"batch_size": config.batch_size, "max_pairs": config.max_pairs}
    lines = [f"{key}: {value:g} is too small; give a number above 0" for key, value in above.items() if value <= 0]
    lines += too_few(counts)
    if config.seed < 0:
        lines.append(f"seed: {config.seed} is below 0; give 0 or more")
    if not config.doses:
        lines.append("doses: an empty list; [1] is as trained")
    if lines:
        raise ValueError("\n".join(lines))
