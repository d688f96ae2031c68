"""How numbers, doses and names of arms are written: in the printed tables, on the page, in LaTeX, in figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

NA = "n/a"

Form = Callable[[float], str]
"""How a number is written."""


def number(value: float) -> str:
    """Two decimals, or n/a."""
    return NA if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def level(value: float) -> str:
    """A number of any size, with three digits or to the whole: `0.123`, `9.87`, `1234`, `1.2e+06`; or n/a."""
    if math.isnan(value) or math.isinf(value):
        return NA if math.isnan(value) else f"{value}"
    if value and not 0.001 <= abs(value) < 99_999.5:
        return f"{value:.1e}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    rounded_up = abs(round(value, digits)) >= 10.0 ** (3 - digits)  # 9.996 is 10.0
    return f"{value:.{max(digits - rounded_up, 0)}f}"


def ratio(value: float) -> str:
    """A factor: two decimals, or three digits from 10 on."""
    return number(value) if abs(value) < 10 else level(value)


def signed(value: float) -> str:
    """Two decimals with their sign, or n/a."""
    return NA if math.isnan(value) else f"{round(value, 2) + 0.0:+.2f}"


def probability(value: float) -> str:
    """`.84`; three digits near 0 and 1, where two would hide the value, and never a rounded 0 or 1."""
    if math.isnan(value):
        return NA
    if 0 < value < 0.0005:
        return "<.001"
    if 0.9995 <= value < 1:
        return ">.999"
    text = f"{value:.3f}" if value < 0.0495 or value > 0.9505 else f"{value:.2f}"
    return text.removeprefix("0")


def share(value: float) -> str:
    """Whole percent, or n/a."""
    return NA if math.isnan(value) else f"{value:.0%}"


def count(value: float) -> str:
    """A whole number, or n/a."""
    return NA if math.isnan(value) else f"{value:.0f}"


def small(value: float) -> str:
    """A p- or q-value: three decimals."""
    return NA if math.isnan(value) else "<.001" if value < 0.0005 else f"{value:.3f}".removeprefix("0")


def dose(multiplier: float) -> str:
    """`+1`, `-0.5`."""
    return f"{multiplier:+g}"


def multiplier(value: float) -> str:
    """`+1`, or `0` for the base alone."""
    return dose(value) if value else "0"


def interval(line: Mapping[str, float], name: str, form: Callable[[float], str] = number) -> str:
    """`1.20 [0.90, 1.50]`; the point alone where there is no interval or none that is wider than a point; n/a."""
    point, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if math.isnan(point) or math.isnan(low) or math.isnan(high) or low == high:
        return form(point)
    return f"{form(point)} [{form(low)}, {form(high)}]"


NAMES = {
    "caa": "CAA",
    "lora_sft": "LoRA",
    "full_sft": "full finetune",
    "system_prompt": "system prompt",
    "none": "unchanged model",
}
VARIANTS = ("positive", "negative", "neutral")


def family(label: str) -> str:
    """What an arm is without its variant: `lora_sft` of `lora_sft_positive`."""
    return next((label.removesuffix(f"_{end}") for end in VARIANTS if label.endswith(f"_{end}")), label)


def display(label: str) -> str:
    """An arm as a sentence calls it: `CAA`, `positive system prompt`; a name that is not known stays as it is."""
    if "+" in label:
        return " with ".join(map(display, label.split("+")))
    own = family(label)
    variant = label.removeprefix(own).removeprefix("_")
    return f"{variant} {NAMES.get(own, own)}".strip()


def with_article(label: str, base_dose: float) -> str:
    """A base inside a sentence: `the positive LoRA x0.25`."""
    name = display(label) if base_dose == 1 else f"{display(label)} x{base_dose:g}"
    return f"the {name}" if name.startswith((*VARIANTS, NAMES["none"])) else name


def on_top(vector: str, value: float) -> str:
    """`CAA +1`, or `alone`: what stands on a base."""
    return f"{display(vector)} {dose(value)}" if value else "alone"


def named(base: str, base_dose: float) -> str:
    """A base as recipes and tables call it, with its own dose, where that is not as fitted."""
    return base if base_dose == 1 else f"{base} x{base_dose:g}"


def percent(value: float) -> str:
    """A probability in a sentence: `54%`; `0.3%` and `99.7%` near the ends, where whole ones would hide the value."""
    if math.isnan(value):
        return NA
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{value:.1%}" if value < 0.0195 or value > 0.9805 else f"{value:.0%}"


def lowered(title: str) -> str:
    """A title inside a sentence: `Refusal` -> `refusal`; an abbreviation keeps its capitals."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def seconds(value: float) -> str:
    """`1.5 s`, `31 s`, `4.2 min`."""
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def size(value: float) -> str:
    """`3.1 kB`, `30 kB`, `16.8 MB`."""
    for unit in ("B", "kB", "MB"):
        if value < 1000 or unit == "MB":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes any size")
