"""What each intervention needs beyond its defaults on a random model of 3 blocks and a small behavior."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_behavior import write_behavior

from caa_bench.interventions import Intervention, LoraSFT
from caa_bench.interventions.adapter import Adapter
from caa_bench.interventions.conditional import Conditional
from caa_bench.interventions.contrastive_lora import ContrastiveLora
from caa_bench.interventions.dpo import DPO
from caa_bench.interventions.orpo import ORPO
from caa_bench.interventions.peft_tuned import PeftTuned
from caa_bench.interventions.soft_prompt import SoftPrompt
from caa_bench.interventions.vector_file import VectorFile

OTHER = "other"
"""Another behavior beside the small one, with other questions."""


def write_both(folder: Path) -> Path:
    """`small`, and beside it `other`, in whose questions another verb stands; returns the first."""
    small, other = write_behavior(folder / "small"), write_behavior(folder / OTHER)
    for file in other.glob("*.json"):
        file.write_text(file.read_text().replace("Please ", "Who can ").replace("Will you ", "Who can "))
    return small


def config_of(cls: type[Intervention], *, folder: Path, layers: int = 3, hidden: int = 32) -> Any:
    """A section with which a small fit works and does something.

    Args:
        folder: where a vector file may be written.
        layers / hidden: of the model.
    """
    if cls is LoraSFT:
        return cls.Config(learning_rate=3e-2, max_pairs=16)
    if cls is Conditional:
        return cls.Config(others=(OTHER,))
    if cls in (PeftTuned, ContrastiveLora, DPO, ORPO):
        return cls.Config(learning_rate=3e-2, max_pairs=16)
    if cls is SoftPrompt:
        return cls.Config(learning_rate=0.1, max_pairs=16, tokens=4)
    if cls is Adapter:
        return cls.Config(path=str(write_adapter(folder / "adapter", layers=layers, hidden=hidden)))
    if cls is VectorFile:
        path = folder / "given.safetensors"
        save_file({"vectors": torch.randn(layers, hidden, generator=torch.Generator().manual_seed(0))}, path)
        return cls.Config(path=str(path))
    return cls.Config()


def write_adapter(folder: Path, *, layers: int = 3, hidden: int = 32) -> Path:
    """A LoRA of rank 2 on the queries of a Llama with 4 heads, with weights that do something; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, hidden, generator=draw)
        tensors[f"{name}.lora_B.weight"] = torch.randn(hidden, 2, generator=draw)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
