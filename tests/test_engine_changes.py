"""Edits that are no additions, at every site and position: rows on a shared prefix equal full forwards."""

from __future__ import annotations

import math

import pytest
import torch
from plain_loop import plain_forward
from random_models import choice_prompts, random_model

from caa_bench.engine.changes import Add, Change, Clamp, Gate, Project, Rotate
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import generate
from caa_bench.engine.likelihood import forced
from caa_bench.engine.low_rank import LowRank
from caa_bench.engine.positions import batch_of
from caa_bench.engine.score import score
from caa_bench.engine.sharing import can_share
from caa_bench.engine.steer import hooked, steered
from caa_bench.engine.work import counted, score_bound

FAMILIES = ("llama", "qwen2", "gpt_neox", "gemma", "gemma2", "gpt2")
PROMPTS = [*choice_prompts((9, 14, 20), steered=1), *choice_prompts((14, 23, 31), steered=3, seed=7)]
STOPS = tuple(range(2, 97, 6))


def direction(seed: int, width: int = 64) -> torch.Tensor:
    return 3 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def low_rank(rank: int = 3, width: int = 64) -> LowRank:
    draw = torch.Generator().manual_seed(4)
    rotate = torch.linalg.qr(torch.randn(width, rank, generator=draw)).Q.T
    return LowRank(rotate, torch.randn(rank, width, generator=draw), torch.randn(rank, generator=draw), 0.5)


def conditions() -> list[list[Edit]]:
    """Every kind, some at the same block, several on one row where their order matters, at each site."""
    u, v, w = direction(1), direction(2), direction(3)
    return [
        [Edit(1, Project(u))],
        [],
        [Edit(1, Add(v))],
        [Edit(0, Rotate(u, 0.7))],
        [Edit(1, Rotate(u, -0.7)), Edit(3, Add(w))],
        [Edit(2, Clamp(v, -0.2, 0.1))],
        [Edit(1, Gate(u, Add(v), 0.5)), Edit(2, Gate(-u, Project(v, 3.0)))],
        [Edit(1, Add(v)), Edit(1, Project(u + v)), Edit(1, Add(w)), Edit(1, Add(u))],
        [Edit(1, Project(u + v)), Edit(1, Add(v)), Edit(1, Add(w)), Edit(1, Add(u))],
        [Edit(3, Add(w)), Edit(0, Project(w))],
        [Edit(1, Add(v), positions="answer"), Edit(2, Project(u), positions="answer")],
        [Edit(0, Add(v), site="attention")],
        [Edit(0, Project(u), site="heads"), Edit(2, Rotate(v, 0.4), site="mlp"), Edit(2, Add(w))],
        [Edit(2, Add(u), site="heads"), Edit(1, Add(v))],
        [Edit(3, Clamp(v, high=0.0), site="mlp", positions="answer")],
        [Edit(1, low_rank()), Edit(2, Add(v))],
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_on_a_shared_prefix_equal_full_forwards(family):
    """Log-odds within 1e-5 in fp32, all conditions beside one another and each alone; and they do something."""
    model, cells = random_model(family), conditions()
    assert can_share(model, PROMPTS)
    together = score(model, PROMPTS, cells)
    full = score(model, PROMPTS, cells, share_prefix=False)
    odds, expected = together.logits.diff()[..., 0], full.logits.diff()[..., 0]
    torch.testing.assert_close(odds, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.log_z, full.log_z, atol=1e-5, rtol=1e-6)
    effects = (expected - expected[:, 1:2]).abs().amax(0)
    assert (effects[:1] > 1e-3).all()
    assert (effects[2:] > 1e-3).all()
    assert (expected[:, 7] - expected[:, 8]).abs().max() > 1e-3  # the order of two changes counts
    for c, edits in enumerate(cells):
        alone = score(model, PROMPTS, [edits]).logits.diff()[:, 0, 0]
        torch.testing.assert_close(alone, expected[:, c], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_forwards_equal_a_loop_of_slices(family):
    """Block edits at every kind of positions, against a loop that finds blocks and positions by itself."""
    model = random_model(family)
    u, v = direction(1), direction(2)
    cells = [
        [Edit(1, Project(u), positions=where), Edit(2, Add(v), positions=where)]
        for where in ("instruction_end", "answer", "prompt", "all", "first:3")
    ]
    logits = score(model, PROMPTS, cells).logits
    for n, prompt in enumerate(PROMPTS):
        for c, edits in enumerate(cells):
            expected = plain_forward(model, prompt.ids, prompt.first_position, edits)[0][-1, list(prompt.candidates)]
            torch.testing.assert_close(logits[n, c], expected, atol=2e-5, rtol=1e-5)
    spread = logits.diff()[..., 0].std(1)
    assert (spread > 1e-3).all()  # each kind of positions does something else


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_equals_one_row_by_hooks_and_teacher_forcing(family):
    """Token by token; rows end at different times, so that those left are renumbered."""
    model, cells = random_model(family), [*conditions(), [Edit(1, Project(direction(1)), positions="all")]]
    found = generate(model, PROMPTS, cells, max_new_tokens=7, stop_ids=STOPS)
    assert found == generate(model, PROMPTS, cells, max_new_tokens=7, stop_ids=STOPS, share_prefix=False)
    assert len({row.ids for rows in found for row in rows}) > 20
    assert {row.ended for rows in found for row in rows} == {"stop", "length"}
    for c, edits in enumerate(cells):
        answers = [rows[c].ids for rows in found]
        for known, rows in zip(forced(model, PROMPTS, answers, edits), found, strict=True):
            assert known.log_probs == pytest.approx(rows[c].log_probs, abs=2e-5)


def test_each_change_is_its_equation():
    """On random states, by other means than the code's."""
    torch.manual_seed(0)
    h, u = torch.randn(5, 7, 64), direction(1)
    unit = u / u.norm()
    along = h @ unit
    outer = torch.eye(64) - torch.outer(unit, unit)
    torch.testing.assert_close(Project(u)(h), h @ outer, atol=1e-5, rtol=0)
    torch.testing.assert_close(Project(u, 2.5)(h) @ unit, 2.5 * along, atol=1e-5, rtol=0)
    torch.testing.assert_close(Project(u, 2.5)(h) @ outer, h @ outer, atol=1e-5, rtol=0)
    clamped = Clamp(u, -0.3, 0.2)(h)
    torch.testing.assert_close(clamped @ unit, along.clamp(-0.3, 0.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(clamped @ outer, h @ outer, atol=1e-5, rtol=0)
    probe, bias = direction(2), -1.0
    expected = torch.stack([row + u if row @ probe + bias > 0 else row for row in h.reshape(-1, 64)]).reshape(h.shape)
    torch.testing.assert_close(Gate(probe, Add(u), bias)(h), expected, atol=0, rtol=0)
    assert 5 < int(((h @ probe + bias) > 0).sum()) < 30


@pytest.mark.parametrize("angle", [-4.0, -0.5, 0.3, 1.0, 4.0])
def test_a_turn_keeps_the_norm_and_ends_at_the_direction(angle):
    """The angle to u shrinks by the angle, to 0 or pi at most; the plane of h and u is not left."""
    torch.manual_seed(0)
    h, u = torch.randn(50, 64, dtype=torch.float64), direction(1).double()
    turned = Rotate(u, angle)(h.float()).double()
    torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1), atol=1e-5, rtol=0)
    before, after = (torch.cosine_similarity(one, u[None]).clamp(-1, 1).acos() for one in (h, turned))
    torch.testing.assert_close(after, (before - angle).clamp(0, math.pi), atol=1e-3, rtol=0)
    plane = torch.stack([h, u.expand_as(h)], dim=-1)  # [50, 64, 2]
    left = turned[..., None] - plane @ torch.linalg.lstsq(plane, turned[..., None]).solution
    assert left.abs().max() < 1e-5
    along = torch.stack([2 * u, -u, 0 * u]).float()
    assert torch.equal(Rotate(u, angle)(along), along)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "change",
    [Add(direction(1)), Project(direction(1)), Clamp(direction(1), high=0.1), Rotate(direction(1), 0.5)],
    ids=lambda one: type(one).__name__,
)
def test_half_precision_is_computed_in_full_and_rounded_once(change, dtype):
    torch.manual_seed(0)
    h = torch.randn(4, 64).to(dtype)
    found = change(h)
    assert found.dtype == dtype
    expected = h + direction(1).to(dtype) if isinstance(change, Add) else change(h.float()).to(dtype)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "change", [Add(torch.zeros(64)), Project(direction(1), 1.0), Clamp(direction(1)), Rotate(direction(1), 0.0)]
)
def test_what_changes_nothing_is_no_row_of_its_own(change: Change):
    """The unsteered row, bit for bit, and no work."""
    model, cells = random_model("llama"), [[], [Edit(1, change)], [Edit(1, Gate(direction(2), change))]]
    score(model, PROMPTS[:1], [[]])
    with counted(model) as work:
        found = score(model, PROMPTS[:1], cells)
    assert torch.equal(found.logits[:, 0], found.logits[:, 1])
    assert torch.equal(found.logits[:, 0], found.logits[:, 2])
    assert work.token_layers == len(PROMPTS[0].ids) * 4


def test_a_row_joins_as_late_as_its_first_edit_allows():
    """Token-layers are the bound: below its first change a row costs nothing, whatever the change is."""
    model, prompt = random_model("llama"), PROMPTS[3]
    cells = [[Edit(2, Project(direction(1)))], [Edit(2, Add(direction(1)), site="mlp")], [Edit(0, Add(direction(1)))]]
    score(model, [prompt], [[]])
    with counted(model) as work:
        score(model, [prompt], cells)
    above = 1 + 2 + 3  # blocks above block 2, from block 2 itself on, above block 0
    assert work.token_layers == len(prompt.ids) * 4 + 3 * above == score_bound([prompt], cells, layers=4)


@pytest.mark.parametrize("site", ["attention", "mlp", "heads"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_is_the_module_s_own_output(family, site):
    """Against plain hooks on modules found by name; zero positions before the first one change."""
    model, prompt, delta = random_model(family), PROMPTS[4], direction(1)
    names = {
        "gpt_neox": ("gpt_neox.layers.1", "attention", "mlp", "attention.dense"),
        "gpt2": ("transformer.h.1", "attn", "mlp", "attn.c_proj"),
    }.get(family, ("model.layers.1", "self_attn", "mlp", "self_attn.o_proj"))
    part = dict(zip(("attention", "mlp", "heads"), names[1:], strict=True))[site]
    module = model.get_submodule(f"{names[0]}.{part}")
    first = prompt.first_position

    def add(hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden[:, :first], hidden[:, first:] + delta], dim=1)

    if site == "heads":
        handle = module.register_forward_pre_hook(lambda _, args: (add(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(
            lambda _, __, out: (add(out[0]), *out[1:]) if isinstance(out, tuple) else add(out)
        )
    ids = torch.tensor([prompt.ids])
    with torch.no_grad():
        expected = model(ids).logits
        handle.remove()
        with batch_of([prompt]), steered(model, [Edit(1, Add(delta), site=site)]):
            found = model(ids).logits
        plain = model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, :first], plain[:, :first], atol=1e-5, rtol=0)
    assert (found - plain)[:, first:].abs().mean() > 1e-3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Edit(0, Add(torch.ones(64)), site="residual"), r"site \('residual'\) must be one of block, attention"),
        (lambda: Edit(0, Add(torch.ones(64)), positions="first:0"), r"positions \('first:0'\) must be one of"),
        (lambda: Edit(0, Add(torch.ones(64)), positions="last"), r"positions \('last'\) must be one of"),
        (lambda: Project(torch.zeros(4)), "Project: the direction is zero everywhere"),
        (lambda: Rotate(torch.zeros(4), 1.0), "Rotate: the direction is zero everywhere"),
        (lambda: Clamp(torch.ones(4), 1.0, 0.5), r"low \(1\) must not be above high \(0.5\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_place_that_is_not_there_is_refused():
    """It would change nothing, silently."""
    for edit, said in (
        (Edit(4, Add(torch.ones(64))), r"layer \(4\) must be in 0..3"),
        (Edit(1, Add(torch.ones(64)), site="mlp"), "site mlp: OPTDecoderLayer has none of mlp"),
    ):
        model = random_model("opt")
        with pytest.raises(ValueError, match=said):
            score(model, PROMPTS, [[edit]])
        with pytest.raises(ValueError, match=said), hooked(model, [edit]):
            pass
