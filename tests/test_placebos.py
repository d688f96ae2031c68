"""Placebo vectors: what each kind is made of, that draws differ, and where they are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import Small

from caa_bench import CAA, Benchmark, BenchmarkArguments, ChatModel
from caa_bench.behaviors.behavior import Behavior, load_behavior, variants
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.score import score
from caa_bench.errors import UserError
from caa_bench.interventions import (
    CovarianceDirection,
    OrthogonalShuffle,
    OtherBehaviors,
    RandomDirection,
    ShuffledLabels,
    several_fits,
)
from caa_bench.interventions.bipo import BiPO
from caa_bench.interventions.icv import ICV
from caa_bench.interventions.iti import ITI
from caa_bench.interventions.logistic import Logistic
from caa_bench.interventions.mean_centring import MeanCentring
from caa_bench.interventions.pair_vectors import Component
from caa_bench.interventions.pca_centred import PCACentred
from caa_bench.interventions.placebos import ENOUGH, Placebo
from caa_bench.interventions.repe_pca import RepePCA
from caa_bench.interventions.vectors import SteeringVector, letter_differences


@pytest.fixture
def behavior(small: Small) -> Behavior:
    return load_behavior(str(small.behavior))


@pytest.fixture
def chat(small: Small) -> ChatModel:
    return ChatModel.find(str(small.model))


@pytest.fixture
def caa(chat: ChatModel, behavior: Behavior) -> CAA:
    made = CAA()
    made.fit(chat.model, chat.tokenizer, behavior.pairs())
    return made


def drawn(placebo: Placebo, chat: ChatModel, behavior: Behavior) -> list[torch.Tensor]:
    found = []
    for one in placebo.every_draw():
        one.fit(chat.model, chat.tokenizer, behavior.pairs())
        found.append(one.fitted())
    return found


def test_shuffled_is_the_mean_difference_with_half_of_the_items_turned(
    caa: CAA, chat: ChatModel, behavior: Behavior
) -> None:
    """Nothing is projected out: each draw is a signed mean of item differences, half of the signs each way."""
    pairs = behavior.pairs()
    differences = letter_differences(chat.model, chat.tokenizer, pairs)
    items = list(dict.fromkeys(pair.item for pair in pairs))
    halves = set()
    placebo = ShuffledLabels(original=caa, draws=5)
    for one, vectors in zip(placebo.every_draw(), drawn(placebo, chat, behavior), strict=True):
        half = frozenset(one._half(items, pairs))
        assert len(half) == len(items) // 2
        halves |= {half, frozenset(items) - half}
        signs = torch.tensor([-1.0 if pair.item in half else 1.0 for pair in pairs])
        expected = (signs[:, None, None] * differences).mean(dim=0)
        assert torch.allclose(vectors, expected, atol=1e-5), "as long as labels that say nothing leave it"
        one.vectors = vectors
        shares = [float(a / b) for a, b in zip(vectors.norm(dim=-1), caa.fitted().norm(dim=-1), strict=True)]
        assert one.shares() == pytest.approx(shares, rel=1e-4)
    assert len(halves) == 10, "no two draws divide the items in the same way"


def test_orthogonal_is_the_same_without_the_true_direction(caa: CAA, chat: ChatModel, behavior: Behavior) -> None:
    true = caa.fitted()
    for shuffled, orthogonal in zip(
        drawn(ShuffledLabels(original=caa, draws=3), chat, behavior),
        drawn(OrthogonalShuffle(original=caa, draws=3), chat, behavior),
        strict=True,
    ):
        assert torch.cosine_similarity(orthogonal, true).abs().max() < 1e-5
        left = shuffled - (shuffled * true).sum(-1, keepdim=True) / true.pow(2).sum(-1, keepdim=True) * true
        assert torch.cosine_similarity(orthogonal, left).min() > 1 - 1e-5


def test_covariance_draws_have_the_covariance_of_the_items_differences(
    caa: CAA, chat: ChatModel, behavior: Behavior
) -> None:
    """They lie in the span of the centered item differences, and go where these vary most."""
    pairs = behavior.pairs()
    differences = letter_differences(chat.model, chat.tokenizer, pairs)[:, 1].double()
    items = list(dict.fromkeys(pair.item for pair in pairs))
    means = torch.stack([differences[[pair.item == item for pair in pairs]].mean(dim=0) for item in items])
    _, _, axes = torch.linalg.svd(means - means.mean(dim=0), full_matrices=True)
    along = []
    for vectors in drawn(CovarianceDirection(original=caa, draws=30), chat, behavior):
        part = (axes @ vectors[1].double()) ** 2
        assert part[len(items) - 1 :].sum() < 1e-6 * part.sum() or len(items) > len(axes)
        along.append((part / part.sum()).numpy())
    share = np.mean(along, axis=0)
    assert share[:5].sum() > 2 * 5 / len(axes), "an isotropic direction has 5 / D of its length there"


@pytest.mark.slow
def test_other_behaviors_are_their_own_vectors_at_the_norm_of_this_one(caa: CAA, chat: ChatModel, small: Small) -> None:
    """A draw a behavior: the method on its pairs, rescaled layer by layer; the measured one is not among them."""
    from caa_bench.behaviors.folders import behavior_names
    from caa_bench.interventions.saving import revived

    measured = load_behavior("refusal")
    made = CAA()
    made.fit(chat.model, chat.tokenizer, measured.pairs())
    named = ("sycophancy", "hallucination")
    placebo = OtherBehaviors(original=made, behaviors=named)
    for one, name, vectors in zip(placebo.every_draw(), named, drawn(placebo, chat, measured), strict=True):
        other = CAA()
        other.fit(chat.model, chat.tokenizer, load_behavior(name).pairs())
        assert torch.cosine_similarity(vectors, other.fitted()).min() > 1 - 1e-5
        assert torch.allclose(vectors.norm(dim=-1), made.fitted().norm(dim=-1), rtol=1e-4)
        assert set(one.learned_from(measured.pairs())) == {"refusal", name}
        again = revived(one.settings(), base=OtherBehaviors)
        assert isinstance(again, OtherBehaviors) and again.drawn == name
    keys = {str(one.settings()) for one in placebo.every_draw()}
    assert len(keys) == 2, "each has a key of its own"
    built = OtherBehaviors.build(OtherBehaviors.Config(), variant="", behavior=measured, built={"caa": made})
    assert set(built.config.behaviors) == set(behavior_names()) - {"refusal"}
    with pytest.raises(UserError, match=r"other_behaviors\.behaviors: none is named"):
        OtherBehaviors(original=made).fit(chat.model, chat.tokenizer, measured.pairs())


METHODS = [
    CAA(normalize=("refusal", "sycophancy")), Logistic(), Logistic(norm="own"), MeanCentring(),
    BiPO(epochs=1), BiPO(epochs=1, norm="own"), ITI(), RepePCA(), RepePCA(norm="own"), PCACentred(), ICV(),
    ICV(norm="own"),
]  # fmt: skip


@pytest.mark.parametrize("made", METHODS, ids=lambda one: f"{one.name}-{getattr(one.config, 'norm', 'raw')}")
def test_a_shuffled_placebo_is_as_long_as_the_method_makes_it(made: SteeringVector) -> None:
    """With no item exchanged it is the vector itself, of a component its length; `norm: caa` shrinks as CAA does.

    A probe's weights (`norm: own`), a spread (`iti`) and the sum of steps (`bipo`) need not shrink with the labels.
    """
    chat, pairs = ChatModel.find("tiny"), load_behavior("refusal", max_pairs=32).pairs()
    made.fit(chat.model, chat.tokenizer, pairs)
    same = made.exchanged_vectors(chat.model, chat.tokenizer, pairs, exchanged=set())
    assert torch.allclose(same.norm(dim=-1), made.fitted().norm(dim=-1), rtol=1e-3)
    if not isinstance(made, (Component, ICV)):
        assert torch.allclose(same, made.fitted(), atol=1e-4 * float(made.fitted().abs().max()))
    placebo = ShuffledLabels(original=made)
    placebo.fit(chat.model, chat.tokenizer, pairs)
    if made.name != "iti" and getattr(made.config, "norm", "caa") == "caa":
        caa = CAA()
        caa.fit(chat.model, chat.tokenizer, pairs)
        beside = ShuffledLabels(original=caa)
        beside.fit(chat.model, chat.tokenizer, pairs)
        assert placebo.shares() == pytest.approx(beside.shares(), rel=1e-4)
        assert all(share is not None and share < 0.3 for share in placebo.shares())


def test_every_draw_is_another_one_of_the_same_norm(caa: CAA, chat: ChatModel, behavior: Behavior) -> None:
    for cls in (RandomDirection, CovarianceDirection, ShuffledLabels, OrthogonalShuffle):
        made = drawn(cls(original=caa, draws=4), chat, behavior)
        again = drawn(cls(original=caa, draws=4), chat, behavior)
        for place, one in enumerate(made):
            assert torch.equal(one, again[place]), "the same seed draws the same"
            if cls is not ShuffledLabels:
                assert torch.allclose(one.norm(dim=-1), caa.fitted().norm(dim=-1), rtol=1e-4)
            assert all(torch.cosine_similarity(one, other)[1].abs() < 0.99 for other in made[:place])


def test_too_few_items_for_so_many_shuffles_is_one_line(caa: CAA, chat: ChatModel, behavior: Behavior) -> None:
    placebo = ShuffledLabels(original=caa, draws=4)
    items = ["a", "b", "c", "d"]
    placebo.draw = 3
    assert len(placebo._half(items, behavior.pairs())) == 2
    placebo.draw = 4
    with pytest.raises(UserError, match=r"shuffled.draws: 4 training items can be divided in 3 ways only"):
        placebo._half(items, behavior.pairs())
    with pytest.raises(UserError, match="draws: 0 is no number of placebos"):
        ShuffledLabels(original=caa, draws=0)


def test_draws_are_measured_on_the_unchanged_model_alone_and_ranked(small: Small, tmp_path: Path) -> None:
    """19 cells of each dose there, one band; the vector's rank among them; no cell on the prompt."""
    args = BenchmarkArguments(
        output_dir=str(tmp_path), report_to=(), bases=("none", "system_prompt_positive"), vectors=("caa", "shuffled"),
        evaluators=("answer_probability",),
    )  # fmt: skip
    run = Benchmark(
        str(small.model), behavior=str(small.behavior), args=args, progress=False,
        interventions=[caa := CAA(layers=(1,), multipliers=(-8.0, 8.0)), ShuffledLabels(original=caa, draws=19)],
    ).compare()  # fmt: skip
    cells = [cell for cell in run.plan().cells if cell.vector == "shuffled"]
    assert {cell.base for cell in cells} == {"none"}
    assert sorted({int(cell.fit) for cell in cells}) == list(range(1, 20)) and len(cells) == 38
    report = run.report()
    assert len(report.placebos) == 38 and (report.placebo_ranks["draws"] == 19).all()
    shares = sorted(one.shares()[1] for one in run.interventions if isinstance(one, Placebo))
    assert report.placebo_ranks["length"].tolist() == [shares[9], shares[9]], "the median of the 19 at layer 1"
    assert not (report.fits["vector"] == "shuffled").any() if len(report.fits) else True
    band = report.band.set_index("multiplier")
    for dose in (-8.0, 8.0):
        own = report.placebos.loc[report.placebos["multiplier"] == dose, "shift"]
        assert (band.loc[dose, "low"], band.loc[dose, "high"]) == (own.min(), own.max())
        rank = report.placebo_ranks.set_index("multiplier").loc[dose]
        assert rank["p_value"] == (1 + (own.abs() >= abs(rank["shift"])).sum()) / 20


def test_a_placebo_of_several_fits_stands_beside_the_first() -> None:
    caa = CAA()
    made = several_fits([caa, ShuffledLabels(original=caa, draws=3)], count=2)
    assert [one.key for one in made] == ["caa", "shuffled", "shuffled@2", "shuffled@3", "caa@2"]
    assert len({id(one.original) for one in made if isinstance(one, Placebo)}) == 1


def null_ranks(chat: ChatModel, behavior: Behavior, *, layer: int, push: float, items: int, nulls: int) -> list[int]:
    """Of vectors from shuffled labels: how many of 19 other shuffles of the same pairs move the model as far.

    Args:
        push: the null vector's length when it is added, over the median activation's: the dose is chosen so, and its
            placebos, which have lengths of their own, get the same multiplier.
    """
    caa, rng = CAA(), np.random.default_rng(3)
    pairs = behavior.pairs()
    caa.fit(chat.model, chat.tokenizer, pairs)
    names = list(dict.fromkeys(pair.item for pair in pairs))
    residual = next(line["residual_norm"] for line in caa.diagnostics if line["layer"] == layer)
    assert residual is not None

    def of(turned: set[str]) -> torch.Tensor:
        return caa.exchanged_vectors(chat.model, chat.tokenizer, pairs, exchanged=turned)[layer]

    def half() -> set[str]:
        return set(rng.choice(names, size=len(names) // 2, replace=False).tolist())

    asked = [(item, order) for item in behavior.test[:items] for order in variants(item)]
    prompts = [chat.choice_prompt([{"role": "user", "content": one.question}], one.letters) for _, one in asked]
    toward = torch.tensor([1.0 if one.matching == 0 else -1.0 for _, one in asked])
    found = []
    for _ in range(nulls):
        vectors = [of(half()) for _ in range(1 + ENOUGH)]
        dose = push * residual / float(vectors[0].norm())
        scores = score(chat.model, prompts, [[], *([Edit(layer, Add(dose * one))] for one in vectors)]).logits
        odds = (toward[:, None] * (scores[..., 0] - scores[..., 1])).mean(dim=0)
        size = (odds[1:] - odds[0]).abs()
        found.append(int((size[1:] >= size[0]).sum()))
    return found


@pytest.mark.slow
def test_a_vector_of_labels_that_say_nothing_is_beyond_its_shuffled_placebos_at_the_stated_rate() -> None:
    """One of 20 by chance, also though its own dose follows from its own length and theirs do not."""
    ranks = null_ranks(ChatModel.find("tiny"), load_behavior("refusal"), layer=3, push=0.2, items=20, nulls=60)
    assert ranks.count(0) <= 8, "more than 8 of 60 come about by chance in 1 of 100 runs"
    assert ranks.count(19) <= 8 and len(set(ranks)) > 10, "and the ranks are spread evenly"
