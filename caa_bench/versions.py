"""Which versions made a result, for the manifest and the report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("caa-bench", "torch", "transformers", "peft", "trl", "tokenizers", "safetensors", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Package -> installed version; Python's too. Nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
