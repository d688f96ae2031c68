"""A tiny random model and a tiny behavior on disk, made once: what a comparison of seconds runs on."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch counts the cores: workers that each take all of them wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from browser import Page, page
from small_runs import Small, write_small_model


def pytest_collection_finish() -> None:
    """What was imported by now stays: the collector need not look through all of torch each time it is asked."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # tables of thousands of small objects: 700 is looked through all the time


@pytest.fixture(scope="session", autouse=True)
def _own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees what this machine's user downloaded or registered: it passes here and on a bare machine alike."""
    root: Path = tmp_path_factory.mktemp("user")
    os.environ["CAA_BENCH_CACHE"] = str(root / "cache")
    os.environ["XDG_CONFIG_HOME"] = str(root / "config")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The model, the behavior and the settings of a small comparison."""
    from small_behavior import write_behavior

    root: Path = tmp_path_factory.mktemp("small")
    return Small(
        model=write_small_model(root / "model"),
        behavior=write_behavior(root / "behaviors" / "small", train=12, test=24, selection=4),
    )


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for the module."""
    with page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
