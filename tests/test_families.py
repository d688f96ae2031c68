"""Families of transformers' own list of causal language models, each through the whole product: docs/models.md.

A family is fitted (CAA and the default LoRA), steered, asked by letter, in words and for perplexity; what the unchanged
model says is held against plain forwards. It ends in that result or in one clear line.
The slow test prints the table that docs/models.md keeps: `pytest -m slow tests/test_families.py -s -k table`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from families import MORE, OTHERS
from family_runs import Outcome, outcome
from random_models import FAMILIES, MORE_FAMILIES, choice_prompts, random_model
from small_behavior import write_behavior

from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import generate
from caa_bench.engine.score import score
from caa_bench.errors import UserError
from caa_bench.models.padding import may_pad
from caa_bench.models.weights import refuse_looking_ahead, refuse_other_positions

DOC = Path(__file__).parents[1] / "docs" / "models.md"
EVERY = sorted({*FAMILIES, *MORE_FAMILIES, *OTHERS, *MORE})
PARTS = 4
HANDFUL = ("qwen2", "mamba", "roberta")
SMALL = {"layers": 2, "hidden": 64}


def run(family: str, folder: Path) -> Outcome:
    """One family with a small behavior of its own."""
    settings = (OTHERS | MORE).get(family, {})
    return outcome(family, settings, behavior=write_behavior(folder / "small"), folder=folder)


def in_the_docs() -> dict[str, str]:
    """family -> result, as docs/models.md has it."""
    lines = re.findall(r"^\| (runs|runs without lora_sft|refused) \| (.+?) \|", DOC.read_text(), flags=re.MULTILINE)
    return {family: result for result, families in lines for family in re.findall(r"`([\w.-]+)`", families)}


@pytest.mark.parametrize("family", HANDFUL)  # every one is in the slow matrix below
def test_a_family_runs_or_is_refused_as_the_docs_say(family: str, tmp_path: Path) -> None:
    assert run(family, tmp_path).result == in_the_docs()[family]


def test_the_docs_name_every_family_that_was_tried() -> None:
    assert sorted(in_the_docs()) == EVERY


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_the_table_of_families(part: int, tmp_path: Path) -> None:
    """Every family; prints what became of it, and fails with all that differ from the docs."""
    wrong, known = [], in_the_docs()
    for family in EVERY[part::PARTS]:
        try:
            found = run(family, tmp_path / family)
        except AssertionError as error:
            wrong.append(f"{family}: {error}"[:2000])
            continue
        print(f"{found.family:20} {found.result:24} {found.said}")
        if found.result != known.get(family):
            wrong.append(f"{family}: {found.result}, and the docs say {known.get(family)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_models_with_a_state_say_under_each_condition_what_plain_forwards_say(family: str) -> None:
    """They continue no cache of keys: everything is read again, with the vector from the instruction's end on."""
    model = random_model(family, **SMALL, **OTHERS[family])
    prompts, delta = choice_prompts((9, 14)), 4 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    said = generate(model, prompts, [[], [Edit(0, Add(delta))]], max_new_tokens=4, stop_ids=())
    for prompt, (plain, steered) in zip(prompts, said, strict=True):
        for condition, found in ((0.0, plain), (1.0, steered)):
            ids = list(prompt.ids)

            def add(_module, _args, output, *, first=prompt.first_position, by=condition * delta):
                hidden = output[0] if isinstance(output, tuple) else output
                hidden[:, first:] += by
                return output

            block = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)[0]
            handle = block.register_forward_hook(add)
            with torch.no_grad():
                for _ in range(4):
                    ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            handle.remove()
            assert found.ids == tuple(ids[len(prompt.ids) :])
        assert plain.ids != steered.ids


def test_prompts_stand_beside_their_own_length_where_padding_is_read_as_words() -> None:
    """RWKV knows no mask: padded to 14, a prompt of 9 would have other logits."""
    model, prompts = random_model("rwkv", **SMALL, **OTHERS["rwkv"]), choice_prompts((9, 14, 9))
    assert not may_pad(model) and may_pad(random_model("llama", **SMALL))
    together = score(model, prompts, [[]])
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt.ids]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(together.logits[row, 0], logits[list(prompt.candidates)], atol=1e-5, rtol=0)


def test_positions_that_do_not_count_from_0_are_refused_by_name() -> None:
    """RoBERTa counts from 2: with the positions that a padded batch needs it would say something else, silently."""
    model = random_model("roberta", **SMALL, vocab=len(chatml_tokenizer()), **MORE["roberta"])
    with pytest.raises(
        UserError, match=r"'here' \(RobertaForCausalLM\) counts a prompt's positions in its own way"
    ) as e:
        refuse_other_positions("here", model)
    assert len(e.value.lines) == 1
    for family in ("llama", "gpt2", "opt"):
        refuse_other_positions("here", random_model(family, **SMALL))


def test_an_encoder_is_refused_by_name() -> None:
    """XLNet is on the list of causal models and is none: each token sees all."""
    with pytest.raises(UserError, match="lets earlier tokens see later ones"):
        refuse_looking_ahead("here", random_model("xlnet", **SMALL, **MORE["xlnet"]))
