"""How numbers, doses and names are written, and what each word of a report means: tables, page, LaTeX, figures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

NA = "n/a"

Form = Callable[[float], str]
"""How a number is written."""
OF_SHARES = "95% intervals over items, at least 95% near 0 and 1"
"""Of levels of p and changes of p(correct), docs/numbers.md 6."""


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
    "dpo": "DPO",
    "orpo": "ORPO",
    "soft_prompt": "soft prompt",
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


def human(text: object) -> str:
    """A name of recipes as the page shows it: `system_prompt_positive x0.5` -> `Positive system prompt x0.5`."""
    said = re.sub(r"\w+", lambda found: display(found[0]) if family(found[0]) in NAMES else found[0], str(text).strip())
    return said[:1].upper() + said[1:] if said != str(text).strip() else said


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


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def lowered(title: str) -> str:
    """A title inside a sentence: `Survival Instinct` -> `survival instinct`; an abbreviation keeps its capitals."""
    return " ".join(word.lower() if word.istitle() else word for word in title.split(" "))


def seconds(value: float) -> str:
    """`1.5 s`, `31 s`, `4.2 min`."""
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def or_na(value: float, form: Form) -> str:
    """The number, or n/a where it is not known."""
    return NA if math.isnan(value) else form(value)


def size(value: float) -> str:
    """`3.1 kB`, `30 kB`, `16.8 MB`."""
    for unit in ("B", "kB", "MB"):
        if value < 1000 or unit == "MB":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes any size")


WORDS = {
    "agreement": ("agreement", "mean cosine of a training pair's difference with the vector of the other items"),
    "agreeing_share": ("agreeing pairs", "share of the training pairs whose cosine with the vector is positive"),
    "alone": ("alone", "the vector's effect on the unchanged model, log-odds, + in the direction of the dose"),
    "anti_steerable_share": ("anti-steerable", "share of the items whose log-odds fall as the dose rises"),
    "capability": ("capability", "change of p(correct) from the unchanged model"),
    "detectable_effect": ("detectable", "the smallest interaction that is found in 80% of such runs, log-odds"),
    "distinct_1": ("distinct words", "share of an answer's words that differ"),
    "distinct_2": ("distinct word pairs", "share of an answer's word pairs that differ"),
    "empty_share": ("empty", "share of the answers without a text"),
    "family": ("family", "lines that share one false-discovery correction: primary where nobody chose layer or dose"),
    "interaction": ("interaction", "effect on top less effect alone, item by item, log-odds"),
    "letter_bias": ("letter bias", "log-odds by which A is preferred, whatever it says"),
    "letter_bias_abs": ("size of letter bias", "the mean over items of its size, log-odds"),
    "letter_locked": ("letter-locked", "share of the items whose answer changes with the order of the options"),
    "log_odds": ("log-odds", "of the matching option against the others; 0 is p = .5"),
    "loop_share": ("looping", "share of an answer's words that stand in a loop"),
    "mass_low_share": ("low mass", "share of the items whose option mass is under .5"),
    "missing_share": ("not scored", "share of the answers without a score"),
    "n_clusters": ("clusters", "groups of items that are not independent of each other"),
    "norm": ("norm", "length of the vector that multiplier 1 adds"),
    "on_top": ("on top", "the vector's effect on top of the base, log-odds, + in the direction of the dose"),
    "option_mass": ("option mass", "probability of all answer letters together"),
    "option_mass_min": ("smallest mass", "the smallest option mass of any item"),
    "p_balanced": ("p(matching)", "probability of the matching option, mean over both orders of the options"),
    "p_given": ("p, given order", "p(matching) with the options in the order of the data"),
    "p_swapped": ("p, swapped order", "p(matching) with the options in the other order"),
    "p_low_bound": ("p at least", "p(matching) if all mass outside of the letters were against it"),
    "p_high_bound": ("p at most", "p(matching) if all mass outside of the letters were for it"),
    "perplexity": ("perplexity", "of the answer under the unchanged model; high is unusual text"),
    "q_value": ("q", "false-discovery rate of the interaction within its family"),
    "rank_correlation": ("rank correlation", "of an item's log-odds with the dose: 1 rises at every step"),
    "relative_norm": ("relative norm", "norm over the median norm of the activations at that layer"),
    "retention": ("retention", "effect on top over effect alone: 1 keeps all of it, 0 nothing"),
    "room": ("room", "how far p(matching) could still move in the direction of the dose"),
    "saturated_share": ("saturated", "share of the items beyond 8 log-odds, where p no longer shows a change"),
    "separability": ("separability", "distance of the two sides of the pairs along the vector, in standard deviations"),
    "shift": ("shift", "change of the log-odds from the base without the vector, + towards matching"),
    "signal_share": ("signal", "share of the mean squared difference of a pair that the vector holds"),
    "slope": ("slope", "log-odds that an item gains a unit of the dose"),
    "slope_sd": ("spread of slopes", "standard deviation over items"),
    "verdict_words": ("verdict", "by the rules of docs/numbers.md"),
    "total": ("total", "change from the unchanged model, + towards matching"),
    "truncated_share": ("cut off", "share of the answers that reached the token limit"),
    "verdict_text": ("verdict", "by the rules of docs/numbers.md"),
}
"""Every number of a report: column -> its head, and what it means."""
VERDICTS = {
    "adds fully": ("adds", "the interval of the retention lies inside [.75, 1.33]"),
    "adds more": ("adds", "the retention is above 1, and its interval and the corrected test say so"),
    "adds only here": (
        "adds",
        "the vector does nothing alone, but something on this base; the interaction is significant",
    ),
    "adds, share not settled": ("adds", "the effect on top is above 0; how much of it is kept is not known"),
    "adds less": ("adds less", "the effect on top is above 0, and smaller than alone; the interaction is significant"),
    "adds nothing": ("adds nothing", "the interval of the retention lies inside [-.25, .25]"),
    "does nothing alone": ("adds nothing", "the vector moves neither the unchanged model nor this base"),
    "works against": ("backfires", "on this base the vector moves the behavior against the direction of its dose"),
    "goes the wrong way": (
        "backfires",
        "already alone the vector moves the behavior against the direction of its dose",
    ),
    "not measurable": (
        "not measurable",
        "the answer letters hold less than half of the mass on more than 25% of the items",
    ),
    "no verdict": ("no verdict", "too few items, or a cell was not run"),
    "not settled": ("not settled", "the intervals leave more than one verdict open"),
    "no room": ("no room", "p(matching) was within .05 of its end before, so it could not move"),
    "log-odds only": ("", "p(matching) moves by less than .05"),
    "saturated": ("", "more than half of the items lie beyond 8 log-odds"),
    "opposite in words": ("", "the written answers move significantly the other way"),
    "beyond placebos": (
        "",
        "of each kind of placebo that ran at most 1 in 20 would move as much (p: its rank among them, the largest)",
    ),
    "within placebos": ("", "one of its placebo vectors moves as much"),
}
"""Every verdict and tag: the word of its chip ("" for a tag), and what it means."""


def verdict_kind(verdict: str) -> str:
    """The word of its chip, one of `VERDICTS`; not settled where none of them is said."""
    return next((kind for word, (kind, _) in VERDICTS.items() if kind and word in verdict), "not settled")


def short_placebos(told: str) -> str:
    """`beyond placebos`, whatever a verdict says of their kinds, numbers and p."""
    return re.sub(r"\b(beyond|within)\b[^;]*placebos?\b[^;]*", r"\1 placebos", told)


def meaning(told: str) -> str:
    """What each word of a verdict means, a sentence each; "" where there is none."""
    told = short_placebos(told)
    found = [word for word in VERDICTS if word in told]
    whole = [word for word in found if not any(word in other for other in found if other != word)]
    return ". ".join(f"{word}: {VERDICTS[word][1]}" for word in whole)
