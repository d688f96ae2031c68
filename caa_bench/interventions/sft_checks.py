"""What both kinds of finetuning check of their recipe section before any weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caa_bench.errors import too_few
from caa_bench.interventions.parts import OnCard


def check_sizes(config: Any, *keys: str) -> None:
    """Validate the adapter's own sizes.

    Raises:
        ValueError: the first that is too small, beginning with its key.
    """
    for key in keys:
        if (value := getattr(config, key)) < 1:
            raise ValueError(f"{key}: {value} is too small; give 1 or more")


def training_on_card(training: Mapping[str, Any]) -> OnCard:
    """Steps, batch and held-out losses; nothing of an adapter that was not trained here."""
    if not training:
        return OnCard()
    found = ", ".join(f"{loss:.3f}" for loss in training["held_out_loss"])
    how = f"{training['steps']} steps of {training['batch']} pairs"
    return OnCard(facts={"training": f"{how}, held-out loss after each epoch {found}" if found else how})


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
    if not getattr(config, "doses", True):  # a soft prompt has none
        lines.append("doses: an empty list; [1] is as trained")
    if lines:
        raise ValueError("\n".join(lines))
