"""The engine beside its peers, in one run, on the same model, items, precision and threads.

    make bench                                                                  # CPU, writes BENCHMARKS.md
    python -m benchmarks.bench --device cuda --dtype bfloat16 --shape llama-2-7b --only sweep generation growth

Needs Linux; the published data and the Llama 2 tokenizer where they are at hand (else random tokens of like lengths);
the package index once, for the environment of the steering-vectors package. About 20 minutes on 2 quiet cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import extras, sections
from benchmarks.changes import changes
from benchmarks.subject import SHAPES, Settings, Subject, build, published
from benchmarks.write import write

ROOT = Path(__file__).parents[1]
SECTIONS: dict[str, Callable[[Subject, Settings], dict[str, Any]]] = {
    "sweep": sections.sweep,
    "extraction": sections.extraction,
    "generation": sections.generation,
    "changes": changes,
    "seven_multipliers": sections.seven_multipliers,
    "steering_vectors_scoring": sections.steering_vectors_scoring,
    "growth": sections.growth,
    "memory": extras.memory,
    "lora_fit": extras.lora_fit,
}


def main() -> None:
    """Run the chosen sections; each is written down as soon as it is done, so a stopped run keeps what it has."""
    arguments = _arguments()
    settings = Settings(
        shape=arguments.shape,
        device=arguments.device,
        dtype=arguments.dtype,
        threads=1 if arguments.clock == "cpu" else arguments.threads,
        repetitions=arguments.repetitions,
        clock=arguments.clock,
    )
    torch.set_num_threads(settings.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.getLogger("caa_bench").setLevel(logging.WARNING)
    path = ROOT / "benchmarks" / f"results-{settings.device}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() and arguments.only else {}
    results["settings"] = vars(settings) | {"published": published()}
    results["machine"] = machine()
    subject = build(settings)
    sections.warm_up(subject)
    for name in arguments.only or SECTIONS:
        start, load = time.perf_counter(), os.getloadavg()[0]
        results[name] = SECTIONS[name](subject, settings)
        results[name]["load before"] = load
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {time.perf_counter() - start:.0f} s\n{json.dumps(results[name], indent=1)}", flush=True)
        write(ROOT, results)


def machine() -> dict[str, Any]:
    """What it ran on, generically."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = ("torch", "transformers", "peft", "trl")
    return {
        "processor": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "memory_gib": round(memory),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="some sections; the others keep their last results")
    parser.add_argument("--shape", choices=SHAPES, default="512x12")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: CPU time on one thread")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
