"""The geometry's figures: letter activations by layer, and heat maps of cosines. Told apart without color too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.storage.drawing import Drawing, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLORS = {"matching": "#0072B2", "other": "#D55E00"}
MARKERS = dict(zip("ABCDEFGH", "o^sDvP*X", strict=True))
MOST_PANELS = 12


def components_drawing(table: pd.DataFrame) -> Drawing:
    """A panel a layer (evenly chosen, where there are many): color is the answer's side, marker its letter."""
    shown = _thinned(sorted(table["layer"].unique()))
    width = min(4, len(shown))
    height = math.ceil(len(shown) / width)
    figure, axes = panels(height, width, size=(1.9 * width, 1.8 * height + 0.5))
    for place, layer in zip(axes, shown, strict=False):
        _draw_layer(place, table[table["layer"] == layer])
    for place in axes[len(shown) :]:
        place.set_visible(False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, markerscale=2)
    figure.supxlabel(f"first principal component; n {table['pair'].nunique()} pairs", fontsize=8)
    figure.supylabel("second; shares of variance above", fontsize=8)
    return Drawing(name="pca", figure=figure, data=table)


def layers_drawing(table: pd.DataFrame) -> Drawing:
    """Cosines of a vector between layers."""
    grid = table.pivot_table(index="layer", columns="other_layer", values="cosine", dropna=False)
    names = [str(layer) for layer in grid.index]
    return _heat(grid.to_numpy(float), names, name="layer_cosines", data=table, title="cosine between layers")


def between_drawing(table: pd.DataFrame, *, what: str, layer: int) -> Drawing:
    """Cosines between behaviors (or models) at one layer; the table behind it holds every layer."""
    grid = table[table["layer"] == layer].pivot_table(index=what, columns=f"other_{what}", values="cosine")
    names = [str(name) for name in grid.index]
    title = f"cosine between {what}s, layer {layer}"
    return _heat(grid.to_numpy(float), names, name=f"{what}_cosines", data=table, title=title)


def _draw_layer(place: Axes, table: pd.DataFrame) -> None:
    for (side, letter), part in table.groupby(["side", "letter"], sort=True):
        style: dict[str, Any] = {"color": COLORS[str(side)], "marker": MARKERS[str(letter)]}
        place.scatter(part["pc1"], part["pc2"], s=5, alpha=0.6, linewidths=0, label=f"{side} ({letter})", **style)
    share = table[["pc1_share", "pc2_share"]].iloc[0]
    place.set_title(f"layer {table['layer'].iloc[0]}: {share.iloc[0]:.0%}, {share.iloc[1]:.0%}", fontsize=8, loc="left")
    place.set_xticks([])
    place.set_yticks([])


def _heat(grid: Any, names: Sequence[str], *, name: str, data: pd.DataFrame, title: str) -> Drawing:
    side = max(2.6, 0.24 * len(names) + 1.4)
    figure, axes = panels(1, 1, size=(side + 0.8, side))
    place = axes[0]
    drawn = place.imshow(grid, cmap="PuOr", vmin=-1, vmax=1)
    step = max(1, len(names) // 16)
    ticks = range(0, len(names), step)
    place.set_xticks(ticks, names[::step], rotation=90)
    place.set_yticks(ticks, names[::step])
    if len(names) <= 8:
        for row, values in enumerate(grid):
            for column, value in enumerate(values):
                if not math.isnan(value):
                    ink = "white" if abs(value) > 0.6 else "black"
                    place.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=ink)
    place.set_title(title, fontsize=8, loc="left")
    figure.colorbar(drawn, ax=place, shrink=0.8)
    return Drawing(name=name, figure=figure, data=data)


def _thinned(layers: list[int]) -> list[int]:
    if len(layers) <= MOST_PANELS:
        return layers
    return [layers[round(i * (len(layers) - 1) / (MOST_PANELS - 1))] for i in range(MOST_PANELS)]
