"""A small adapter of every kind that peft trains and an arm here takes, by method."""

from __future__ import annotations

import peft

MODULES = {"target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"}
KINDS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, **MODULES),
    "rslora": lambda: peft.LoraConfig(r=4, use_rslora=True, rank_pattern={"up_proj": 2}, **MODULES),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, **MODULES),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "vera": lambda: peft.VeraConfig(r=4, **MODULES),
    "loha": lambda: peft.LoHaConfig(r=2, **MODULES),
    "lokr": lambda: peft.LoKrConfig(r=2, **MODULES),
    "oft": lambda: peft.OFTConfig(oft_block_size=8, **MODULES),
    "hra": lambda: peft.HRAConfig(r=2, **MODULES),
}
