"""Progress bars that are right where they are: a terminal, a notebook, or a file, which gets none."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

UNKNOWN_WIDTH = 80
"""Columns of a terminal that says that it has none, as one in a container may."""


def bar(*, total: int, initial: int, unit: str, **more: Any) -> Any:
    """A bar on stderr; in a notebook the widget, or text where ipywidgets is not installed."""
    if in_notebook():
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ipywidgets is not there
            from tqdm.auto import tqdm as drawn

        return drawn(total=total, initial=initial, unit=unit, dynamic_ncols=True, **more)
    from tqdm import tqdm

    # disable=None: no bar where stderr is a file, the cells' lines are enough there
    return tqdm(total=total, initial=initial, unit=unit, **_width(), **{"disable": None, **more})


def _width() -> dict[str, Any]:
    """What tqdm takes for the width: what the terminal says at each moment, unless that is nothing."""
    with suppress(OSError, ValueError, AttributeError):
        if os.get_terminal_size(sys.stderr.fileno()).columns == 0:
            return {"ncols": UNKNOWN_WIDTH, "nrows": 24}
    return {"dynamic_ncols": True}


def in_notebook() -> bool:
    """Whether this is a kernel of Jupyter, whose stderr is no terminal and is looked at all the same."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
