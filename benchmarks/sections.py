"""The measurements. Each section returns what it found as plain JSON; bench.py writes it down at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.steering_vectors_peer import SteeringVectors
from benchmarks.subject import SEVEN, Settings, Subject
from benchmarks.timing import Timed, interleaved, ratio
from caa_bench.engine.capture import letter_activations
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import generate
from caa_bench.engine.score import score
from caa_bench.engine.steer import steered
from caa_bench.engine.work import counted, loop_cost, score_bound
from caa_bench.models.prompts import ChoicePrompt

Found = dict[str, Any]


def sweep(subject: Subject, settings: Settings) -> Found:
    """Every layer x (-1, 1) on 50 items: (a) with all and with last logits, (b), ours."""
    conditions = subject.sweep()
    loop = partial(peers.plain_loop, subject.model, subject.test, conditions)
    timed = interleaved(
        {
            "ours": partial(ours, subject, subject.test, conditions),
            "a, all logits": partial(loop, all_positions=True),
            "a, last logits": partial(loop, all_positions=False),
            "b": partial(peers.batched_recompute, subject.model, subject.test, conditions),
        },
        settings.repetitions,
        clock=settings.clock,
    )
    return _against_ours(timed) | _work(subject, subject.test, conditions)


def seven_multipliers(subject: Subject, settings: Settings) -> Found:
    """Every layer x 7 multipliers on 12 seeded items."""
    items, conditions = _some(subject.test, 12), subject.sweep(SEVEN)
    loop = partial(peers.plain_loop, subject.model, items, conditions)
    timed = interleaved(
        {
            "ours": partial(ours, subject, items, conditions),
            "a, all logits": partial(loop, all_positions=True),
            "a, last logits": partial(loop, all_positions=False),
        },
        settings.repetitions,
        clock=settings.clock,
    )
    return _against_ours(timed) | _work(subject, items, conditions)


def extraction(subject: Subject, settings: Settings) -> Found:
    """Vectors of all layers from 200 pairs: two plain passes, steering-vectors at its best batch size, ours."""

    def engine() -> Tensor:
        found = letter_activations(subject.model, subject.train)
        return (found[:, 0] - found[:, 1]).mean(0)

    methods: dict[str, Callable[[], Any]] = {
        "ours": engine,
        "two plain passes": partial(peers.two_pass_extraction, subject.model, subject.train),
    }
    other = SteeringVectors(subject, settings) if settings.device == "cpu" else None
    if other:
        tried = {size: other.extract(subject.train[:48], batch=size)["seconds"] for size in (1, 2, 4, 8, 16)}
        best = min(tried, key=lambda size: tried[size])
        methods["steering-vectors"] = partial(other.extract, subject.train, batch=best)
    timed = interleaved(methods, settings.repetitions, clock=settings.clock)
    found = _against_ours(timed)
    if other:
        found |= {"steering-vectors batch": best, "steering-vectors versions": other.versions}
        other.close()
    return found


def steering_vectors_scoring(subject: Subject, settings: Settings) -> Found:
    """Every layer x (-1, 1) on 12 seeded items with the steering-vectors package, one item or 16 at a time."""
    if settings.device != "cpu":
        return {"not measured": "the package's process is run on the CPU only"}
    items, conditions = _some(subject.test, 12), subject.sweep()
    pairs = [(layer, sign) for layer in range(subject.layers) for sign in (-1.0, 1.0)]
    other = SteeringVectors(subject, settings)
    timed = interleaved(
        {
            "ours": partial(ours, subject, items, conditions),
            "one item, last logits": partial(other.score, items, pairs, subject.vectors, batch=1),
            "12 items, all logits": partial(other.score, items, pairs, subject.vectors, batch=16),
        },
        settings.repetitions,
        clock=settings.clock,
    )
    other.close()
    return _against_ours(timed)


def growth(subject: Subject, settings: Settings) -> Found:
    """Seconds of ours and of (b) as conditions, items and prompt length grow."""
    vectors, test = subject.vectors, subject.test
    layers = [layer for layer in range(subject.layers) for _ in range(200 // subject.layers + 1)]
    random.Random(0).shuffle(layers)  # noqa: S311
    many = [[Edit(layer, Add(vectors[layer] * (0.2 + i / 100)))] for i, layer in enumerate(layers[:200])]
    recompute = partial(peers.batched_recompute, subject.model)
    eight = test[:8]
    found: Found = {"conditions": {}, "items": {}, "prompt tokens": {}}
    for count in (1, 2, 5, 12, 24, 50, 100, 200):
        methods = {"ours": partial(ours, subject, eight, many[:count]), "b": partial(recompute, eight, many[:count])}
        found["conditions"][count] = _medians(
            interleaved(methods if count <= 24 else {"ours": methods["ours"]}, 3, clock=settings.clock)
        )
    for count in (5, 10, 25, 50):
        found["items"][count] = _medians(
            interleaved({"ours": partial(ours, subject, test[:count], subject.sweep())}, 3, clock=settings.clock)
        )
    for length in (32, 64, 128, 256, 512):
        long = [_of_length(prompt, length) for prompt in eight]
        one = {"ours": partial(ours, subject, long, many[:24]), "b": partial(recompute, long, many[:4])}
        medians = _medians(interleaved(one, 3, clock=settings.clock))
        found["prompt tokens"][length] = medians | {"b": medians["b"] * 6}  # 4 of 24 conditions were run
    return found


def generation(subject: Subject, settings: Settings) -> Found:
    """7 multipliers x 16 prompts together, against one multiplier after another; and what steering itself costs."""
    tokens, layer = 40, subject.layers // 3
    conditions = [[Edit(layer, Add(subject.vectors[layer] * m))] for m in SEVEN]
    engine = partial(generate, subject.model, subject.open_ended, max_new_tokens=tokens, stop_ids=())

    def together() -> list[list[list[int]]]:
        rows = engine(conditions)
        return [[list(row[c].ids) for row in rows] for c in range(len(conditions))]

    def after_another() -> list[list[list[int]]]:
        return [[list(row[0].ids) for row in engine([edits])] for edits in conditions]

    timed = interleaved(
        {
            "ours": together,
            "ours, one after another": after_another,
            "generate, one after another": partial(
                peers.hugging_face_generate, subject.model, subject.open_ended, conditions, tokens=tokens
            ),
        },
        settings.repetitions,
        clock=settings.clock,
    )
    texts = timed["ours"].result
    return {
        "seconds": _medians(timed),
        "ratios": {name: ratio(one, timed["ours"]) for name, one in timed.items() if name != "ours"},
        "tokens per s": {name: 7 * 16 * tokens / one.median for name, one in timed.items()},
        "identical": {name: one.result == texts for name, one in timed.items()},
        "steering": _steering_cost(subject, settings, conditions[-1], tokens=tokens),
    }


def _steering_cost(subject: Subject, settings: Settings, edits: Sequence[Edit], *, tokens: int) -> Found:
    """Time steered over unsteered, by the engine and by `steered` around `model.generate`: same rows, same length."""
    engine = partial(generate, subject.model, subject.open_ended, max_new_tokens=tokens, stop_ids=())
    ids, mask = peers.left_padded(subject.open_ended, subject.model.device)
    plain = partial(
        subject.model.generate, ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip

    def hooked() -> Tensor:
        with steered(subject.model, edits):
            return plain()

    methods = {"engine": partial(engine, [[]]), "engine steered": partial(engine, [edits]), "generate": plain}
    timed = interleaved(methods | {"generate steered": hooked}, settings.repetitions, clock=settings.clock)
    return {
        "engine": ratio(timed["engine steered"], timed["engine"]),
        "generate": ratio(timed["generate steered"], timed["generate"]),
    }


def ours(subject: Subject, items: Sequence[ChoicePrompt], conditions: Sequence[Sequence[Edit]]) -> Tensor:
    """(d) The engine. Log-odds, [N, C]"""
    logits = score(subject.model, items, conditions).logits
    return logits[..., 0] - logits[..., 1]


def _against_ours(timed: dict[str, Timed]) -> Found:
    """Seconds, ratios to ours, and how far the numbers are apart."""
    mine = timed["ours"].result
    found: Found = {"seconds": _medians(timed), "ratios": {}, "greatest difference": {}}
    for name, one in timed.items():
        if name != "ours":
            result = one.result["out"] if isinstance(one.result, dict) else one.result
            found["ratios"][name] = ratio(one, timed["ours"])
            found["greatest difference"][name] = float((result - mine).abs().max())
    return found


def _work(subject: Subject, items: Sequence[ChoicePrompt], conditions: Sequence[Sequence[Edit]]) -> Found:
    with counted(subject.model) as work:
        ours(subject, items, conditions)
    bound = score_bound(items, conditions, layers=subject.layers)
    loop = loop_cost(items, conditions, layers=subject.layers)
    return {"token-layers": work.token_layers, "bound": bound, "over bound": work.token_layers / bound, "loop": loop}


def _medians(timed: dict[str, Timed]) -> dict[str, float]:
    return {name: one.median for name, one in timed.items()}


def _some(items: Sequence[ChoicePrompt], count: int) -> list[ChoicePrompt]:
    return random.Random(0).sample(list(items), min(count, len(items)))  # noqa: S311


def _of_length(prompt: ChoicePrompt, length: int) -> ChoicePrompt:
    """The same end behind as much of the prompt, repeated, as makes it `length` tokens long."""
    body = (prompt.ids[1:-2] * (length // max(1, len(prompt.ids) - 3) + 1))[: length - 3]
    ids = (prompt.ids[0], *body, *prompt.ids[-2:])
    return ChoicePrompt(ids=ids, first_position=length - 2, candidates=prompt.candidates)


@torch.no_grad()
def warm_up(subject: Subject) -> None:
    """Page in weights and code, and let the engine try the model once, outside of every timing."""
    conditions = subject.sweep()[:4]
    for method in (ours, lambda s, i, c: peers.plain_loop(s.model, i, c, all_positions=True)):
        method(subject, subject.test[:2], conditions)
