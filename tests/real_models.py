"""Real models for the tests that need one: `qwen05`, `gemma270`, below the folder that CAA_BENCH_REAL_MODELS names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL = os.environ.get("CAA_BENCH_REAL_MODELS", "")


def real_model(name: str) -> Path:
    """The folder of a real model; skips the test where it is not on this machine."""
    if not REAL or not (folder := Path(REAL) / name).is_dir():
        pytest.skip(f"needs the model {name} in the folder that CAA_BENCH_REAL_MODELS names")
    return folder
