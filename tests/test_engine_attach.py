"""Attached arms act on the right tokens whatever the engine does with the rows: sorts, groups, pads, drops, decodes.

The defect that this holds off: position-bound hooks took the rows of a forward for the caller's prompts in order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.engine.capture import letter_activations
from caa_bench.engine.changes import Project
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import generate
from caa_bench.engine.likelihood import forced
from caa_bench.engine.positions import batch_of, tracked
from caa_bench.engine.score import score
from caa_bench.engine.steer import hidden_of, steered
from caa_bench.evaluators import Job
from caa_bench.evaluators.base import Treatment
from caa_bench.evaluators.passages import Passage
from caa_bench.evaluators.perplexity import Perplexity
from caa_bench.interventions import CAA, Condition, FullSFT, Intervention, LoraSFT, Stack, SystemPrompt, Unchanged
from caa_bench.interventions.soft_prompt import LEARNED, SoftPrompt
from caa_bench.models.prompts import ChoicePrompt, choice_prompt

DOSE = Condition(layer=1, multiplier=6.0)
STOPS = tuple(range(2, 300, 5))
QUESTIONS = [
    "Sit?",
    "Will you paint the gate?",
    "Please open 3 boats and 14 lamps before the evening comes.",
    "Why not?",
    "Carry the drum, the kite and the sled to the tent that stands on the far shore of the long river.",
    "Sell it today.",
    "Do you want to mend the vase or to leave it as it is?",
    "A boat, a lamp, a kite.",
]


class ByHooks(Intervention):
    """Another intervention's edits, through `attach` alone."""

    def __init__(self, inner: Intervention) -> None:
        super().__init__()
        self.inner = inner

    def rewrite(self, messages: Sequence[Any]) -> list[Any]:
        """The other's."""
        return self.inner.rewrite(messages)

    def edits(self, condition: Condition) -> list[Edit] | None:
        """None: what an intervention says that has no edits."""
        return None

    def attach(self, model: Any, condition: Condition) -> Any:
        """The other's."""
        return self.inner.attach(model, condition)


class Ablation(Intervention):
    """A method's own hook: takes one direction out of a block's output from the end of the instruction on."""

    def __init__(self, direction: torch.Tensor) -> None:
        super().__init__()
        self.unit = direction / direction.norm()

    def edits(self, condition: Condition) -> list[Edit] | None:
        """None."""
        return None

    @contextmanager
    def attach(self, model: Any, condition: Condition) -> Iterator[None]:
        """Reads the positions at the moment that it is called."""
        with tracked(model) as positions:

            def hook(_module: Any, _args: Any, output: Any) -> Any:
                hidden = hidden_of(output)
                where = positions.of("instruction_end", hidden)
                return hidden - where * (hidden @ self.unit)[..., None] * self.unit

            handle = model.model.layers[1].register_forward_hook(hook)
            try:
                yield
            finally:
                handle.remove()


@dataclass(frozen=True)
class Chat:
    """What evaluators ask of a loaded model."""

    model: Any
    tokenizer: Any
    context: int | None = None
    stop_ids: tuple[int, ...] = STOPS


@dataclass
class World:
    """A small model and every arm, fitted once."""

    folder: Any

    @cached_property
    def chat(self) -> Chat:
        tokenizer = chatml_tokenizer()
        return Chat(random_model("llama", layers=3, hidden=32, vocab=len(tokenizer)), tokenizer)

    @cached_property
    def arms(self) -> dict[str, Intervention]:
        pairs = load_behavior(write_behavior(self.folder / "small")).pairs()
        caa, lora = CAA(), LoraSFT(LoraSFT.Config(learning_rate=3e-2, max_pairs=8), variant="positive")
        full = FullSFT(FullSFT.Config(learning_rate=3e-3, max_pairs=8), variant="positive")
        for arm in (caa, lora, full):
            arm.fit(self.chat.model, self.chat.tokenizer, pairs)
        ablation = Ablation(caa.vectors[1])
        system = SystemPrompt(variant="positive", text="You turn down every request.")
        by_hooks = ByHooks(caa)
        soft, other = SoftPrompt(tokens=5), SoftPrompt(tokens=2, variant="negative")
        for arm in (soft, other):
            shape = (arm.config.tokens, 32)
            arm.adapter = {LEARNED: 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))}
        return {
            "caa": caa,
            "caa by hooks": by_hooks,
            "ablation": ablation,
            "lora": lora,
            "full sft": full,
            "system prompt": system,
            "system prompt + caa by hooks": Stack(system, by_hooks),
            "lora + caa by hooks + ablation": Stack(lora, by_hooks, ablation),
            "ablation + caa": Stack(ablation, caa),
            "soft prompt": soft,
            "soft prompt + system prompt + lora + caa by hooks": Stack(soft, system, lora, by_hooks),
            "soft prompt + another": Stack(soft, other),
        }

    def prompts(self, arm: Intervention) -> list[ChoicePrompt]:
        """Of 8 lengths, with 1 to 3 tokens from the first steered one on, in an order that no length explains."""
        prompts = [
            choice_prompt(self.chat.tokenizer, arm.rewrite([{"role": "user", "content": question}]), "AB")
            for question in QUESTIONS
        ]
        assert len({len(prompt.ids) for prompt in prompts}) == 8
        return [replace(prompt, first_position=len(prompt.ids) - 1 - n % 3) for n, prompt in enumerate(prompts)]


ARMS = [
    "caa", "caa by hooks", "ablation", "lora", "full sft", "system prompt", "system prompt + caa by hooks",
    "lora + caa by hooks + ablation", "ablation + caa", "soft prompt",
    "soft prompt + system prompt + lora + caa by hooks", "soft prompt + another",
]  # fmt: skip
ORDERS = [random.Random(seed).sample(range(8), 8) for seed in range(3)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("attach"))


@pytest.fixture(params=ARMS)
def arm(request: pytest.FixtureRequest, world: World) -> Intervention:
    assert list(world.arms) == ARMS
    return world.arms[request.param]


def log_odds(model: Any, prompts: Sequence[ChoicePrompt], edits: Sequence[Edit] = (), **options: Any) -> torch.Tensor:
    return score(model, prompts, [list(edits)], **options).logits[:, 0].diff()[:, 0]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_scoring_equals_one_prompt_at_a_time(arm, world, order):
    """Log-odds of shuffled batches of 8: by a plain forward a prompt, and by the engine alone, in both of its ways."""
    model, prompts = world.chat.model, world.prompts(arm)
    batch = [prompts[n] for n in order]
    with arm.attach(model, DOSE):
        found = log_odds(model, batch)
        recomputed = log_odds(model, batch, share_prefix=False)
        alone = torch.cat([log_odds(model, [prompt]) for prompt in batch])
        plain = torch.zeros(8)
        for n, prompt in enumerate(batch):
            with batch_of([prompt]), torch.no_grad():
                said = model(torch.tensor([prompt.ids])).logits[0, -1, list(prompt.candidates)]
            plain[n] = said[1] - said[0]
    for one in (recomputed, alone, plain):
        torch.testing.assert_close(found, one, atol=1e-5, rtol=0)
    assert (found - log_odds(model, world_prompts_plain(world, order))).abs().max() > 0.01


def world_prompts_plain(world: World, order: Sequence[int]) -> list[ChoicePrompt]:
    prompts = world.prompts(Unchanged())
    return [prompts[n] for n in order]


@pytest.mark.parametrize("name", ["caa", "caa by hooks"])
def test_the_vector_through_attach_is_the_vector_as_rows(name, world):
    """What was wrong by its whole effect, on six shuffled batches: both against rows on a shared prefix."""
    model, arm = world.chat.model, world.arms[name]
    edits, prompts = world.arms["caa"].edits(DOSE), world.prompts(arm)
    for seed in range(6):
        batch = random.Random(seed).sample(prompts, 8)
        with arm.attach(model, DOSE):
            found = log_odds(model, batch)
            said = generate(model, batch, [[]], max_new_tokens=6, stop_ids=STOPS)
        torch.testing.assert_close(found, log_odds(model, batch, edits), atol=1e-5, rtol=0)
        assert said == generate(model, batch, [edits], max_new_tokens=6, stop_ids=STOPS)
        assert (found - log_odds(model, batch)).abs().max() > 0.1


def test_generation_equals_one_prompt_at_a_time(arm, world):
    """Same tokens and ends, though rows of a batch end at different times; log-probabilities within 1e-5."""
    model, prompts = world.chat.model, world.prompts(arm)
    for order in ORDERS:
        batch = [prompts[n] for n in order]
        with arm.attach(model, DOSE):
            found = [row[0] for row in generate(model, batch, [[]], max_new_tokens=10, stop_ids=STOPS)]
            slow = generate(model, batch, [[]], max_new_tokens=10, stop_ids=STOPS, share_prefix=False)
            alone = [generate(model, [prompt], [[]], max_new_tokens=10, stop_ids=STOPS)[0][0] for prompt in batch]
        assert found == alone == [row[0] for row in slow]
        for one, other in zip(found, alone, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
    assert len({len(row.ids) for row in found}) > 1


def test_forced_decoding_equals_one_prompt_at_a_time_and_what_was_decoded(arm, world):
    """Answers of different lengths, teacher-forced; the log-probabilities that decoding gave each token."""
    model, prompts = world.chat.model, world.prompts(arm)
    for order in ORDERS:
        batch = [prompts[n] for n in order]
        with arm.attach(model, DOSE):
            said = [row[0] for row in generate(model, batch, [[]], max_new_tokens=7, stop_ids=STOPS)]
            answers = [row.ids for row in said]
            found = forced(model, batch, answers)
            alone = [forced(model, [prompt], [answer])[0] for prompt, answer in zip(batch, answers, strict=True)]
        for one, other, row in zip(found, alone, said, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
            assert one.log_probs == pytest.approx(row.log_probs, abs=1e-5)


def test_perplexity_equals_one_passage_at_a_time(arm, world):
    """As base and on top of nothing: eight passages of different lengths in one batch."""
    items = [Passage(id=f"passages/{n:04d}", question=text, cluster=f"c{n}") for n, text in enumerate(QUESTIONS)]

    def values(chosen: Sequence[Passage], **changes: Any) -> list[float]:
        job = Job(chat=world.chat, items=chosen, base=Unchanged(), dose=Condition(), treatments=[])
        return [row["value"] for row in Perplexity().evaluate(replace(job, **changes))]

    below = {"base": arm, "dose": DOSE, "treatments": [Treatment(cell="alone")]}
    for order in ORDERS:
        batch = [items[n] for n in order]
        found = values(batch, **below)
        assert found == pytest.approx([values([item], **below)[0] for item in batch], abs=1e-5)
        if arm.rewrite([]) == []:  # a prompt is no treatment
            on_top = {"treatments": [Treatment(cell="x", intervention=arm, condition=DOSE)]}
            assert values(batch, **on_top) == pytest.approx(found, abs=1e-4)


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed (pip install caa-bench[lm-eval])")
def test_lm_eval_equals_one_request_at_a_time(arm, world):
    """Choices and answers in words, as chat turns and as raw text."""
    from lm_eval.api.instance import Instance

    from caa_bench.evaluators.lm_eval.steered_model import SteeredLM

    def ask(kind: str, *args: Any) -> Instance:
        return Instance(request_type=kind, doc={}, arguments=args, idx=0)

    choices = [ask("loglikelihood", question, " " + "Yes, I will. "[: 3 + n]) for n, question in enumerate(QUESTIONS)]
    words = [ask("generate_until", question, {"until": [], "max_gen_toks": 6}) for question in QUESTIONS]
    for templated in (True, False):
        lm = SteeredLM(world.chat, base=arm, chat_template=templated)
        for order in ORDERS:
            with arm.attach(world.chat.model, DOSE):
                found = lm.loglikelihood([choices[n] for n in order])
                said = lm.generate_until([words[n] for n in order])
                alone = [lm.loglikelihood([choices[n]])[0] for n in order]
                assert said == [lm.generate_until([words[n]])[0] for n in order]
            assert [value for value, _ in found] == pytest.approx([value for value, _ in alone], abs=1e-5)


def test_activations_read_under_an_arm_are_those_of_one_prompt_at_a_time(arm, world):
    """What a vector that is refitted on top of an arm is made from."""
    model, prompts = world.chat.model, world.prompts(arm)
    with arm.attach(model, DOSE):
        found = letter_activations(model, prompts)
        for n, prompt in enumerate(prompts):
            torch.testing.assert_close(letter_activations(model, [prompt])[0], found[n], atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(
                letter_activations(model, [prompt], share_prefix=False)[0], found[n], atol=2e-5, rtol=1e-5
            )


def left_or_right(prompts: Sequence[ChoicePrompt], side: str) -> dict[str, torch.Tensor]:
    width = max(len(prompt.ids) for prompt in prompts)
    ids, mask = torch.zeros(2, len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        where = slice(width - len(prompt.ids), None) if side == "left" else slice(len(prompt.ids))
        ids[row, where], mask[row, where] = torch.tensor(prompt.ids), 1
    return {"input_ids": ids, "attention_mask": mask}


def from_the_end(world: World) -> list[ChoicePrompt]:
    return [replace(prompt, first_position=len(prompt.ids) - 1) for prompt in world.prompts(Unchanged())]


def test_plain_transformers_calls_begin_at_each_prompt_s_last_token(world):
    """`model.generate` and forwards of padded batches, without the engine and without a word on positions."""
    model, caa, prompts = world.chat.model, world.arms["caa"], from_the_end(world)
    expected = generate(model, prompts, [caa.edits(DOSE)], max_new_tokens=9, stop_ids=())
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    inputs = left_or_right(prompts, "left")
    with caa.attach(model, DOSE):
        out = model.generate(**inputs, **options)
        beams = model.generate(**inputs, **options, num_beams=2, num_return_sequences=2)
        for prompt, row in zip(prompts, expected, strict=True):
            alone = model.generate(**left_or_right([prompt], "left"), **options)
            assert alone[0, len(prompt.ids) :].tolist() == list(row[0].ids)
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == [list(row[0].ids) for row in expected]
    with caa.attach(model, DOSE), batch_of(prompts):
        assert torch.equal(beams, model.generate(**inputs, **options, num_beams=2, num_return_sequences=2))
    odds = log_odds(model, prompts, caa.edits(DOSE))
    for side in ("left", "right"):
        inputs = left_or_right(prompts, side)
        with caa.attach(model, DOSE), torch.no_grad():
            logits = model(**inputs, position_ids=(inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)).logits
        last = torch.tensor([-1 if side == "left" else len(prompt.ids) - 1 for prompt in prompts])
        found = torch.stack([logits[n, last[n], list(prompt.candidates)].diff()[0] for n, prompt in enumerate(prompts)])
        torch.testing.assert_close(found, odds, atol=2e-5, rtol=0)


def test_what_cannot_be_known_is_refused(world):
    """A cache that was filled outside, cut into its prompt, or reordered; a mask that hides its padding; only padding.

    Each would be edited at the wrong tokens, silently.
    """
    model, caa, prompts = world.chat.model, world.arms["caa"], from_the_end(world)
    inputs = left_or_right(prompts, "left")
    width = inputs["input_ids"].shape[1]
    one = {
        "input_ids": torch.full((8, 1), 7),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(8, 1, dtype=torch.long)], dim=1),
    }
    outside = model(**inputs, use_cache=True).past_key_values
    with caa.attach(model, DOSE), torch.no_grad():
        with pytest.raises(
            ValueError, match=rf"the cache holds {width} tokens, and where their prompts end is not known"
        ):
            model(**one, past_key_values=outside, use_cache=True)
        with batch_of(prompts):
            model(**one, past_key_values=outside, use_cache=True)  # told by hand, it runs
        inside = model(**inputs, use_cache=True).past_key_values
        model(**one, past_key_values=inside, use_cache=True)
        inside.crop(-1)
        swapped = one["attention_mask"][[1, 0, *range(2, 8)]]
        with pytest.raises(ValueError, match="the 8 rows are not the 8 that the cache began with, in their order"):
            model(input_ids=one["input_ids"], attention_mask=swapped, past_key_values=inside, use_cache=True)
        inside.crop(4 - width)
        with pytest.raises(ValueError, match="the cache holds 4 tokens"):
            model(one["input_ids"], past_key_values=inside, use_cache=True)
        inside = model(**inputs, use_cache=True).past_key_values
        inside.batch_select_indices(torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="the 2 rows are not the 8"):
            model(one["input_ids"][:2], past_key_values=inside, use_cache=True)
        with pytest.raises(ValueError, match=r"a mask of \[rows, tokens\]"):
            model(one["input_ids"], attention_mask=torch.ones(8, 1, 1, 1, dtype=torch.bool))
        with pytest.raises(ValueError, match="nothing but padding"):
            model(inputs["input_ids"], attention_mask=inputs["attention_mask"] * (torch.arange(8) > 2)[:, None])
    with pytest.raises(ValueError, match="no prompts given"), batch_of([]):
        pass


def test_nested_blocks_act_from_the_outside_in(world):
    """Changes that do not commute: attached twice, attached below edits, and as one list of edits, all one order."""
    model, prompts = world.chat.model, world.prompts(Unchanged())
    vector = world.arms["caa"].vectors[1]
    add, project = world.arms["caa"].edits(DOSE), [Edit(1, Project(vector + vector.roll(1)))]
    first, other = log_odds(model, prompts, [*add, *project]), log_odds(model, prompts, [*project, *add])
    assert (first - other).abs().max() > 0.1
    for outer, inner, expected in ((add, project, first), (project, add, other)):
        with steered(model, outer):
            for share in (True, False):
                found = log_odds(model, prompts, inner, share_prefix=share)
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            with steered(model, inner):
                torch.testing.assert_close(log_odds(model, prompts), expected, atol=1e-5, rtol=0)
    own = Ablation(vector + vector.roll(1))
    with own.attach(model, DOSE):
        for share in (True, False):
            torch.testing.assert_close(log_odds(model, prompts, add, share_prefix=share), other, atol=1e-5, rtol=0)
