"""`none`: the unchanged model, the base every effect is measured against."""

from __future__ import annotations

from caa_bench.interventions.base import Intervention


class Unchanged(Intervention):
    """The unchanged model: the base that every effect is measured against."""

    name = "none"
