"""The same vectors as the packages that people use: steering-vectors (mean, PCA) and repeng (PCA)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from peers import vectors_of
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.behaviors.behavior import Pairs, load_behavior
from caa_bench.interventions import CAA, registry
from caa_bench.interventions.vectors import letter_prompts

pytestmark = pytest.mark.slow


@cache
def tokenizer():
    return chatml_tokenizer()


@cache
def model():
    return random_model("llama", layers=3, hidden=32, vocab=len(tokenizer()))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return load_behavior(write_behavior(tmp_path_factory.mktemp("behaviors") / "small")).pairs()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model().save_pretrained(folder)
    return folder


def sides(pairs: Pairs) -> list[list[list[int]]]:
    """Each pair's prompt with the matching letter and with the other one, as token ids."""
    return [[[*prompt.ids, letter] for letter in prompt.candidates] for prompt in letter_prompts(tokenizer(), pairs)]


def test_the_mean_difference_of_steering_vectors(pairs: Pairs, saved: Path) -> None:
    """In length, too."""
    found = vectors_of("steering_vectors", "mean", model=saved, pairs=sides(pairs), side="right")
    caa = CAA()
    caa.fit(model(), tokenizer(), pairs)
    for layer in range(3):
        torch.testing.assert_close(caa.fitted()[layer].double(), found[layer], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("package", "method", "arm", "side"),
    [
        ("steering_vectors", "pca", "repe_pca", "right"),
        # its logistic regression has no intercept, another objective; ours is held to scikit-learn's own elsewhere
        # pca_diff takes the differences' mean out before PCA, which is the behavior itself; pca_center does not
        ("repeng", "pca_center", "repe_pca", "left"),
    ],
)
def test_the_directions_of_the_others(
    package: str, method: str, arm: str, side: str, pairs: Pairs, saved: Path
) -> None:
    found = vectors_of(package, method, model=saved, pairs=sides(pairs), side=side)
    own = registry()[arm](norm="own")
    own.fit(model(), tokenizer(), pairs)
    layers = [layer for layer in range(3) if layer in found]
    assert len(layers) >= 2
    for layer in layers:
        cosine = torch.cosine_similarity(own.fitted()[layer].double(), found[layer], dim=0)
        if package == "repeng":  # its sign is that of most pairs, ours that of their mean; here the two differ
            cosine = cosine.abs()
        assert float(cosine) > 0.999, (layer, float(cosine))
