"""Benchmark CAA steering vectors, system prompts and LoRA finetuning on the same splits, and how they stack."""
