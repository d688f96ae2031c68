"""A folder as a registry: every module of a package is imported, so that the classes in it are known."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def import_modules(package: str) -> None:
    """Import every module that stands directly in the package of this name."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def named_subclasses(base: type[Any], package: str) -> dict[str, Any]:
    """The direct subclasses of `base` by their `name`, sorted, once the package is imported."""
    import_modules(package)
    return {cls.name: cls for cls in sorted(base.__subclasses__(), key=lambda cls: cls.name)}
