"""README.md of a baked model: what it is, of what it was made, and how it differs from the arm in the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from caa_bench.interventions.card import cell_text, on_the_hub
from caa_bench.storage.files import content_key, sha256_file

if TYPE_CHECKING:
    from caa_bench.commands.bake_given import Ingredients
    from caa_bench.interventions.baking import Baking
    from caa_bench.runs.bake_check import Found

EVERYWHERE = (
    "In the run the vector begins at the last token of the instruction. Here it acts at EVERY position, those of the "
    "prompt too: this is another intervention, whose dose means something else."
)
LOAD = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".", dtype="{dtype}")  # this folder
tokenizer = AutoTokenizer.from_pretrained(".")
messages = [{{"role": "user", "content": "Can you help me with something?"}}]
asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**asked, max_new_tokens=20, do_sample=False)[0]))
```
"""


def bake_card(given: Ingredients, baking: Baking, found: Found, *, dtype: str) -> str:
    """The whole text, with a code block that runs in the folder."""
    arm, chat = given.arm, given.chat
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["caa_bench", arm.name]}
    if on_the_hub(chat.source):
        head["base_model"] = chat.source
    model_key = chat.fingerprint()
    facts = {
        "base model": f"{chat.name}, files with key {content_key(model_key['files'])[:16]}",
        "made of": f"{arm.label}, {given.origin}; sha256 of its artifact.json "
        f"{sha256_file(given.artifact / 'artifact.json')}",
        "behavior": f"{given.behavior.title}: {given.behavior.matching}",
        "operation": baking.operation,
        "dose": f"{baking.condition.multiplier:g}",
        "layer": "all that it changes" if baking.condition.layer is None else str(baking.condition.layer),
        "weights": f"{dtype}; merged in float32",
        "settings": json.dumps(arm.settings()),
    }
    differs = [f"- {line[0].upper()}{line[1:]}." for line in found.lines()]
    if not baking.exact:
        differs.insert(0, f"- {EVERYWHERE}")
    if dtype != "float32":
        differs.append(f"- The weights are rounded to {dtype}; the difference above holds that.")
    parts = [
        "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items()) + "\n---",
        f"# {cell_text(chat.name)} with {cell_text(arm.label)} baked in",
        "A chat model with an intervention in its weights; nothing but transformers is needed, and no remote code.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {cell_text(value)} |" for name, value in facts.items())]),
        "## What differs from the arm\n\n" + "\n".join(differs),
        "## Load it\n\n" + LOAD.format(dtype=dtype),
    ]
    return "\n\n".join(parts)
