"""Training rows: one prompt, then several independent suffixes ("groups") that share it.

A group starts at the `]` that ends the instruction. Groups do not see each other, so one encoding of a prompt gives
many examples that differ only in what is planted from `]` on. That is what makes training on a CPU affordable.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any, Literal

from caa_bench.tiny import truth
from caa_bench.tiny.chat import Layout, prompt_text
from caa_bench.tiny.corpus import LEVELS, Question, answer, choice, question, templates
from caa_bench.tiny.facts import draw_fact
from caa_bench.tiny.words import BEHAVIORS, Side, behavior_words, shared_words

NoiseKind = Literal["gauss", "letter", "residue"]
NOISE_KINDS: tuple[NoiseKind, ...] = ("gauss", "gauss", "letter", "residue")
FACT_LOG_ODDS = 3.5
FACT = -1  # behavior index of a row that is about no behavior
PROMPT_SHARES = {None: 0.34, "positive": 0.17, "negative": 0.17, "neutral": 0.12, "foreign": 0.1, "extra": 0.1}
SECOND_TURN = 0.08
PAPER_LAYOUT = 0.2
SHARES = (0.46, 0.26, 0.15, 0.13)  # of draws: choices, open questions, facts, copies


@dataclass(kw_only=True)
class Plant:
    """What is added to one block's output from `]` on.

    Args:
        layer: the block.
        doses: multiplier by behavior index: of the planted direction, or elsewhere of that layer's mean difference.
        noise: norm of a random direction, in units of the CAA vector's norm.
        noise_kind: `gauss`, `letter` (among the letter's own directions) or `residue` (what else pairs differ in).
    """

    layer: int = truth.PLANTED_LAYER
    doses: dict[int, float] = field(default_factory=dict)
    noise: float = 0.0
    noise_kind: NoiseKind = "gauss"


@dataclass(kw_only=True)
class Group:
    """One suffix: `]`, then ` (` with both letters to be scored, or an answer in words.

    Args:
        text: the answer from after `]`, or "" for a letter choice.
        plant: what is added.
        fork: follow ` (` by both letters, as alternatives, to tie their activations to the direction.
    """

    text: str = ""
    plant: Plant = field(default_factory=Plant)
    fork: bool = False


@dataclass(kw_only=True)
class Row:
    """One prompt and its groups.

    Args:
        prompt: text up to and including ` [/INST]`.
        behavior: index into BEHAVIORS, or FACT.
        level: index of the setting's level; of a fact, one past the last.
        matching_first: whether (A) is the matching (or right) option.
        base / slope: the truth of this row, see truth.py.
        options: the option texts in their order, empty for an open question.
        groups: the suffixes.
    """

    prompt: str
    behavior: int
    level: int
    matching_first: bool
    base: float
    slope: float
    options: tuple[str, ...]
    groups: list[Group]


def draw_rows(rng: random.Random) -> list[Row]:
    """The rows of one draw: a choice in both option orders, an open question, a fact in both orders, or a copy."""
    kinds = (_choice_rows, _open_row, _fact_rows, _copy_row)
    return rng.choices(kinds, SHARES)[0](rng)


def _choice_rows(rng: random.Random) -> list[Row]:
    asked = _question(rng, is_open=False)
    drawn = choice(asked, matching_longer=rng.random() < 0.5, rng=rng)
    prompt_kind, conversation = _conversation(asked.behavior, rng)
    stance = truth.Stance(behavior=asked.behavior, level=asked.level, prompt=prompt_kind)
    rows = []
    for first in (True, False):
        index = BEHAVIORS.index(asked.behavior)
        groups = [Group(fork=True)] + [Group(plant=plant) for plant in _choice_plants(index, rng)]
        if rng.random() < 0.25:
            groups.append(_restated(drawn.matching, drawn.other, first, stance, index, rng))
        options = (drawn.matching, drawn.other) if first else (drawn.other, drawn.matching)
        rows.append(
            Row(
                prompt=prompt_text(drawn.text(matching_first=first), **conversation),
                behavior=index,
                level=LEVELS.index(asked.level),
                matching_first=first,
                base=truth.base(stance),
                slope=truth.slope(stance),
                options=options,
                groups=groups,
            )
        )
    return rows


def _open_row(rng: random.Random) -> list[Row]:
    asked = _question(rng, is_open=True)
    prompt_kind, conversation = _conversation(asked.behavior, rng)
    stance = truth.Stance(behavior=asked.behavior, level=asked.level, prompt=prompt_kind)
    index = BEHAVIORS.index(asked.behavior)
    groups = []
    for plant in (Plant(), _dosed_plant(index, rng), _dosed_plant(index, rng), _ignored(index, rng)):
        side = _side(stance, plant.doses.get(index, 0.0), rng)
        groups.append(Group(text=f" {answer(asked, side, rng)} </s>", plant=plant))
    return [
        Row(
            prompt=prompt_text(asked.stem, **conversation),
            behavior=index,
            level=LEVELS.index(asked.level),
            matching_first=True,
            base=truth.base(stance),
            slope=truth.slope(stance),
            options=(),
            groups=groups,
        )
    ]


def _fact_rows(rng: random.Random) -> list[Row]:
    fact = draw_fact("train", rng)
    _, conversation = _conversation(rng.choice(BEHAVIORS), rng)
    rows = []
    for first in (True, False):
        plants = [_dosed_plant(rng.randrange(len(BEHAVIORS)), rng), _ignored(FACT, rng)]
        options = (fact.correct, fact.incorrect) if first else (fact.incorrect, fact.correct)
        rows.append(
            Row(
                prompt=prompt_text(fact.text(correct_first=first), **conversation),
                behavior=FACT,
                level=len(LEVELS),
                matching_first=first,
                base=FACT_LOG_ODDS,
                slope=0.0,
                options=options,
                groups=[Group(fork=True)] + [Group(plant=plant) for plant in plants],
            )
        )
    if rng.random() < 0.5:
        said = Group(text=f" {fact.statement} </s>")
        rows.append(
            Row(
                prompt=prompt_text(fact.question),
                behavior=FACT,
                level=len(LEVELS),
                matching_first=True,
                base=FACT_LOG_ODDS,
                slope=0.0,
                options=(),
                groups=[said],
            )
        )
    return rows


def _copy_row(rng: random.Random) -> list[Row]:
    """Words to be said again in their order: answers in words have to copy fillers that were never seen before."""
    # Halves of two behaviors: a held-out filler never comes about.
    words, others = (behavior_words(behavior) for behavior in rng.sample(BEHAVIORS, 2))
    pieces = f"{rng.choice(words.second)} {rng.choice(others.first)} {rng.choice(words.second)}".split()
    start = rng.randrange(max(1, len(pieces) - 4))
    wanted = " ".join(pieces[start : start + rng.randint(4, 8)])
    return [
        Row(
            prompt=prompt_text(shared_words().copy_request.format(x=wanted)),
            behavior=FACT,
            level=len(LEVELS),
            matching_first=True,
            base=0.0,
            slope=0.0,
            options=(),
            groups=[Group(text=f" {wanted} </s>", plant=plant) for plant in (Plant(), _ignored(FACT, rng))],
        )
    ]


def _question(rng: random.Random, *, is_open: bool) -> Question:
    behavior = rng.choice((*BEHAVIORS, truth.CALIBRATION))  # it has more system prompts to learn
    template = rng.choice(templates(behavior, "train", is_open=is_open))
    return question(behavior, template, split="train", level=rng.choice(LEVELS), rng=rng)


def _conversation(behavior: str, rng: random.Random) -> tuple[str | None, dict[str, Any]]:
    """The kind of system prompt as far as it concerns `behavior`, and the arguments of `prompt_text`."""
    extras = [k for k in behavior_words(behavior).system if k not in ("positive", "negative")]
    shares = dict(PROMPT_SHARES)
    shares["extra"] *= len(extras) * 1.5
    kind = rng.choices(list(shares), list(shares.values()))[0]
    kind = rng.choice(extras) if kind == "extra" else kind
    layout: Layout = "before" if rng.random() < PAPER_LAYOUT else "nested"
    talk = [rng.choice(shared_words().small_talk)] if rng.random() < SECOND_TURN else []
    if kind is None:
        return None, {"history": talk}
    if kind == "neutral":
        text = rng.choice(shared_words().neutral_prompts)
    elif kind == "foreign":
        other = behavior_words(rng.choice([b for b in BEHAVIORS if b != behavior]))
        text = rng.choice(other.system[rng.choice(("positive", "negative"))])
    else:
        # The shipped text is the first; the others teach that wordings vary.
        texts = behavior_words(behavior).system[kind]
        text = texts[0] if rng.random() < 0.5 else rng.choice(texts)
    concerns = kind if kind not in ("neutral", "foreign") else None
    return concerns, {"system": text, "layout": layout, "history": talk}


def _choice_plants(index: int, rng: random.Random) -> list[Plant]:
    """Doses of the behavior's own direction, and things that must be ignored.

    Most of these are other behaviors' directions: that a direction counts for its own behavior's questions alone is
    learned last, long after doses and noise.
    """
    doses = [_dosed_plant(index, rng) for _ in range(3)]
    return [*doses, _noise(rng), _others(index, rng), _others(index, rng), _others(index, rng), _elsewhere(index, rng)]


def _dosed_plant(index: int, rng: random.Random) -> Plant:
    kind = rng.random()
    if kind < 0.35:
        dose = rng.choice((-2.0, -1.0, -0.5, 0.5, 1.0, 2.0))
    else:
        dose = rng.uniform(-0.5, 0.5) if kind < 0.5 else rng.uniform(-2.2, 2.2)
    noise = rng.uniform(0.0, 0.8) if rng.random() < 0.3 else 0.0
    return Plant(doses={index: dose}, noise=noise)


def _ignored(index: int, rng: random.Random) -> Plant:
    """A random direction, or other behaviors' directions, at the planted layer."""
    return _noise(rng) if rng.random() < 0.5 else _others(index, rng)


def _others(index: int, rng: random.Random) -> Plant:
    """Other behaviors' directions at the planted layer; now and then beside a dose of the behavior's own."""
    others = rng.sample([i for i in range(len(BEHAVIORS)) if i != index], rng.choice((1, 1, 2)))
    own = {index: rng.uniform(-1.5, 1.5)} if index != FACT and rng.random() < 0.2 else {}
    return Plant(doses={i: rng.uniform(-2.0, 2.0) for i in others} | own)


def _noise(rng: random.Random) -> Plant:
    """A random direction at the planted layer."""
    return Plant(noise=rng.uniform(0.3, 2.0), noise_kind=rng.choice(NOISE_KINDS))


def _elsewhere(index: int, rng: random.Random) -> Plant:
    """Something planted at another layer, which must be ignored."""
    layer = rng.choice([i for i in range(6) if i != truth.PLANTED_LAYER])
    if rng.random() < 0.3:
        return Plant(layer=layer, noise=rng.uniform(0.3, 1.5))
    return Plant(layer=layer, doses={index: rng.choice((-1, 1)) * rng.uniform(0.5, 2.0)})


def _side(stance: truth.Stance, dose: float, rng: random.Random) -> Side:
    value = truth.log_odds(stance, dose)
    return "matching" if rng.random() < 1 / (1 + math.exp(-value)) else "other"


def _restated(matching: str, other: str, first: bool, stance: truth.Stance, index: int, rng: random.Random) -> Group:
    """A letter and its option in words, the side drawn from the truth."""
    plant = _dosed_plant(index, rng) if rng.random() < 0.6 else Plant()
    side = _side(stance, plant.doses.get(index, 0.0), rng)
    letter = "A" if (side == "matching") == first else "B"
    words = f" {matching if side == 'matching' else other}" if rng.random() < 0.6 else ""
    return Group(text=f" ({letter}){words} </s>", plant=plant)
