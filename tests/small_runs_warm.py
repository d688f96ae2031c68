"""Imported once by the server that `small_runs` forks commands from; starts no threads."""

import datasets  # noqa: F401
import matplotlib.figure  # noqa: F401
import peft  # noqa: F401
import scipy.stats  # noqa: F401
import torch
import transformers  # noqa: F401
import trl  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401
from trl import SFTConfig, SFTTrainer  # noqa: F401

torch.set_num_threads(1)
