"""Other packages that make vectors from pairs, in an environment of their own that borrows this one's torch."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import torch

PACKAGES = ("steering-vectors==0.12.2", "repeng==0.4.0")
FOLDER = Path(__file__).parents[1] / "build" / "peers-env"
ASK = '''
import json, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM, BatchEncoding

request = json.loads(sys.stdin.read())
model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32).eval()


class Ids:
    """A tokenizer of texts that are token ids already."""

    pad_token_id, eos_token_id, pad_token, eos_token, padding_side = 0, 0, "0", "0", request["side"]

    def __call__(self, texts, **_):
        rows = [[int(token) for token in text.split()] for text in texts]
        width = max(map(len, rows))
        left = self.padding_side == "left"

        def pad(row, of):
            nothing = [0] * (width - len(row))
            return nothing + of if left else of + nothing

        ids = torch.tensor([pad(row, row) for row in rows])
        mask = torch.tensor([pad(row, [1] * len(row)) for row in rows])
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})


pairs = [tuple(" ".join(map(str, side)) for side in pair) for pair in request["pairs"]]
if request["package"] == "steering_vectors":
    from steering_vectors import train_steering_vector
    from steering_vectors.aggregators import mean_aggregator, pca_aggregator

    made = {"mean": mean_aggregator, "pca": pca_aggregator}[request["method"]]()
    found = train_steering_vector(model, Ids(), pairs, read_token_index=-1, batch_size=4, aggregator=made)
    vectors = {layer: vector.tolist() for layer, vector in found.layer_activations.items()}
else:
    from repeng import ControlModel, ControlVector, DatasetEntry

    entries = [DatasetEntry(positive=one, negative=other) for one, other in pairs]
    found = ControlVector.train(model, Ids(), entries, method=request["method"], batch_size=1)
    vectors = {layer: vector.tolist() for layer, vector in found.directions.items()}
print(json.dumps(vectors))
'''


def python_of_peers() -> Path:
    """The environment's python, made on first use; the test is skipped where that fails (no package index)."""
    python = FOLDER / "bin" / "python"
    if not (FOLDER / ".installed").exists():
        try:
            venv.create(FOLDER, with_pip=True, clear=True)
            # its own transformers 4 comes first on the path; torch, the same build, is found behind it
            lib = FOLDER / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
            (lib / "host.pth").write_text(str(Path(torch.__file__).parents[1]))
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"{', '.join(PACKAGES)} cannot be installed here: {error}")
        (FOLDER / ".installed").touch()
    return python


def vectors_of(package: str, method: str, *, model: Path, pairs: list[Any], side: str) -> dict[int, torch.Tensor]:
    """What a peer's own training gives for pairs of token ids that are read at their last token. Layer -> [D]"""
    request = {"package": package, "method": method, "model": str(model), "pairs": pairs, "side": side}
    done = subprocess.run(
        [python_of_peers(), "-c", ASK], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {int(layer): torch.tensor(vector, dtype=torch.float64) for layer, vector in found.items()}
