"""How much memory and disk the fits of a run take beside the weights: arithmetic on config.json and the prompts.

Each constant was measured (resident memory of a fit, fp32 on a CPU, Llama shapes of 8 and 16 layers of width 512 and
1024, and Qwen2.5 0.5B); a test holds the figures within a fifth of what a fit then takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.interventions import CAA, FullSFT, Intervention, LoraSFT
from caa_bench.recipe import BenchmarkArguments
from caa_bench.storage.files import read_json

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark
    from caa_bench.models.model import ChatModel

LIBRARIES = 420_000_000
"""torch, transformers, a tokenizer."""
ANALYSIS_LIBRARIES, TRAINING_LIBRARIES = 90_000_000, 240_000_000
"""pandas and scipy; peft, trl, datasets, and what the first backward allocates."""
BESIDE_WEIGHTS_GB = 0.5
"""What the engine bounds its largest logits and hidden states to, about."""
PAIRS_A_FORWARD = 16
SAVED = 1.33
"""What a training step holds for its backward, over the tensors that autograd saves by name."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides how large a model's tensors are.

    Args:
        layers / hidden / inner: blocks, width of the residual stream and of the MLP.
        queries / keys: width of a token's queries and of its keys.
        vocabulary: tokens of the output head.
        number: bytes of one number.
        weights: bytes of all weights as loaded; None where that is not known.
    """

    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    vocabulary: int
    number: int
    weights: int | None

    @classmethod
    def of(cls, chat: ChatModel) -> Shape | None:
        """From config.json and the sizes of the weight files; None where the config is not at hand."""
        folder, layers = Path(chat.source), chat.layers
        if layers is None or not (folder / "config.json").is_file():
            return None
        config: Mapping[str, Any] = read_json(folder / "config.json")
        text = config.get("text_config", config)
        stored = str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or "float32")
        loaded = stored if chat.loading.dtype == "auto" else chat.loading.dtype
        heads = text.get("num_attention_heads") or text.get("n_head") or 1
        width = text.get("head_dim") or layers.hidden // heads
        files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        number = BYTES.get(loaded, 4)
        weights = None if chat.loading.quantization != "none" else files * number // BYTES.get(stored, 4)
        return cls(
            layers=layers.count,
            hidden=layers.hidden,
            inner=text.get("intermediate_size") or text.get("n_inner") or 4 * layers.hidden,
            queries=heads * width,
            keys=(text.get("num_key_value_heads") or heads) * width,
            vocabulary=text.get("vocab_size") or config.get("vocab_size") or 0,
            number=number,
            weights=weights,
        )


@dataclass(frozen=True, kw_only=True)
class FitNeeds:
    """What one fit takes beside the weights and the libraries.

    Args:
        memory / disk: in bytes, at its peak.
    """

    memory: int
    disk: int = 0


def fit_needs(intervention: Intervention, shape: Shape, *, tokens: Sequence[int], items: int) -> FitNeeds | None:
    """The peak of one fit; None for one that learns nothing worth counting.

    Args:
        tokens: of each pair's prompt. [P], P pairs
        items: how many items the pairs are of.
    """

    pairs, longest = len(tokens), max(tokens, default=0)
    if isinstance(intervention, CAA):
        forward = shape.number * longest * min(PAIRS_A_FORWARD, pairs) * _forward(shape)
        # sums and projections of one layer in double; four arrays of as many resamples as there are items
        analysis = 48 * pairs * shape.hidden + 4 * 8 * BenchmarkArguments.draws * items
        return FitNeeds(
            memory=ANALYSIS_LIBRARIES + forward + analysis, disk=2 * 4 * pairs * shape.layers * shape.hidden
        )
    if isinstance(intervention, LoraSFT | FullSFT):
        batch = longest * min(intervention.config.batch_size, pairs)
        step = shape.number * SAVED * batch * shape.layers * (11 * shape.hidden + 3 * shape.inner)
        # a copy of the weights, their gradients, and at the end their difference in the copy's place
        whole = 3 * (shape.weights or 0) if isinstance(intervention, FullSFT) else 0
        return FitNeeds(memory=round(TRAINING_LIBRARIES + step) + whole)
    return None


def _forward(shape: Shape) -> int:
    """Numbers that a forward over a prompt holds for each token: one block's insides, all blocks' keys and values."""
    return 3 * shape.inner + 6 * shape.hidden + 2 * shape.layers * shape.keys


def memory_text(benchmark: Benchmark, tokens: Sequence[int]) -> str:
    """The weights and the libraries, what measuring needs beside them, and what each fit does.

    Args:
        tokens: of each training pair's prompt. [P]
    """
    shape = Shape.of(benchmark.chat)
    weights = benchmark.chat.loading.memory_gb
    if shape is not None and shape.weights:
        weights = shape.weights / 1e9
    if weights is None:
        return "not known; set memory_gb in the model's config"
    said = f"about {weights:.2g} GB for the weights and {LIBRARIES / 1e9:.2g} GB for the libraries; beside them "
    said += f"up to {BESIDE_WEIGHTS_GB} GB while measuring"
    if shape is not None and shape.number < 4 and benchmark.chat.loading.dtype == "auto":
        said += "; twice the weights on a CPU that is faster in float32"
    fits = [] if shape is None else _fits(benchmark, shape, tokens)
    return "; ".join([said, *fits])


def _fits(benchmark: Benchmark, shape: Shape, tokens: Sequence[int]) -> list[str]:
    """A few words for each fit that takes memory, alike ones once."""
    items = len({pair.item for pair in benchmark.behavior.pairs()})
    lines = {}
    for one in benchmark.interventions:
        needs = fit_needs(one, shape, tokens=tokens[: getattr(one.config, "max_pairs", None)], items=items)
        if needs is not None:
            disk = f" and {needs.disk / 1e9:.2g} GB of disk" if needs.disk else ""
            lines[one.name] = f"{needs.memory / 1e9:.2g} GB{disk} while {one.name} is fitted"
    return list(lines.values())
