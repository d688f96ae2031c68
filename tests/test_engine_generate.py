"""Generation: rows decoded together say, token by token, what each says alone and what a full recompute says."""

from __future__ import annotations

import pytest
import torch
from plain_loop import plain_forward
from random_models import FAMILIES, choice_prompts, random_model

from caa_bench.engine import generate as generate_module
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import Continuation, generate
from caa_bench.engine.work import counted

STOPS = (2, 3, 5, 9, 11, 20, 41)
PROMPTS = [*choice_prompts((9, 14, 20), steered=1), *choice_prompts((14, 23), steered=3, seed=7)]


def conditions(scale: float = 3.0) -> list[list[Edit]]:
    delta = torch.randn(64, generator=torch.Generator().manual_seed(1)) * scale
    return [
        [Edit(1, Add(-delta))],
        [],
        [Edit(1, Add(delta))],
        [Edit(0, Add(delta)), Edit(3, Add(delta))],
    ]


def recomputed(model, prompt, edits, length: int) -> Continuation:
    """Greedy, the whole text anew for every token."""
    new: list[int] = []
    while len(new) < length:
        logits, _ = plain_forward(model, [*prompt.ids, *new], prompt.first_position, edits)
        token = int(logits[-1].argmax())
        if token in STOPS:
            return Continuation(ids=tuple(new), ended="stop")
        new.append(token)
    return Continuation(ids=tuple(new), ended="length")


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_a_full_recompute_token_by_token(family):
    """Teacher-forced equals decoded: same tokens, same ends, for all prompts x conditions in one call."""
    model = random_model(family)
    together = generate(model, PROMPTS, conditions(), max_new_tokens=7, stop_ids=STOPS)
    expected = [[recomputed(model, prompt, edits, 7) for edits in conditions()] for prompt in PROMPTS]
    assert together == expected
    flat = [row for rows in together for row in rows]
    assert len({row.ids for row in flat}) > 8  # the conditions say different things


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_batch(temperature):
    """Same seed, same text: alone, beside others, in other chunks, in another order."""
    model, cells = random_model("llama"), conditions()
    seeds = [[100 * n + c for c in range(len(cells))] for n in range(len(PROMPTS))]
    options = {"max_new_tokens": 12, "stop_ids": STOPS, "temperature": temperature}
    together = generate(model, PROMPTS, cells, seeds=seeds, **options)
    for n, prompt in enumerate(PROMPTS):
        for c, edits in enumerate(cells):
            alone = generate(model, [prompt], [edits], seeds=[[seeds[n][c]]], **options)[0][0]
            assert alone == together[n][c]
    assert generate(model, PROMPTS, cells, seeds=seeds, batch_size=2, **options) == together
    ends = {row.ended for rows in together for row in rows}
    assert ends == {"stop", "length"}


def test_sampling_follows_the_seed_and_the_probabilities():
    """Another seed says something else; 400 seeds draw the first token as often as its probability says."""
    model, prompt = random_model("llama"), PROMPTS[0]
    logits, _ = plain_forward(model, prompt.ids, 0)
    probabilities = logits[-1].double().softmax(-1)
    rows = generate(
        model,
        [prompt] * 400,
        [[]],
        max_new_tokens=1,
        stop_ids=(),
        temperature=1.0,
        seeds=[[n] for n in range(400)],
        batch_size=400,
    )
    counts = torch.bincount(torch.tensor([row[0].ids[0] for row in rows]), minlength=97)
    top = probabilities.topk(4).indices
    spread = (400 * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - 400 * probabilities).abs() <= 4 * spread)[top].all()


def test_temperature_without_seeds_is_refused():
    """Unseeded text could not be repeated."""
    with pytest.raises(ValueError, match="seeds"):
        generate(random_model("llama"), PROMPTS, [[]], max_new_tokens=2, stop_ids=(), temperature=0.7)


def test_edits_from_the_start_and_models_that_cannot_share():
    """The slow way gives the same, row by row."""
    delta = conditions()[0][0].change.delta
    for family, edits in (
        ("llama", [Edit(1, Add(delta), positions="all")]),
        ("bloom", [Edit(1, Add(delta))]),
    ):
        model = random_model(family)
        found = generate(model, PROMPTS[:2], [edits, []], max_new_tokens=5, stop_ids=STOPS)
        assert found == [[recomputed(model, prompt, cell, 5) for cell in (edits, [])] for prompt in PROMPTS[:2]]


def test_prefix_is_computed_once_and_finished_rows_are_dropped():
    """Token-layers: one prefix a prompt, then only rows that still speak."""
    model, cells = random_model("llama"), conditions()
    prompts = PROMPTS[:3]
    generate(model, prompts[:1], [[]], max_new_tokens=1, stop_ids=())
    with counted(model) as work:
        rows = generate(model, prompts, cells, max_new_tokens=9, stop_ids=STOPS, batch_size=1)
    prefixes = sum(prompt.first_position for prompt in prompts)
    # a forward for each token said, and one for the stop token; none after the last token that fits
    spoken = sum(len(row.ids) + (row.ended == "stop") for group in rows for row in group)
    assert work.token_layers == 4 * (prefixes + spoken)


def test_many_rows_are_split(monkeypatch):
    """More rows than fit at once: several decoding batches, the same text."""
    model, cells = random_model("qwen2"), conditions()
    whole = generate(model, PROMPTS, cells, max_new_tokens=6, stop_ids=STOPS)
    monkeypatch.setattr(generate_module, "_MOST_ROWS", 3)
    assert generate(model, PROMPTS, cells, max_new_tokens=6, stop_ids=STOPS) == whole


def test_generation_leaves_no_hook():
    """Nothing stays on the model."""
    model = random_model("llama")
    generate(model, PROMPTS, conditions(), max_new_tokens=2, stop_ids=())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
