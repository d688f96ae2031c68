"""The steering-vectors package at work, in its own environment (it needs transformers 4). Started by bench.py.

Reads one JSON request a line on stdin, answers one a line on stdout. Sees nothing of caa_bench.
"""

import json
import sys
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from steering_vectors import SteeringVector, train_steering_vector
from transformers import AutoModelForCausalLM, BatchEncoding

now = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[3]]


class Ids:
    """A tokenizer for texts that are token ids already: "1 518 29914"; the timing holds no tokenization."""

    pad_token_id = 0
    padding_side = "right"

    def __call__(self, texts, **_):
        rows = [[int(token) for token in text.split()] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})


def extract(model, request):
    """Vectors of all layers from contrast pairs, with the package's own batching."""
    pairs = [(" ".join(map(str, positive)), " ".join(map(str, negative))) for positive, negative in request["pairs"]]
    start = now()
    vector = train_steering_vector(model, Ids(), pairs, read_token_index=-1, batch_size=request["batch"])
    seconds = now() - start
    save_file(
        {"out": torch.stack([vector.layer_activations[layer] for layer in sorted(vector.layer_activations)])},
        request["result"],
    )
    return seconds


@torch.no_grad()
def score(model, request):
    """Log-odds of every prompt under every condition; a batch of 1 keeps last-position logits only."""
    vectors = torch.tensor(request["vectors"])
    rows = []
    start = now()
    batch = request["batch"]
    for begin in range(0, len(request["prompts"]), batch):
        prompts = request["prompts"][begin : begin + batch]
        width = max(len(prompt["ids"]) for prompt in prompts)
        ids = torch.tensor([prompt["ids"] + [0] * (width - len(prompt["ids"])) for prompt in prompts])
        where = torch.tensor([[int(p["first"] <= t < len(p["ids"])) for t in range(width)] for p in prompts])
        last = torch.tensor([len(prompt["ids"]) - 1 for prompt in prompts])
        columns = []
        for layer, multiplier in request["conditions"]:
            vector = SteeringVector({layer: vectors[layer]})
            with vector.apply(model, multiplier=multiplier, min_token_index=None, token_indices=where):
                kept = model(ids, use_cache=False, **({"logits_to_keep": 1} if batch == 1 else {})).logits
            logits = kept[:, -1] if batch == 1 else kept[torch.arange(len(ids)), last]
            columns.append(logits[:, request["letters"][0]] - logits[:, request["letters"][1]])
        rows.append(torch.stack(columns, dim=1))
    seconds = now() - start
    save_file({"out": torch.cat(rows)}, request["result"])
    return seconds


def main():
    """`python steering_vectors_server.py MODEL_FOLDER THREADS CLOCK`"""
    torch.set_num_threads(int(sys.argv[2]))
    model = AutoModelForCausalLM.from_pretrained(Path(sys.argv[1]), dtype=torch.float32).eval()
    print(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds = {"extract": extract, "score": score}[request["task"]](model, request)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
