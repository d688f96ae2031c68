"""Progress bars that are right where they are: a terminal, a notebook, or a file, which gets none."""

from __future__ import annotations

import sys
from typing import Any


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
    return tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True, **{"disable": None, **more})


def in_notebook() -> bool:
    """Whether this is a kernel of Jupyter, whose stderr is no terminal and is looked at all the same."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
