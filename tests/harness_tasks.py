"""Task files of lm-evaluation-harness with local data: choices, answers in words, whole texts, and wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Norway": "Oslo"}
CAPITALS |= {"Greece": "Athens", "Russia": "Moscow", "Austria": "Vienna", "Cuba": "Havana", "Peru": "Lima"}
CAPITALS |= {"Kenya": "Nairobi"}
YOUNG = {"dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "bear": "cub"}
YOUNG |= {"duck": "duckling", "deer": "fawn", "pig": "piglet", "frog": "tadpole"}


def documents() -> list[dict[str, Any]]:
    """22 questions with two choices each, and the fact as a sentence."""
    made = []
    for asked, said, table in (
        ("What is the capital of {}?", "The capital of {} is {}.", CAPITALS),
        ("What do you call a young {}?", "A young {} is called a {}.", YOUNG),
    ):
        answers = list(table.values())
        for n, (subject, answer) in enumerate(table.items()):
            pair = [answer, answers[(n + 1) % len(answers)]][:: 1 if n % 2 else -1]
            own = {"question": asked.format(subject), "choices": pair, "gold": pair.index(answer), "answer": answer}
            made.append(own | {"text": said.format(subject, answer)})
    return made


COMMON: dict[str, Any] = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{question}}"}
TASKS: dict[str, dict[str, Any]] = {
    "facts_choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "facts_shots": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "num_fewshot": 2,
        "description": "Answer each question.\n\n",
        "metric_list": [{"metric": "acc"}, {"metric": "exact_match"}],
    },
    "facts_words": {
        "output_type": "generate_until",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n", "\n\n"], "max_gen_toks": 12, "do_sample": False},
        "filter_list": [
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {
                "name": "last",
                "filter": [
                    {"function": "regex", "regex_pattern": r"([A-Za-z]+)\W*$", "fallback": "?"},
                    {"function": "take_first"},
                ],
            },
        ],
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
    },
    "facts_said": {
        "output_type": "loglikelihood",
        "doc_to_target": " {{text}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "facts_read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}
WRONG: dict[str, dict[str, Any]] = {
    "facts_code": TASKS["facts_words"] | {"unsafe_code": True},
    "facts_f1": TASKS["facts_choice"] | {"metric_list": [{"metric": "f1"}]},
    "facts_drawn": TASKS["facts_words"] | {"generation_kwargs": {"do_sample": True, "top_p": 0.9, "until": ["\n"]}},
    "facts_lost": TASKS["facts_choice"] | {"dataset_kwargs": {"data_files": {"test": "/nowhere/lost.json"}}},
}


def write_tasks(folder: Path) -> Path:
    """Write the data and every task's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.json").write_text(json.dumps(documents()))
    own = {"dataset_kwargs": {"data_files": {"test": str(folder / "facts.json")}}}
    for name, task in (TASKS | WRONG).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | COMMON | own | task))
    return folder
