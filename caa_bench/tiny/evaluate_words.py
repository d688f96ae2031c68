"""A quick look at a trained model's answers in words, and at its plain facts.

    python -m caa_bench.tiny.evaluate_words [--model FOLDER] [--behavior NAME]

For each behavior: the share of matching answers among the parsable ones, and the share that parses, by multiplier.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from caa_bench.tiny.chat import EOS, prompt_text
from caa_bench.tiny.evaluate import MODEL, Bench, load
from caa_bench.tiny.facts import CATEGORIES
from caa_bench.tiny.grammar import answer_side
from caa_bench.tiny.truth import PLANTED_LAYER
from caa_bench.tiny.words import BEHAVIORS

CAPABILITY = Path(__file__).parent / "capability.json"
DOSES = (-1.0, -0.5, 0.0, 0.5, 1.0)


@contextmanager
def steered(bench: Bench, vector: Tensor) -> Iterator[None]:
    """Add `vector` to the planted layer's output at the last token of every forward pass."""

    def add(_module: object, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, -1] += vector
        return output

    handle = bench.model.model.layers[PLANTED_LAYER].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def answers(bench: Bench, questions: list[str], vector: Tensor) -> list[str]:
    """Greedy answers with `vector` from the last token of the instruction on."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.model.config._name_or_path, padding_side="left")
    inputs = tokenizer(
        [prompt_text(question) for question in questions],
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
        return_token_type_ids=False,
    )
    with steered(bench, vector):
        output = bench.model.generate(**inputs, max_new_tokens=48, do_sample=False)
    texts = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :])
    return [text.split(EOS)[0].strip() for text in texts]


def look(bench: Bench, behavior: str) -> None:
    """Print the shares of one behavior, an answer, and answers that did not parse."""
    vector = bench.differences(load(behavior, "train")).mean(0)[PLANTED_LAYER]
    questions = [item["question"] for item in load(behavior, "open_ended")]
    for dose in DOSES:
        texts = answers(bench, questions, dose * vector)
        sides = [answer_side(behavior, q, text) for q, text in zip(questions, texts, strict=True)]
        parsed = [side for side in sides if side]
        share = sum(side == "matching" for side in parsed) / max(1, len(parsed))
        odd = [text for side, text in zip(sides, texts, strict=True) if side is None][:2]
        print(f"{behavior} {dose:+g}: matching {share:.2f}, parsed {len(parsed) / len(texts):.2f}", texts[0], odd)


def look_at_facts(bench: Bench) -> None:
    """Print the accuracy on the capability split, in all and by category."""
    facts = json.loads(CAPABILITY.read_text(encoding="utf-8"))
    items = [{"question": f["prompt"], "answer_matching_behavior": f["correct"]} for f in facts]
    right = bench.score(items, [])[0].log_odds.mean(1) > 0
    shares = {c: right[[f["category"] == c for f in facts]].float().mean().item() for c in CATEGORIES}
    print(f"facts {right.float().mean().item():.3f}", {c: round(share, 2) for c, share in shares.items()})


def main() -> None:
    """Print shares by behavior and multiplier, and the accuracy on plain facts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--behavior", choices=BEHAVIORS, action="append")
    arguments = parser.parse_args()
    bench = Bench(arguments.model)
    look_at_facts(bench)
    for behavior in arguments.behavior or BEHAVIORS:
        look(bench, behavior)


if __name__ == "__main__":
    main()
