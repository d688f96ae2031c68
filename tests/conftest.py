"""A tiny random model and a tiny behavior on disk, made once: what a comparison of seconds runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import Small, write_small_model


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The model, the behavior and the settings of a small comparison."""
    from small_behavior import write_behavior

    root: Path = tmp_path_factory.mktemp("small")
    return Small(
        model=write_small_model(root / "model"),
        behavior=write_behavior(root / "behaviors" / "small", train=12, test=24, selection=4),
    )
