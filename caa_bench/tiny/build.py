"""Rebuild the embedded model from a seed: splits, tokenizer, training, directions, truth.

    python -m caa_bench.tiny.build [--output FOLDER] [--configs FOLDER] [--seed N]

Without arguments it rewrites what is shipped: `caa_bench/tiny/model/`, the capability split and the split files of
`configs/behaviors/`. `make tiny` runs it. The behaviors' `behavior.yaml` and the model's card are written by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.tiny import truth
from caa_bench.tiny.corpus import write_splits
from caa_bench.tiny.rows import draw_rows
from caa_bench.tiny.words import BEHAVIORS

if TYPE_CHECKING:
    from caa_bench.tiny.train import Trained, TrainSettings

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs" / "behaviors"
TOKENIZER_DRAWS = 4000
COMMAND = "python -m caa_bench.tiny.build"


def build(output: Path, configs: Path, settings: TrainSettings) -> None:
    """Write everything.

    Args:
        output: the model's folder.
        configs: the folder of the behavior folders.
        settings: how the model is trained; its seed is everybody's.
    """
    from caa_bench.tiny.tokenizer import save_tokenizer, train_tokenizer
    from caa_bench.tiny.train import train

    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    write_splits(configs, output.parent / "capability.json", seed=settings.seed)
    print("splits written; training the tokenizer and the model", flush=True)
    tokenizer = train_tokenizer(_texts(settings.seed))
    trained = train(tokenizer, settings, report=lambda line: print(line, flush=True))
    trained.model.save_pretrained(output)
    save_tokenizer(tokenizer, output)
    _save_directions(trained, output / "directions.safetensors")
    seconds = time.perf_counter() - started
    text = json.dumps(_truth(settings, seconds), indent=2)
    (output / "truth.json").write_text(text + "\n", encoding="utf-8")
    print(f"{output}: done in {seconds:.0f} s")


def _texts(seed: int) -> list[str]:
    """The texts the tokenizer is trained on: the training corpus, nothing of the test."""
    rng = random.Random(f"{seed}/tokenizer")  # noqa: S311 - a corpus, not a secret
    texts = []
    for _ in range(TOKENIZER_DRAWS):
        for row in draw_rows(rng):
            texts += [row.prompt, *(group.text for group in row.groups if group.text)]
    return texts


def _save_directions(trained: Trained, path: Path) -> None:
    from safetensors.torch import save_file

    metadata = {"layer": str(truth.PLANTED_LAYER), "behaviors": json.dumps(BEHAVIORS)}
    save_file({"directions": trained.planter.directions.contiguous()}, path, metadata=metadata)


def _truth(settings: TrainSettings, seconds: float) -> dict[str, Any]:
    """The built-in truth as data; the formula is in truth.py."""

    from caa_bench.tiny.planting import NORM

    return {
        "planted_layer": truth.PLANTED_LAYER,
        "direction_norm": NORM,
        "vector_norm": 2 * NORM,
        "formula": "log-odds of the matching answer = setting + system prompt + slope * m * m^4 / (m^4 + dead_zone^4)",
        "settings": {b: _setting_levels(b) for b in BEHAVIORS},
        "base_p": {b: _base_p(b) for b in BEHAVIORS},
        "prompt_effect": truth.PROMPT_EFFECT,
        "slope": {b: truth.slope(truth.Stance(behavior=b, level="toward")) for b in BEHAVIORS},
        "dead_zone": truth.DEAD_ZONE,
        "limit": truth.LIMIT,
        "additive": [b for b in BEHAVIORS if b != truth.NON_ADDITIVE],
        "non_additive": {
            "behavior": truth.NON_ADDITIVE,
            "under": ["positive", "negative"],
            "slope_left": truth.SLOPE_NON_ADDITIVE * truth.SHARE_LEFT,
            "interaction_at": {str(m): _interaction(m) for m in (-0.5, 0.5, -1.0, 1.0)},
        },
        "calibration": {
            "behavior": truth.CALIBRATION,
            "no_room": "p(matching) above .95 without a vector: a positive dose has no room",
            "works_against": "a positive dose lowers p(matching), a negative one raises it",
            "untouched": "no dose changes p(matching)",
        },
        "seed": settings.seed,
        "steps": {stage.name: stage.steps for stage in settings.stages},
        "command": COMMAND,
        "build_s": round(seconds),
    }


def _setting_levels(behavior: str) -> dict[str, dict[str, float]]:
    """Log-odds and share of each setting level."""
    shares = dict(zip(truth.SETTING_LEVELS, truth.SETTING_SHARES[behavior], strict=True))
    return {
        level: {"log_odds": truth.log_odds(truth.Stance(behavior=behavior, level=level)), "share": share}
        for level, share in shares.items()
    }


def _base_p(behavior: str) -> float:
    """Mean p(matching) of the test split without a vector or a system prompt."""
    import math

    return round(sum(e["share"] / (1 + math.exp(-e["log_odds"])) for e in _setting_levels(behavior).values()), 3)


def _interaction(multiplier: float) -> float:
    """s * (effect under a prompt - effect without) of the non-additive behavior, log-odds."""
    kept = truth.steer(multiplier, truth.SLOPE_NON_ADDITIVE * truth.SHARE_LEFT)
    alone = truth.steer(multiplier, truth.SLOPE_NON_ADDITIVE)
    return round(_sign(multiplier) * (kept - alone), 3)


def _sign(value: float) -> int:
    """+1 for a positive value, -1 otherwise."""
    return 1 if value > 0 else -1


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=HERE / "model", help="the model's folder (default: the shipped one)"
    )
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="where the behavior folders are")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from caa_bench.tiny.train import TrainSettings

    build(arguments.output, arguments.configs, TrainSettings(seed=arguments.seed))


if __name__ == "__main__":
    main()
