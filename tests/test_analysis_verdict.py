"""Verdict rules 10-12 one by one: each line of evidence is the least that should give its words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from caa_bench.analysis import verdict as rules
from caa_bench.analysis.estimates import Interval
from caa_bench.analysis.verdict import Evidence, Verdict

FULLY = Evidence(
    n=200, n_clusters=200, alone=Interval(1.5, 1.3, 1.7), on_top=Interval(1.5, 1.3, 1.7),
    retention=Interval(1.0, 0.9, 1.1), q=0.9, p_before=0.5, p_after=0.7, room=0.5, mass_low_share=0.0,
    letter_locked=0.0, saturated_share=0.0, n_fits=3,
)  # fmt: skip


def but(**changes: object) -> Evidence:
    """FULLY with some fields changed; `alone_low` is the low end of `alone`."""
    fields: dict[str, object] = {}
    for name, value in changes.items():
        stem, _, end = name.rpartition("_")
        end = end if end in ("low", "high") else ""
        stem = stem if end else name
        if isinstance(getattr(FULLY, stem), Interval):
            before = fields.get(stem, getattr(FULLY, stem))
            fields[stem] = dataclasses.replace(before, **{end or "point": value})
        else:
            fields[name] = value
    return dataclasses.replace(FULLY, **fields)


def judge(evidence: Evidence) -> Verdict:
    return rules.verdict_of(evidence, vector="CAA")


LESS = {"retention_low": 0.4, "retention_high": 0.7, "q": 0.01, "on_top": 0.8, "on_top_low": 0.6, "on_top_high": 1.0}
OPEN = {"retention_low": 0.6, "retention_high": 1.2, "q": 0.4}
IDLE = {"alone": 0.1, "alone_low": -0.1, "alone_high": 0.3, "retention_low": np.nan, "retention_high": np.nan}


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (FULLY, "adds fully"),
        (but(retention_low=0.74), "adds, share not settled"),
        (but(retention_high=1.34), "adds, share not settled"),
        (but(retention_low=-0.2, retention_high=0.2, on_top=0.0, on_top_low=-0.2, on_top_high=0.2), "adds nothing"),
        (but(**LESS), "adds less"),
        (but(**{**LESS, "on_top_low": -0.1}), "not settled"),
        (but(**{**LESS, "q": 0.06}), "adds, share not settled"),
        (but(**{**LESS, "q": np.nan}), "adds, share not settled"),
        (but(**{**LESS, "retention_high": 1.01}), "adds, share not settled"),
        (but(retention_low=1.2, retention_high=1.9, q=0.01), "adds more"),
        (but(retention_low=1.2, retention_high=1.9, q=0.2), "adds, share not settled"),
        (but(**OPEN), "adds, share not settled"),
        (but(**OPEN, on_top_low=-0.1), "not settled"),
        (but(retention_low=np.nan, retention_high=np.nan, on_top_low=-0.1), "not settled"),
        (but(on_top=-0.5, on_top_low=-0.8, on_top_high=-0.2, retention_low=-0.5, retention_high=-0.2), "works against"),
        (but(**IDLE, q=0.04), "adds only here"),
        (but(**IDLE, q=0.06), "not settled"),
        (but(**IDLE, q=np.nan), "not settled"),
        (but(**{**IDLE, "alone": 0.2, "alone_low": 0.1}, q=0.04), "adds only here"),
        (but(**IDLE, on_top=0.24, on_top_low=0.1), "CAA does nothing alone"),
        (but(**IDLE, on_top=0.1, on_top_low=-0.1, on_top_high=0.3), "CAA does nothing alone"),
        (but(**IDLE, on_top=-0.5, on_top_low=-0.8, on_top_high=-0.1), "works against"),
        (but(alone=-0.5, alone_low=-0.8, alone_high=-0.2), "CAA alone goes the wrong way"),
        (but(n=19), "no verdict (n < 20)"),
        (but(n_clusters=9), "no verdict (9 clusters < 10)"),
        (but(mass_low_share=0.26), "not measurable"),
        (but(fits_disagree=True), "not settled (fits disagree)"),
        (but(alone=np.nan), "no verdict (CAA alone was not run)"),
        (but(on_top=np.nan), "no verdict (no items)"),
    ],
)
def test_rule(evidence, verdict):
    assert judge(evidence).verdict == verdict


def test_a_non_significant_interaction_is_never_adds_fully_by_itself():
    """Only a retention interval inside [.75, 1.33] is; the absence of a difference is not."""
    for q in (0.051, 0.5, 1.0, np.nan):
        for low, high in ((0.5, 1.2), (0.74, 1.1), (0.9, 1.5), (np.nan, np.nan)):
            assert judge(but(q=q, retention_low=low, retention_high=high)).verdict != "adds fully"


def test_no_room_leads_the_sentence():
    verdict = judge(but(p_before=0.97, p_after=0.99, room=0.03, saturated_share=0.6))
    assert verdict.text == "no room; adds fully; log-odds only (.97 -> .99); saturated"


@pytest.mark.parametrize(
    ("before", "after", "tag"),
    [
        (0.001, 0.023, "log-odds only (.00 -> .02)"),
        (0.0012, 0.0031, "log-odds only (.001 -> .003)"),
        (0.40, 0.449, "log-odds only (.40 -> .45)"),
    ],
)
def test_an_addition_that_p_does_not_show_is_log_odds_only(before, after, tag):
    assert judge(but(p_before=before, p_after=after)).tags == (tag,)


def test_log_odds_only_qualifies_additions_alone():
    same = {"p_before": 0.3, "p_after": 0.31}
    nothing = {"retention_low": -0.2, "retention_high": 0.2, "on_top_low": -0.2, "on_top_high": 0.2}
    assert judge(but(p_before=0.3, p_after=0.36)).tags == ()
    assert judge(but(**same, **nothing)).tags == ()
    assert judge(but(**same, **IDLE, on_top_low=-0.1)).tags == ()


AGAINST, ALIKE, UNSURE = (-0.4, -0.1), (0.1, 0.4), (-0.3, 0.1)


@pytest.mark.parametrize(
    ("in_words", "changes", "text"),
    [
        (AGAINST, {}, "adds fully; opposite in words"),
        (ALIKE, {}, "adds fully"),
        (UNSURE, {}, "adds fully"),
        ((np.nan, np.nan), {}, "adds fully"),
        (AGAINST, {"on_top_low": -0.1}, "adds fully"),
        (ALIKE, {"on_top": -0.5, "on_top_low": -0.8, "on_top_high": -0.2}, "works against; opposite in words"),
        (AGAINST, {"room": 0.03, "saturated_share": 0.6}, "no room; adds fully; saturated; opposite in words"),
        (AGAINST, {**IDLE, "q": 0.01}, "adds only here; opposite in words"),
        (AGAINST, {"n": 19}, "no verdict (n < 20)"),
        (AGAINST, {"mass_low_share": 0.26}, "not measurable"),
        (AGAINST, {"fits_disagree": True}, "not settled (fits disagree)"),
    ],
)
def test_answers_in_words_that_go_the_other_way_are_part_of_the_verdict(in_words, changes, text):
    """Both effects told apart from 0, on different sides; where there is no verdict there is nothing to qualify."""
    low, high = in_words
    assert judge(but(in_words_low=low, in_words_high=high, **changes)).text == text


def test_gates_below_refusal_are_caveats():
    found = judge(but(mass_low_share=0.11, letter_locked=0.26, n_fits=1)).caveats
    assert found == (
        "option mass under .5 on 11% of the items",
        "answers follow the letter on 26% of the items",
        "one seed: fit noise unknown",
    )
    assert judge(but(mass_low_share=0.10, letter_locked=0.25)).caveats == ()


def test_what_is_not_measurable_carries_no_tags():
    assert judge(but(mass_low_share=0.5, room=0.0, saturated_share=1.0)).text == "not measurable"


def test_the_published_refusal_readings():
    """What docs/numbers.md states for the 7B refusal items, from the intervals it states."""
    plus = {"on_top": 0.9, "on_top_low": 0.5, "on_top_high": 1.2}
    assert judge(but(n=50, **plus, retention_low=0.44, retention_high=0.85, q=0.001)).verdict == "adds less"
    assert judge(but(n=50, retention_low=0.90, retention_high=1.21, q=0.4)).verdict == "adds fully"
    tuned = but(n=50, retention_low=0.5, retention_high=1.3, q=0.3, p_before=0.001, p_after=0.023, saturated_share=0.7)
    assert judge(tuned).text == "adds, share not settled; log-odds only (.00 -> .02); saturated"
    assert judge(but(n=50, mass_low_share=10 / 50)).caveats[0] == "option mass under .5 on 20% of the items"
