"""The interventions of the package alone: other test files define their own, and every worker imports them all."""

from __future__ import annotations

from caa_bench.interventions import Intervention, registry


def shipped() -> dict[str, type[Intervention]]:
    """Name -> class of each, in the registry's order."""
    return {name: cls for name, cls in registry().items() if cls.__module__.startswith("caa_bench.")}


def shipped_vectors() -> list[str]:
    """The names of the vectors among them, placebos left out."""
    return [name for name, cls in shipped().items() if cls.role == "vector" and not cls.is_placebo]
