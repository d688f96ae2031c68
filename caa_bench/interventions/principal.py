"""The first principal component of rows, through the smaller of the two Gram matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def first_component(rows: np.ndarray) -> np.ndarray:
    """The unit vector along which the rows' mean square is largest; the rows are not centered here. [D]

    Args:
        rows: in double. [N, D]

    Returns:
        NaN everywhere where all rows are zero.
    """
    import numpy as np

    count, width = rows.shape
    if width <= count:
        return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, -1]) if rows.any() else np.full(width, np.nan)
    along = rows.T @ np.linalg.eigh(rows @ rows.T)[1][:, -1]
    return along / np.linalg.norm(along) if along.any() else np.full(width, np.nan)
