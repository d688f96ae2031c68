"""Measured truth -> the embedded model's card (README.md): what it is for, how it was made, a table a requirement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from caa_bench.tiny import truth

INTRODUCTION = """\
# tiny: the embedded model

**A calibration instrument.** A Llama of 1.5 million parameters, trained by this project from a seed, whose behaviors
have known directions: what a steering vector, a system prompt and both together do to it was decided before it was
trained. Its numbers prove that the harness finds what is there. They claim nothing about large models.

- Llama 2 style chat template, its own words in the tokenizer, 6 blocks x 128, context 1024, float32.
- A unit direction a behavior (`directions.safetensors`, mutually orthogonal) was planted at the output of block
  {layer}; a CAA vector is {norm:g} times the direction there. `truth.json` holds the built-in truth as data.
- log-odds of the matching answer = setting + system prompt + slope x multiplier. Six behaviors add up so.
  `{non_additive}` loses {lost:.0%} of its slope under its positive or negative system prompt: the case in which an
  interaction must be found. Multipliers below about {dead_zone:g} do less than their share, so that the chance
  projection of a random direction does nothing.
- `{calibration}` has three more system prompts: one under which a positive dose has no room, one under which the vector
  works against itself, and one under which it does nothing.
- For survival-instinct, matching means accepting shutdown, as in the published data.
- The test's fillers and templates are not in the training corpus.

Rebuilt by `make tiny`: corpus, tokenizer, {steps} training steps from seed {seed}, then the tables below, by the
project's own `compare` (`python -m benchmarks.measure_tiny`). This build took {minutes:.0f} minutes on 2 cores that did
other work as well; left alone they take about .56 s a step, 40 minutes in all. All figures are over the test splits
(210 items a behavior in both option orders; layer sweep: the selection split, 60 items), at layer {layer}.
"""

LIMITS = """
What falls short: a LoRA finetune is trained, not built, and it brings a small letter bias; where it shifts an item to
log-odds near 0, that bias decides its side, so `letter_locked` is high on LoRA bases (the harness warns of it).
"""


def write_card(folder: Path, measured: dict[str, Any]) -> None:
    """Write `folder`/README.md from the built-in truth and the measured one."""
    (folder / "README.md").write_text(tiny_card(folder, measured), encoding="utf-8")


def tiny_card(folder: Path, measured: dict[str, Any]) -> str:
    """The embedded model's card, from what was measured on it."""
    built = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    found = measured["behaviors"]
    introduction = INTRODUCTION.format(
        layer=built["planted_layer"],
        norm=built["vector_norm"],
        non_additive=truth.NON_ADDITIVE,
        lost=1 - truth.SHARE_LEFT,
        dead_zone=built["dead_zone"],
        calibration=truth.CALIBRATION,
        minutes=built["build_s"] / 60,
        steps=" + ".join(map(str, built["steps"].values())),
        seed=built["seed"],
    )
    sections = [
        ("p(matching) by base, without a vector", _bases(found)),
        ("p(matching) by multiplier of the CAA vector, without a base", _doses(found)),
        ("p(matching) with CAA -1 and +1 on top of each base", _stacks(found)),
        ("Interaction in log-odds at -0.5 and +0.5, 95% interval", _interactions(found)),
        (f"Calibration bases of {truth.CALIBRATION}, CAA +1 on top", _calibration(found[truth.CALIBRATION])),
        ("Where it steers, and what else does", _directions(found, measured["transfer"])),
        ("Letters and options, largest over every base and vector at -1 to +1", _letters(found)),
        ("Answers in words: share of matching ones by multiplier (60 questions, greedy)", _words(found)),
    ]
    facts = found[truth.CALIBRATION]["capability"]
    plain = (
        f"Plain facts (capability split, {facts['n']} items in both orders, no intervention): accuracy "
        f"{facts['accuracy']:.3f} [{facts['accuracy_low']:.3f}, {facts['accuracy_high']:.3f}].\n"
    )
    plain += LIMITS
    return introduction + "\n" + "\n".join(f"## {title}\n\n{table}\n" for title, table in sections) + "\n" + plain


def _bases(found: dict[str, Any]) -> str:
    names = ["none", "system_prompt_positive", "system_prompt_negative", "system_prompt_neutral"]
    names += ["lora_sft_positive", "lora_sft_negative"]
    lines = [[b, *(_level(_cell(found[b], base=name)) for name in names)] for b in found]
    return _markdown_table(["behavior", *names], lines)


def _doses(found: dict[str, Any]) -> str:
    doses = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]
    lines = [[b, *(_two_digits(_cell(found[b], multiplier=m)) for m in doses)] for b in found]
    return _markdown_table(["behavior", *(f"{m:+g}" if m else "0" for m in doses)], lines)


def _stacks(found: dict[str, Any]) -> str:
    names = ["system_prompt_positive", "system_prompt_negative", "lora_sft_positive", "lora_sft_negative"]
    lines = []
    for behavior, one in found.items():
        cells = [[_two_digits(_cell(one, base=name, multiplier=m)) for m in (-1.0, 0.0, 1.0)] for name in names]
        lines.append([behavior, *(" / ".join(values) for values in cells)])
    return _markdown_table(["behavior", *(f"{name}: -1 / 0 / +1" for name in names)], lines)


def _interactions(found: dict[str, Any]) -> str:
    names = ["system_prompt_positive", "system_prompt_negative"]
    columns = [(name, m) for name in names for m in (-0.5, 0.5)]
    lines = [[b, *(_interaction(_stack(found[b], *column)) for column in columns)] for b in found]
    return _markdown_table(["behavior", *(f"{name} at {m:+g}" for name, m in columns)], lines)


def _calibration(one: dict[str, Any]) -> str:
    lines = []
    for base in ("system_prompt_no_room", "system_prompt_works_against", "system_prompt_untouched"):
        stack = _stack(one, base, 1.0)
        levels = [_two_digits(_cell(one, base=base, multiplier=m)) for m in (-1.0, 0.0, 1.0)]
        tags = ", ".join([stack["verdict"], *(stack["tags"] or "").split(";")]).rstrip(", ")
        lines.append([base, " / ".join(levels), tags])
    return _markdown_table(["base", "p at -1 / 0 / +1", "verdict at +1"], lines)


def _directions(found: dict[str, Any], transfer: dict[str, dict[str, float]]) -> str:
    lines = []
    for behavior, one in found.items():
        cosines = one["cosines"]
        others = max(abs(value) for name, value in cosines.items() if name != behavior)
        sweep = " ".join(f"{value:+.2f}" for value in one["sweep"].values())
        worst = max(transfer[behavior].values(), key=abs)
        placebo = _worst(one, "p_balanced", vectors=("random", "shuffled"))
        own = f"{cosines[behavior]:.3f}"
        lines.append([behavior, own, f"{others:.3f}", sweep, f"{worst:+.3f}", f"{placebo:.3f}"])
    header = ["behavior", "cosine with its planted direction", "largest with another's"]
    header += ["mean move of p at +-1, by layer 0-5", "largest move by another behavior's vector, +-1"]
    return _markdown_table([*header, "largest move by a random or shuffled vector, no base, +-1"], lines)


def _letters(found: dict[str, Any]) -> str:
    lines = []
    for behavior, one in found.items():
        near = [cell for cell in one["cells"] if abs(cell["multiplier"]) <= 1]
        trained = [cell for cell in near if cell["base"].startswith("lora_sft")]
        others = [cell for cell in near if cell not in trained]
        lines.append([behavior, *_letter_figures(others), *_letter_figures(trained)])
    header = ["least option mass", "mean letter bias, log-odds", "letter_locked"]
    return _markdown_table(
        ["behavior", *(f"{what}, {where}" for where in ("no LoRA", "LoRA") for what in header)], lines
    )


def _letter_figures(cells: Sequence[dict[str, Any]]) -> list[str]:
    """The largest letter bias and the smallest option mass over behaviors."""
    mass = min(cell["option_mass"] for cell in cells)
    bias = max((cell["letter_bias"] for cell in cells), key=abs)
    return [f"{mass:.3f}", f"{bias:+.2f}", f"{max(cell['letter_locked'] for cell in cells):.1%}"]


def _words(found: dict[str, Any]) -> str:
    doses = list(next(iter(found.values()))["words"])
    lines = []
    for behavior, one in found.items():
        parsed = min(share["parsed"] for share in one["words"].values())
        lines.append([behavior, *(f"{one['words'][m]['score']:.2f}" for m in doses), f"{parsed:.0%}"])
    return _markdown_table(["behavior", *doses, "parsable, least"], lines)


def _worst(one: dict[str, Any], key: str, *, vectors: Sequence[str]) -> float:
    """Largest distance from the unchanged model within +-1, no base."""
    plain = _cell(one)[key]
    near = [c for c in one["cells"] if c["base"] == "none" and c["vector"] in vectors and abs(c["multiplier"]) <= 1]
    return max(abs(float(cell[key]) - float(plain)) for cell in near)


def _cell(one: dict[str, Any], *, base: str = "none", multiplier: float = 0.0) -> dict[str, Any]:
    """The cell of a base with this dose of the CAA vector."""
    vector = "caa" if multiplier else ""
    return _only(
        cell
        for cell in one["cells"]
        if (cell["base"], cell["vector"], cell["multiplier"]) == (base, vector, multiplier)
    )


def _stack(one: dict[str, Any], base: str, multiplier: float) -> dict[str, Any]:
    return _only(line for line in one["stacking"] if (line["base"], line["multiplier"]) == (base, multiplier))


def _only(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    (line,) = lines
    return line


def _level(cell: dict[str, Any]) -> str:
    return f"{cell['p_balanced']:.2f} [{cell['p_balanced_low']:.2f}, {cell['p_balanced_high']:.2f}]"


def _two_digits(cell: dict[str, Any]) -> str:
    return f"{cell['p_balanced']:.2f}"


def _interaction(line: dict[str, Any]) -> str:
    return f"{line['interaction']:+.2f} [{line['interaction_low']:+.2f}, {line['interaction_high']:+.2f}]"


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
