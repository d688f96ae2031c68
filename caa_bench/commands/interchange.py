"""A vector for other tools: GGUF (llama.cpp, repeng), safetensors, EasySteer's steering spec, and JSON that says what
each is and what differs.

Only an addition to one block's output can be carried over: what gates, turns or projects has no name elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions import Condition, Intervention
from caa_bench.storage.files import content_key, to_json
from caa_bench.storage.safe_text import safe_name

if TYPE_CHECKING:
    from torch import Tensor

TENSORS, CONTROL_VECTOR, FACTS = "vector.safetensors", "control_vector.gguf", "interchange.json"
STEERING = "easysteer.json"
EVERYWHERE = (
    "acts at every position, those of the prompt too; here the vector begins at the last token of the instruction. "
    "Numbers of the run do not carry over: look for the dose anew"
)


def write_interchange(
    folder: Path, vector: Intervention, *, layer: int, model: str, model_key: Mapping[str, Any]
) -> list[str]:
    """Write the vector of one layer into a new folder.

    Args:
        vector: fitted.
        layer: the 0-based decoder block.
        model: its name, for a reader.
        model_key: what the run recorded of it (`ChatModel.fingerprint`).

    Returns:
        The files written, by name.

    Raises:
        UserError: the vector is no plain addition at one block's output, or it has no such layer.
    """
    from safetensors.torch import save_file

    delta = plain_delta(vector, layer)
    folder.mkdir(parents=True)
    facts = _interchange_facts(vector, delta, layer=layer, model=model, model_key=model_key)
    flat = {key: str(value) for key, value in facts.items() if not isinstance(value, dict)}
    save_file({f"layer.{layer}": delta}, folder / TENSORS, metadata=flat)
    (folder / STEERING).write_text(to_json(_steering_spec(delta, layer=layer), indent=1) + "\n", encoding="utf-8")
    written = [TENSORS, STEERING, FACTS]
    if layer > 0 and find_spec("gguf") is not None:
        _write_gguf(folder / CONTROL_VECTOR, delta, layer=layer, facts=flat)
        written.append(CONTROL_VECTOR)
    else:
        del facts["tools"]["llama.cpp"], facts["tools"]["repeng"]
    (folder / FACTS).write_text(to_json(facts, indent=1) + "\n", encoding="utf-8")
    return written


def plain_delta(vector: Intervention, layer: int) -> Tensor:
    """What is added to the block's output at multiplier 1, fp32. [D]

    Raises:
        UserError: it is no plain addition there.
    """
    try:
        edits = vector.edits(Condition(layer=layer, multiplier=1.0)) or []
    except (IndexError, ValueError):
        edits = []
    from caa_bench.engine.changes import Add

    change = edits[0].change if len(edits) == 1 else None
    if not isinstance(change, Add) or not edits[0].is_plain or edits[0].site != "block" or edits[0].layer != layer:
        raise UserError(
            f"{vector.label}: not an addition to the output of block {layer}; no other tool has its operation"
        )
    return change.delta.detach().float().cpu().reshape(-1).clone()


def _steering_spec(delta: Tensor, *, layer: int) -> dict[str, Any]:
    """EasySteer's SteeringSpec, the vector inside of it, on a template whose prompt ends with the instruction."""
    from caa_bench.engine.changes import Add
    from caa_bench.engine.easysteer import steering_field
    from caa_bench.engine.edit import Edit
    from caa_bench.models.prompts import Prompt

    return steering_field([Edit(layer, Add(delta))], Prompt(ids=(0,), first_position=0)) or {}


def _interchange_facts(
    vector: Intervention, delta: Tensor, *, layer: int, model: str, model_key: Mapping[str, Any]
) -> dict[str, Any]:
    """What any reader must know, then how each tool takes it."""
    return {
        "label": vector.label,
        "method": vector.name,
        "operation": "h + multiplier * v",
        "site": "output of one decoder block: the residual stream behind its attention and MLP",
        "layer": layer,
        "layer_base": "0: layer 0 is the first decoder block",
        "positions": "from the last token of the instruction on: that token, the answer's opening and every new token",
        "width": len(delta),
        "norm": round(float(delta.norm()), 6),
        "model": model,
        "model_key": content_key({key: value for key, value in model_key.items() if key != "prompt"})[:16],
        "template_key": content_key(model_key.get("prompt", {}))[:16],
        "tools": _how_tools_take_it(layer),
    }


def _how_tools_take_it(layer: int) -> dict[str, dict[str, str]]:
    """Of each tool the file it reads, the words that steer with it, and what differs there."""
    return {
        "llama.cpp": {
            "file": CONTROL_VECTOR,
            "use": f"--control-vector-scaled {CONTROL_VECTOR}:1.0 --control-vector-layer-range {layer} {layer}",
            "layers": f"direction.{layer} is added behind block {layer}, counted from 0; block 0 has none",
            "differs": EVERYWHERE,
        },
        "repeng": {
            "file": CONTROL_VECTOR,
            "use": f"ControlModel(model, [{layer}]).set_control(ControlVector.import_gguf(PATH), coeff=1.0)",
            "layers": f"layer {layer} is the block's index, counted from 0",
            "differs": EVERYWHERE,
        },
        "EasySteer": {
            "file": STEERING,
            "use": "vllm serve MODEL --enable-steer-vector --steer-algorithms direct; then the file's object as "
            '"steering" in each request (extra_body of the openai client), its "scale" the dose; or '
            f"--steering-config {STEERING} for all requests",
            "layers": "counted from 0",
            "differs": "acts where it acts here, if the prompt ends with the instruction's last token; where the "
            "template writes more behind it (caa-bench show-tokens), name these positions too: "
            '"prompt_positions": [-2, -1]. Written after its documentation, not tried on vLLM',
        },
        "steering-vectors": {
            "file": TENSORS,
            "use": f"SteeringVector({{{layer}: load_file(PATH)['layer.{layer}']}}, 'decoder_block').apply(model)",
            "layers": "counted from 0",
            "differs": f"without min_token_index it {EVERYWHERE}",
        },
        "lm-eval": {
            "file": TENSORS,
            "use": "--model steered takes a pickle alone, which this project never writes; make it yourself: "
            f"torch.save({{'layers.{layer}': {{'action': 'add', 'steering_coefficient': 1.0, "
            f"'steering_vector': load_file(PATH)['layer.{layer}']}}}}, 'steer.pt'). "
            "The evaluator lm_eval of this project needs no file",
            "layers": "the module's name below the base model, counted from 0",
            "differs": EVERYWHERE,
        },
    }


def _write_gguf(path: Path, delta: Tensor, *, layer: int, facts: Mapping[str, str]) -> None:
    """A control vector as llama.cpp and repeng read it, with the same facts as strings."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", facts["model"])
    writer.add_uint32("controlvector.layer_count", 1)
    for key, value in facts.items():
        writer.add_string(f"caa_bench.{safe_name(key)}", value)
    writer.add_tensor(f"direction.{layer}", delta.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
