"""A text with each token colored by its projection on a vector: one page on its own, all text escaped."""

from __future__ import annotations

import html

import pandas as pd

STEPS = 5
TOWARD, AWAY = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermilion
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body{{font:15px/2 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1d1f21;background:#fff}}
p{{white-space:pre-wrap;overflow-wrap:anywhere}}
span{{padding:2px 0;border-bottom:2px solid transparent}}
{style}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="note">{note}</p>
<p>{text}</p>
</body>
</html>
"""


def colored_page(table: pd.DataFrame, *, title: str) -> str:
    """The page.

    Args:
        table: from `lens.projection_table`.
        title: what is shown.
    """
    values = table["projection"].to_numpy(float)
    # The first token's activation is larger than all others in most models: it would leave the rest white.
    scale = max((abs(value) for value in values[1:]), default=0.0) or 1.0
    spans = [
        f'<span class="{_step(value / scale)}" title="{_title(line)}">{html.escape(_visible(line["token"]))}</span>'
        for line, value in zip(table.to_dict("records"), values, strict=True)
    ]
    note = (
        f"Projection of each token's output of layer {int(table['layer'].iloc[0])} on the vector. Blue, solid line: "
        f"along it; orange, dotted: against it; deepest at {scale:.2f}, the largest after the first token. Point at a "
        "token for its number."
    )
    return PAGE.format(title=html.escape(title), note=html.escape(note), style=_style(), text="".join(spans))


def _step(share: float) -> str:
    """`p5` .. `p1`, `z`, `n1` .. `n5`."""
    step = min(round(abs(share) * STEPS), STEPS)
    return f"{'p' if share > 0 else 'n'}{step}" if step else "z"


def _style() -> str:
    rules = []
    for name, color, line in (("p", TOWARD, "solid"), ("n", AWAY, "dotted")):
        red, green, blue = color
        rules += [
            f".{name}{step}{{background:rgba({red},{green},{blue},{0.11 * step:.2f});"
            f"border-bottom:2px {line} rgb({red},{green},{blue})}}"
            for step in range(1, STEPS + 1)
        ]
    return "\n".join(rules)


def _title(line: dict[str, object]) -> str:
    return html.escape(f"position {line['position']}: {line['projection']:+.3f}")


def _visible(token: object) -> str:
    return str(token).replace("\n", "↵\n")
