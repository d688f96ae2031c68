"""Dashboards as views of the results: a finished report goes in, curves and tables come out, and no run is harmed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec

from caa_bench.callbacks import Callback
from caa_bench.errors import UserError, all_made
from caa_bench.storage.registry import Registry
from caa_bench.tracking.base import Tracker

logger = logging.getLogger(__name__)

__all__ = ["Tracker", "registry", "trackers"]

registry: Registry[Tracker] = Registry(Tracker, kind="tracking", package=__name__, light=True)
"""Every tracker by its `name`. A new file in this folder is a new one."""


def trackers(names: Sequence[str], *, project: str) -> list[Callback]:
    """The callbacks that `report_to` names.

    Raises:
        UserError: one of them is unknown, or cannot start on this machine.
    """
    known = registry() if names else {}
    if "wandb" in names and find_spec("wandb") is None:  # the default, which a core install does not bring
        logger.warning("wandb is not installed: nothing is logged there; pip install 'caa-bench[dashboards]'")
        names = [name for name in names if name != "wandb"]

    def made(name: str) -> Callback:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}, or [] for none"
            raise UserError(f"report_to: {name!r} is unknown; {hint}")
        return known[name](project=project)

    return all_made(*(lambda name=name: made(name) for name in dict.fromkeys(names)))
