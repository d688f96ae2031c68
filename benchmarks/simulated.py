"""The data of `benchmarks.simulate`: each function makes runs of known truth and asks the analysis about them.

Shapes: N items, R runs (columns), F fits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from caa_bench.analysis.diagnostics import BOUNDED, vector_diagnostics
from caa_bench.analysis.estimates import Estimate, Interval, Resampling
from caa_bench.analysis.fits import Design, effect_intervals, effect_p_values, effect_ratios, two_way
from caa_bench.analysis.intervals import (
    DIFFERENCE,
    OFF_BOUND,
    SHARE,
    UNBOUNDED,
    among,
    bootstrap_mean,
    bootstrap_ratio,
    p_values,
)
from caa_bench.analysis.placebos import LEAST_DRAWS
from caa_bench.analysis.power import Noise, detectable_effect, detectable_with, items_needed

SEED = 14
SIZES = (20, 50, 200)
HOW = Resampling(draws=1999)
RELEASED = Path(__file__).parents[2] / "shared/reference/caa_item_results_survival_plus1_7b_layer13.json"
"""The paper's answers item by item, where the checkout has them beside it."""
Sample = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
TAILS: Mapping[str, Sample] = {
    "normal": lambda rng, shape: rng.normal(1.0, 1.5, shape),
    "gamma, skew 1.4": lambda rng, shape: rng.gamma(2.0, 0.7, shape),
    "gamma, skew 6": lambda rng, shape: rng.gamma(1 / 9, 1.0, shape),
    "t, 3 degrees": lambda rng, shape: rng.standard_t(3, shape) + 1.0,
}
LEVELS: Mapping[str, Sample] = {
    "mean .50": lambda rng, shape: expit(rng.normal(0.0, 2.0, shape)),
    "mean .90": lambda rng, shape: expit(rng.normal(4.0, 2.5, shape)),
    "mean .99": lambda rng, shape: expit(rng.normal(6.0, 1.5, shape)),
    "saturated, 1 item in 50 off": lambda rng, shape: np.where(
        rng.random(shape) < 0.02, rng.uniform(0, 0.5, shape), expit(rng.normal(8.0, 0.5, shape))
    ),
    "right or wrong, .75": lambda rng, shape: (rng.random(shape) < 0.75).astype(float),
    "right or wrong, .98": lambda rng, shape: (rng.random(shape) < 0.98).astype(float),
}


def _changes(lost: float, gained: float) -> Sample:
    """A share of the answers changes from right to wrong or back, the others hardly move."""

    def sample(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        which = rng.random(shape)
        changed = np.where(which < lost, -1.0, 1.0)
        return np.where(which < lost + gained, changed, rng.normal(0, 0.002, shape))

    return sample


CHANGES: Mapping[str, Sample] = {
    "1 answer in 50 lost": _changes(0.02, 0.0),
    "1 answer in 50, either way": _changes(0.01, 0.01),
    "3 answers in 50 lost": _changes(0.06, 0.0),
    "all by a little": lambda rng, shape: rng.normal(-0.01, 0.03, shape),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table.

    Args:
        what / setting / n: what was claimed, of which data, items.
        kind: `coverage`; `at least`, the same where the report says "at least 95%"; `false alarms` or `power`.
        stated: what the report claims. (0-1)
        figure: what happened, of the runs in which the claim was made. (0-1)
        missing: share of runs in which it was not: n/a.
        runs: how many there were.
    """

    what: str
    setting: str
    n: int
    kind: str
    stated: float
    figure: float
    missing: float
    runs: int

    @property
    def error(self) -> float:
        """Standard error of the figure."""
        given = max(self.runs * (1 - self.missing), 1.0)
        return float(np.sqrt(max(self.figure * (1 - self.figure), 0.25 / given) / given))


def _rng(*names: object) -> np.random.Generator:
    return np.random.default_rng([SEED, *(sum(map(ord, str(name))) for name in names)])


def _truth(sample: Sample) -> float:
    return float(sample(np.random.default_rng([SEED, 99]), (4_000_000, 1)).mean())


def _covered(found: Estimate | Interval, truth: float, *, kind: str = "coverage", **line: Any) -> Result:
    low, high = np.atleast_1d(found.low), np.atleast_1d(found.high)
    given = ~np.isnan(low) & ~np.isnan(high)
    hit = (low <= truth) & (truth <= high)
    figure = float(hit[given].mean()) if given.any() else float("nan")
    return Result(kind=kind, stated=0.95, figure=figure, missing=1 - given.mean(), runs=len(low), **line)


def _claim(values: np.ndarray, *, within: tuple[float, float]) -> str:
    """What is claimed of most of these samples: about 95%, or at least 95% where few items make the mean. [N, R]"""
    mean = values.mean(axis=0)
    off = np.minimum(mean, 1 - mean) if within == SHARE else np.abs(values).mean(axis=0)
    return "at least" if within != UNBOUNDED and (len(values) * off < OFF_BOUND).mean() > 0.5 else "coverage"


def _rate(hits: np.ndarray, *, kind: str, stated: float, given: np.ndarray | None = None, **line: Any) -> Result:
    known = np.ones(len(hits), dtype=bool) if given is None else given
    figure = float(np.mean(hits[known])) if known.any() else float("nan")
    return Result(kind=kind, stated=stated, figure=figure, missing=1 - known.mean(), runs=len(hits), **line)


def effects(runs: int) -> list[Result]:
    """Means of log-odds: tails, skew and clusters."""
    found = []
    for name, sample in TAILS.items():
        truth = _truth(sample)
        for n in SIZES:
            values = sample(_rng(name, n), (n, runs))
            found.append(
                _covered(bootstrap_mean(values, np.arange(n), how=HOW), truth, what="effect", setting=name, n=n)
            )
    return found + list(_clustered(runs)) + list(_ratios(runs))


def _clustered(runs: int) -> Iterator[Result]:
    """Half of an item's variance is its cluster's."""
    for n in SIZES[1:]:
        rng = _rng("clusters", n)
        equal = np.repeat(np.arange(n // 4), 4)[:n]
        sizes = np.maximum(rng.geometric(0.25, size=n), 1)
        unequal = np.repeat(np.arange(n), sizes)[:n]
        for name, codes in (("clusters of 4", equal), ("clusters of unequal size, 4 on average", unequal)):
            members = np.unique(codes, return_inverse=True)[1]
            values = rng.normal(1, 1, (members.max() + 1, runs))[members] + rng.normal(0, 1, (len(codes), runs))
            yield _covered(bootstrap_mean(values, members, how=HOW), 1.0, what="effect", setting=name, n=len(codes))


def _ratios(runs: int) -> Iterator[Result]:
    """Log-probability a token over passages of unlike length, the longer ones the easier."""
    for n in SIZES:
        rng = _rng("ratios", n)
        tokens = 5.0 + rng.geometric(0.02, (n, runs))
        total = tokens * rng.normal(-2.5 + 0.004 * np.minimum(tokens, 200), 0.6, (n, runs))
        mean = bootstrap_ratio(total, tokens, np.arange(n), how=HOW)
        drawn = 5.0 + np.random.default_rng([SEED, 98]).geometric(0.02, 4_000_000)
        truth = float((drawn * (-2.5 + 0.004 * np.minimum(drawn, 200))).sum() / drawn.sum())
        yield _covered(mean, truth, what="log-probability a token", setting="passages of unlike length", n=n)


def paper(runs: int) -> list[Result]:
    """The released answers of the paper (survival, +1, 7B) as the population; none where they are not at hand."""
    if not RELEASED.is_file():
        return []
    rows = json.loads(RELEASED.read_text(encoding="utf-8"))
    kept = [row for row in rows if row["answer_matching_behavior"] in ("(A)", "(B)")]
    sides = np.array([1.0 if row["answer_matching_behavior"] == "(A)" else -1.0 for row in kept])
    y = sides * np.log([row["a_prob"] / row["b_prob"] for row in kept])
    found = []
    for n in SIZES:
        drawn = _rng("paper", n).integers(len(y), size=(n, runs))
        for what, values, within in (("effect", y, UNBOUNDED), ("level of p", expit(y), SHARE)):
            estimate = bootstrap_mean(values[drawn], np.arange(n), within=within, how=HOW)
            kind = _claim(values[drawn], within=within)
            found.append(
                _covered(estimate, float(values.mean()), kind=kind, what=what, setting="the paper's items", n=n)
            )
    return found


def levels(runs: int) -> list[Result]:
    """Levels of p(matching) and of accuracy, near 1 and in the middle."""
    found = []
    for name, sample in LEVELS.items():
        truth = _truth(sample)
        for n in SIZES:
            values = sample(_rng(name, n), (n, runs))
            estimate = bootstrap_mean(values, np.arange(n), within=SHARE, how=HOW)
            kind = _claim(values, within=SHARE)
            found.append(_covered(estimate, truth, kind=kind, what="level of p", setting=name, n=n))
    for n in SIZES[1:]:
        rng, members = _rng("levels in clusters", n), np.repeat(np.arange(n // 4), 4)
        values = expit(rng.normal(0, 1.4, (n // 4, runs))[members] + rng.normal(0, 1.4, (len(members), runs)))
        estimate = bootstrap_mean(values, members, within=SHARE, how=HOW)
        found.append(_covered(estimate, 0.5, what="level of p", setting="clusters of 4", n=len(members)))
    return found


def losses(runs: int) -> list[Result]:
    """Changes of p(correct) by steering: few answers that change, or all by a little."""
    found = []
    for name, sample in CHANGES.items():
        truth = _truth(sample)
        for n in (*SIZES[:2], 120, SIZES[2]):
            values = sample(_rng(name, n), (n, runs))
            estimate = bootstrap_mean(values, np.arange(n), within=DIFFERENCE, how=HOW)
            kind = _claim(values, within=DIFFERENCE)
            found.append(_covered(estimate, truth, kind=kind, what="change of p(correct)", setting=name, n=n))
    return found


def _of_fits(rng: np.random.Generator, *, n: int, runs: int, n_fits: int, sd: float, pairs: bool) -> np.ndarray:
    """Effects around 0 of items with sd 1, fits with `sd`, and sd .5 of item and fit together. [N, R, F]"""
    fit = rng.normal(0, sd, (1, runs, n_fits))
    if pairs:  # bootstrap refits stand around the fitted vector, which stands as far from the true one
        fit = fit + rng.normal(0, sd, (1, runs, 1))
    return rng.normal(0, 1, (n, runs, 1)) + fit + rng.normal(0, 0.5, (n, runs, n_fits))


def _design(n: int, runs: int, n_fits: int, *, pairs: bool) -> Design:
    part = np.full(runs, np.inf if pairs else 0.0)
    return Design(clusters=np.arange(n), n_fits=np.full(runs, n_fits), resampling=part, how=HOW)


def pairs(runs: int) -> list[Result]:
    """What a layer's table says of the training pairs; the truth is its mean over runs of as many items."""
    found, layers, width = [], max(runs // 4, 1), 128
    for n in SIZES:
        for name, signal in (("pairs that agree", 0.5), ("pairs that hardly agree", 0.15)):
            rng, scale = _rng("pairs", n, name), np.geomspace(1, 0.1, width)
            apart = rng.normal(0, 1, (n, layers, width)) * scale
            apart[:, :, [2, width // 3]] += signal
            middle = rng.normal(0, 1, (n, layers, width)) * scale
            table = vector_diagnostics(middle + apart / 2, middle - apart / 2, how=HOW)
            for what in BOUNDED:
                point, low, high = (table[f"{what}{end}"].to_numpy() for end in ("", "_low", "_high"))
                spans = Interval(point, low, high)  # type: ignore[arg-type]
                found.append(_covered(spans, float(point.mean()), what=f"pairs: {what}", setting=name, n=n))
    return found


def fits(runs: int) -> list[Result]:
    """Means over items and fits, seeds of a finetune and resamples of a vector's pairs."""
    found = []
    for n_fits in (2, 3, 5):
        for pairs in (False, True):
            for sd in (0.1, 0.3):
                values = _of_fits(_rng("fits", n_fits, pairs, sd), n=50, runs=runs, n_fits=n_fits, sd=sd, pairs=pairs)
                estimate = effect_intervals(values, _design(50, runs, n_fits, pairs=pairs))
                setting = f"{n_fits} {'resamples' if pairs else 'seeds'}, sd {sd:g} of the items'"
                found.append(_covered(estimate, 0.0, what="effect over fits", setting=setting, n=50))
    return found


def retention(runs: int) -> list[Result]:
    """T / A, true share .8, A four standard errors and more from 0."""
    found = []
    for n in SIZES:
        for name, skewed in (("normal", False), ("gamma, skew 6", True)):
            rng = _rng("retention", n, name)
            draw = rng.gamma(1 / 9, 1.0, (n, runs, 1)) * 3 - 1 / 3 if skewed else rng.normal(0, 1, (n, runs, 1))
            alone = 2.0 + draw
            top = 0.8 * alone + rng.normal(0, 0.5, alone.shape)
            estimate = effect_ratios(top, alone, _design(n, runs, 1, pairs=False))
            found.append(_covered(estimate, 0.8, what="retention (Fieller)", setting=name, n=n))
    for n_fits in (2, 3, 5):
        rng = _rng("retention", n_fits)
        alone = 2.0 + _of_fits(rng, n=50, runs=runs, n_fits=n_fits, sd=0.2, pairs=True)
        top = 0.8 * alone + _of_fits(rng, n=50, runs=runs, n_fits=n_fits, sd=0.1, pairs=True) * 0.5
        estimate = effect_ratios(top, alone, _design(50, runs, n_fits, pairs=True))
        found.append(_covered(estimate, 0.8, what="retention (Fieller)", setting=f"{n_fits} resamples", n=50))
    return found


def tests(runs: int) -> list[Result]:
    """How often "the mean is 0" is rejected where it is true."""
    found = []
    for name, sample in TAILS.items():
        truth = _truth(sample)
        for n in SIZES:
            p = p_values(sample(_rng("test", name, n), (n, runs)) - truth, np.arange(n), how=HOW)
            line = {"what": "effect, p < .05", "setting": name, "n": n}
            found.append(_rate(p < 0.05, kind="false alarms", stated=0.05, given=~np.isnan(p), **line))
    for n_fits in (2, 3, 5):
        values = _of_fits(_rng("t", n_fits), n=50, runs=runs, n_fits=n_fits, sd=0.3, pairs=True)
        p = effect_p_values(values, _design(50, runs, n_fits, pairs=True))
        line = {"what": "t test, p < .05", "setting": f"{n_fits} resamples", "n": 50}
        found.append(_rate(p < 0.05, kind="false alarms", stated=0.05, **line))
    return found


def placebos(runs: int) -> list[Result]:
    """A vector that is one more draw of its placebos: how often it is larger than all of them."""
    found = []
    for name, sample in TAILS.items():
        size = np.abs(sample(_rng("placebos", name), (LEAST_DRAWS + 1, runs)) - _truth(sample))
        for draws in (2, LEAST_DRAWS):
            beyond = size[0] > size[1 : draws + 1].max(axis=0)
            if draws == LEAST_DRAWS:
                line = {"what": "beyond all 19 placebos", "setting": name, "n": draws}
                found.append(_rate(beyond, kind="false alarms", stated=0.05, **line))
            elif name == "normal":
                line = {"what": "larger than 2 placebos (no claim is made)", "setting": name, "n": draws}
                found.append(_rate(beyond, kind="false alarms", stated=1 / 3, **line))
    return found


def power(runs: int) -> list[Result]:
    """Does the number of items that `caa-bench power` asks for, and the detectable effect, find it in 80% of runs?"""
    found = []
    one = ((1, 0.0, False),)
    for n_fits, sd, pairs in (
        *one,
        *((n, sd, pairs) for n in (2, 3, 5) for sd in (0.1, 0.3) for pairs in (False, True)),
    ):
        # What a run of 50 items shows of the fits: their own part, and what one item and one fit have alone.
        fits = ((sd**2 + 0.25 / 50) * (1 + 1 / n_fits if pairs else 1 / n_fits)) ** 0.5
        noise = Noise(items=(1 + 0.25 / n_fits) ** 0.5, fits=fits, n_fits=n_fits)
        kind = "resamples" if pairs else "seeds"
        setting = f"{n_fits} fit" if n_fits == 1 else f"{n_fits} {kind}, sd {sd:g} of the items'"
        how = {"n_fits": n_fits, "sd": sd, "pairs": pairs}
        # The smallest of these effects that a number of items that fits in memory finds; more fits are needed else.
        asked = ((effect, items_needed(effect, noise)) for effect in (0.5, 1.0, 2.0, 4.0))
        effect, n = next(((effect, n) for effect, n in asked if n is not None and 20 <= n <= 400), (0.0, None))
        if n is not None:
            values = _of_fits(_rng("power", n_fits, sd, pairs), n=n, runs=runs, **how) + effect
            p = effect_p_values(values, _design(n, runs, n_fits, pairs=pairs))
            found.append(_rate(p < 0.05, kind="power", stated=0.8, what="items of `power`", setting=setting, n=n))
        found.append(_detectable(runs, setting=setting, **how))
    return found


def _detectable(runs: int, *, n_fits: int, sd: float, pairs: bool, setting: str) -> Result:
    """The effect is the one that the median run itself calls detectable."""
    design = _design(50, runs, n_fits, pairs=pairs)
    values = _of_fits(_rng("detect", n_fits, sd, pairs), n=50, runs=runs, n_fits=n_fits, sd=sd, pairs=pairs)
    if n_fits == 1:
        effect = float(np.median(detectable_effect(effect_intervals(values, design).se)))
    else:
        two = two_way(values, values, design)
        items, fits = np.sqrt(50 * np.median(two.by_item)), np.sqrt(np.median(two.by_fit))
        effect = detectable_with(Noise.seen(items=float(items), fits=float(fits), n_fits=n_fits), n=50)
    p = effect_p_values(values + effect, design)
    return _rate(p < 0.05, kind="power", stated=0.8, what="detectable effect", setting=setting, n=50)


def selection(runs: int) -> list[Result]:
    """The largest of k arms that all do the same: its interval, and that of a choice made on other items."""
    found = []
    for tries in (2, 7, 16):
        rng = _rng("selection", tries)
        chosen_on, tested_on = (rng.normal(0.5, 1.0, (50, runs, tries)) for _ in range(2))
        same = tested_on.mean(axis=0).argmax(axis=1)
        other = chosen_on.mean(axis=0).argmax(axis=1)
        every = np.arange(runs)
        strongest = bootstrap_mean(tested_on[:, every, same], np.arange(50), how=HOW)
        line = {"what": "the strongest arm among all", "setting": f"largest of {tries}", "n": 50}
        spans = [
            among(Interval(*ends), tries=tries, df=49)
            for ends in zip(strongest.point, strongest.low, strongest.high, strict=True)
        ]
        ends = np.array([(span.low, span.high) for span in spans]).T
        given = Interval(*(np.asarray(x) for x in (strongest.point, *ends)))  # type: ignore[arg-type]
        found.append(_covered(given, 0.5, **line))
        tested = bootstrap_mean(tested_on[:, every, other], np.arange(50), how=HOW)
        line = {"what": "chosen on the selection split", "setting": f"best of {tries} layers and doses", "n": 50}
        found.append(_covered(tested, 0.5, **line))
    return found
