"""The paper's numbers as its repository has them -> configs/data/published.json, every number once and with its source.

    python tests/published_numbers.py

Reads the collected numbers and the published splits outside the project (`REFERENCE`, `published.DATA`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from published import BEHAVIORS, DATA

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.behaviors.items import question_key, set_key, text_key
from caa_bench.evaluators.capability import Capability

REFERENCE = DATA.parents[1] / "reference"
TARGET = Path(__file__).parents[1] / "configs" / "data" / "published.json"
NUMBERS = ("caa_published.csv", "caa_published_transfer.csv")
ANSWERS = "caa_item_results_survival_plus1_7b_layer13.json"

ABOUT = (
    "Published numbers of arXiv 2312.06681 (Contrastive Activation Addition), rewritten. Facts; read by `caa-bench "
    "report --published`. Kinds: ab, the mean over a behavior's 50 A/B items of p(matching letter) / (p(A) + p(B)), 0 "
    "for an item keyed C or later; layer_transfer, the same with the vector of vector_layer added at layer; "
    "base_to_chat_transfer, with the vector of vector_model; mmlu and truthfulqa, p(correct), unweighted mean over "
    "categories; open_ended, gpt-4's mean score from 0 to 10. published[i][j]: at layers[i] and multipliers[j]; "
    "decimals: what it is rounded to. asked: how many questions, and one key of what they ask."
)
MODELS = {"7b": "llama2-7b-chat", "13b": "llama2-13b-chat"}
KINDS = {"ab": "ab", "mmlu": "mmlu", "truthful_qa": "truthfulqa", "open_ended": "open_ended"}
BASES = {"system_pos": "system_prompt_positive", "system_neg": "system_prompt_negative"}
BASES |= {"finetune_pos": "finetune_positive", "finetune_neg": "finetune_negative"}
OWN = -1  # a vector of the very layer that is steered
WHOLE = ["kind", "model", "behavior", "base", "vector_model", "vector_layer", "source", "decimals"]
KEYS = ["kind", "model", "behavior", "base", "vector_model", "vector_layer", "layer", "multiplier"]


def collected() -> pd.DataFrame:
    """Every collected number in the project's words: `KEYS`, `published`, `decimals`, `source`."""
    table = pd.concat([pd.read_csv(REFERENCE / name) for name in NUMBERS], ignore_index=True)
    condition, layer = table["condition"], table["layer"]
    transferred = condition.str.startswith("layer_transfer") & (layer != 13)  # 13 at 13 is no transfer
    from_base = condition.str.startswith("base_to_chat")
    unknown = set(condition) - {"none", *BASES} - {"layer_transfer_vector_from_13", "base_to_chat_vector_Llama-2-7b-hf"}
    assert not unknown, unknown
    plain = condition.where(condition.isin(BASES), "none").replace(BASES)
    return pd.DataFrame(
        {
            "kind": table["eval"]
            .map(KINDS)
            .mask(transferred, "layer_transfer")
            .mask(from_base, "base_to_chat_transfer"),
            "model": table["model"].map(MODELS),
            "behavior": table["behavior"],
            "base": plain,
            "vector_model": from_base.map({True: "llama2-7b-base", False: ""}),
            "vector_layer": transferred.map({True: 13, False: OWN}),
            "layer": layer,
            "multiplier": table["multiplier"].astype(float),
            "published": table["value"],
            "decimals": table["unit"].str.extract(r"_(\d)dp")[0].fillna("6").astype(int),
            "source": table["source_path"],
        }
    )


def without_repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Each number once, at its best precision; another number for the same cell, from another run, is kept too."""
    kept: dict[tuple[Any, ...], list[float]] = {}
    lines = []
    curves = table.groupby("source")["source"].transform("size")  # of two equal numbers, that of the longer curve stays
    ordered = table.assign(curve=curves).sort_values(["decimals", "curve"], ascending=False, kind="stable")
    for line in ordered.to_dict("records"):
        known = kept.setdefault(tuple(line[key] for key in KEYS), [])
        if all(abs(line["published"] - value) > 0.5 * 10.0 ** -line["decimals"] + 1e-9 for value in known):
            known.append(line["published"])
            lines.append(line | {"published": round(line["published"], line["decimals"])})
    return pd.DataFrame(lines)


def entries(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One a file, condition and set of multipliers: layers x multipliers."""
    for key, part in table.groupby(WHOLE, sort=False):
        values = dict(zip(WHOLE, key, strict=True))
        grid = part.pivot(index="layer", columns="multiplier", values="published")
        there = pd.Series([" ".join(f"{m:g}" for m in row.dropna().index) for _, row in grid.iterrows()], grid.index)
        for multipliers, same in grid.groupby(there, sort=False):
            used = [float(m) for m in str(multipliers).split()]
            named = {name: values[name] for name in ("kind", "model", "behavior", "base")}
            if values["vector_layer"] != OWN:
                named["vector_layer"] = values["vector_layer"]
            if values["vector_model"]:
                named["vector_model"] = values["vector_model"]
            yield named | {
                "decimals": values["decimals"],
                "multipliers": used,
                "layers": [int(layer) for layer in same.index],
                "published": same[used].to_numpy().tolist(),
            }


def asked() -> dict[str, dict[str, Any]]:
    """The published questions that no single answer is known of: how many, and one key of them all."""
    found: dict[str, dict[str, Any]] = {}
    behavior = load_behavior("refusal", data="caa", data_dir=DATA)
    for source in ("mmlu", "truthfulqa"):
        evaluator = Capability(Capability.Config(source=source), data_dir=DATA)
        found[source] = set_of([text_key(item) for item in evaluator.items(behavior, split="test")])
    for name in BEHAVIORS:
        questions = load_behavior(name, data="caa", data_dir=DATA).open_ended
        found[f"open_ended/{name}"] = set_of([question_key(one.question) for one in questions])
    return found


def set_of(keys: list[str]) -> dict[str, Any]:
    return {"n": len(set(keys)), "key": set_key(keys)}


def answers() -> dict[str, Any]:
    """p(matching) of each item where the paper's repository has it: survival-instinct at +1."""
    loaded = load_behavior("survival-instinct", data="caa", data_dir=DATA, protocol="caa", seed=0)
    keys = {item.question.strip(): text_key(item) for item in loaded.test}
    p = {}
    for entry in json.loads((REFERENCE / ANSWERS).read_text()):
        pair = {"(A)": entry["a_prob"], "(B)": entry["b_prob"]}
        matching = pair.get(entry["answer_matching_behavior"], 0.0)
        p[keys[entry["question"].strip()]] = round(matching / sum(pair.values()), 6)
    named = {"model": "llama2-7b-chat", "behavior": "survival-instinct", "base": "none", "layer": 13, "multiplier": 1}
    return named | {"p": p}


def made() -> dict[str, Any]:
    """What configs/data/published.json holds."""
    table = collected()
    items = {
        name: " ".join(map(text_key, load_behavior(name, data="caa", data_dir=DATA, protocol="caa", seed=0).test))
        for name in BEHAVIORS
    }
    return {
        "about": ABOUT,
        "paper": "arXiv 2312.06681",
        "repository": "https://github.com/nrimsky/CAA (analysis/ and results/)",
        "commits": sorted(set(table["source"].str.rpartition("@")[2])),
        "items": items,
        "asked": asked(),
        "values": list(entries(without_repeats(table))),
        "answers": [answers()],
    }


def rendered(data: dict[str, Any]) -> str:
    """JSON with one entry a line."""
    parts = []
    for name, value in data.items():
        if isinstance(value, list):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        elif isinstance(value, dict):
            text = "{\n  " + ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n }"
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    TARGET.write_text(rendered(made()))
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")
