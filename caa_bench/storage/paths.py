"""Where the package's own files are: beside it in a checkout, inside it when installed from a wheel."""

from __future__ import annotations

import os
from pathlib import Path


def package_folder() -> Path:
    """The folder that the package is in."""
    return Path(__file__).parent.parent


def is_file(path: Path) -> bool:
    """Whether there is a file; a name that no system could open is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a NUL in it
        return False


def is_folder(path: Path) -> bool:
    """The same for a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def configs_folder() -> Path:
    """The folder `configs/`, which says what behaviors, models and data are."""
    return _beside_or_inside("configs")


def own_models_folder() -> Path:
    """Where a user's own model configs are kept: `configs/models/` of a checkout, else the user's config folder."""
    shipped = configs_folder()
    if shipped.parent != package_folder():
        return shipped / "models"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "caa_bench" / "models"


def cache_folder() -> Path:
    """The user's cache: $CAA_BENCH_CACHE, else $XDG_CACHE_HOME/caa_bench, else ~/.cache/caa_bench."""
    if own := os.environ.get("CAA_BENCH_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "caa_bench"


def recipes_folder() -> Path:
    """The folder `recipes/` of the shipped recipes."""
    return _beside_or_inside("recipes")


def _beside_or_inside(name: str) -> Path:
    inside = package_folder() / name
    return inside if inside.is_dir() else package_folder().parent / name
