"""README.md of a saved intervention: what it is, what it learned from, where it acts, how to load it, what it did.

`save_pretrained` alone writes what the intervention itself knows. A fit by the harness adds the data, and names its
model by checksum alone: the same fit has the same bytes, whatever a user calls the model. `caa-bench export` writes it
anew with the run's model, effects and side effects.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.storage.artifact_folder import add_text
from caa_bench.storage.files import content_key, terminal_safe

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.interventions.base import Intervention

CARD = "README.md"
NOT_RECORDED = "not recorded"
LOAD = """```python
import torch

from caa_bench import Condition, Intervention
from caa_bench.engine.positions import batch_of
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import chat_prompt

MODEL = {model}
chat = ChatModel.find(MODEL)
loaded = Intervention.from_pretrained(".")  # this folder; every byte is checked
messages = loaded.rewrite([{{"role": "user", "content": "Can you help me with something?"}}])
prompt = chat_prompt(chat.tokenizer, messages)
with loaded.attach(chat.model, Condition({condition})), batch_of([prompt]):
    asked = torch.tensor([prompt.ids], device=chat.model.device)
    ids = chat.model.generate(asked, max_new_tokens=20, do_sample=False)
print(chat.tokenizer.decode(ids[0, len(prompt.ids) :]))
```
"""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a fit comes from; what is "" was not recorded.

    Args:
        behavior: the behavior's id.
        model: what names the model for a reader.
        data: the training data in a few words.
        loadable: what `ChatModel.find` takes; "" where the card cannot know it.
        layer: the layer to load a vector at; None: a fraction of the depth.
        multiplier: the dose to load it at.
    """

    behavior: str = ""
    model: str = ""
    data: str = ""
    loadable: str = ""
    layer: int | None = None
    multiplier: float = 1.0


UNKNOWN = Origin()
"""Of an intervention that was saved by itself."""


def fitted_origin(pairs: Pairs, *, model_key: Mapping[str, Any]) -> Origin:
    """What is known when it is fitted.

    Args:
        model_key: what identifies the model (`ChatModel.fingerprint`).
    """
    files = model_key["files"]
    return Origin(
        behavior=pairs.behavior,
        model=f"commit {files['commit']}" if "commit" in files else f"files with key {content_key(files)[:16]}",
        data=f"{len(pairs)} contrast pairs of {pairs.behavior}, key {pairs.key[:16]}",
    )


def write_card(folder: Path, intervention: Intervention, origin: Origin, *, effects: str = "") -> None:
    """Put the card into a freshly saved artifact, covered by its checksums.

    Args:
        effects: what a run measured, as Markdown.
    """
    add_text(folder, CARD, card(intervention, origin, effects=effects))


def card(intervention: Intervention, origin: Origin = UNKNOWN, *, effects: str = "") -> str:
    """The whole text, with a code block that runs in the artifact's folder."""
    found = intervention.facts_for_card(origin.layer)
    head: dict[str, Any] = {"library_name": "caa_bench", "tags": ["caa_bench", intervention.name]}
    if on_the_hub(origin.loadable):
        head["base_model"] = origin.loadable
    facts = {
        "behavior": origin.behavior or NOT_RECORDED,
        "model": origin.model or (NOT_RECORDED if intervention.trains else "any; it is not fitted"),
        "learned from": origin.data or (NOT_RECORDED if intervention.trains else "nothing; it is not fitted"),
        "acts": intervention.acts,
        **found.facts,
        "settings": json.dumps(intervention.settings()),
    }
    fitting = "the model that it was fitted on" if intervention.trains else "any chat model"
    model = json.dumps(origin.loadable) if origin.loadable else f'"..."  # {fitting}'
    parts = [
        "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items()) + "\n---",
        f"# {cell_text(intervention.label)}" + (f" for {cell_text(origin.behavior)}" if origin.behavior else ""),
        (type(intervention).__doc__ or "").strip().split("\n")[0],
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {cell_text(value)} |" for name, value in facts.items())]),
        effects or _unmeasured(found.condition),
        "## Load it\n\n" + LOAD.format(model=model, condition=_dosed(found.condition, origin.multiplier)),
    ]
    return "\n\n".join(part for part in parts if part)


def _unmeasured(condition: str) -> str:
    """Why nothing is said of effects: a fit comes before the run that tries layers and doses."""
    layer = ", and the layer below is a default that nobody tuned" if "layer=" in condition else ""
    return (
        f"What it does was not measured when this card was written{layer}. `caa-bench export RUN FOLDER` writes it "
        "anew, with the layer, the dose and the effects of a run."
    )


def _dosed(condition: str, multiplier: float) -> str:
    """The condition of `OnCard`, which is at multiplier 1, at another one."""
    return condition.replace("multiplier=1.0", f"multiplier={float(multiplier)!r}")


def on_the_hub(name: str) -> bool:
    """Whether it reads as owner/model."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def cell_text(text: str) -> str:
    """One line of a table that shows as it is."""
    return html.escape(terminal_safe(text), quote=False).replace("|", "&#124;").replace("`", "&#96;")
