"""Offline wandb runs read back from disk: records of protobuf in LevelDB's log format, as wandb itself writes them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, FILE_HEADER, RECORD_HEADER = 32768, 7, 7
FULL, FIRST, LAST = 1, 2, 4


@dataclass(kw_only=True)
class OfflineRun:
    """What one run of the dashboard would show.

    Args:
        history: what each step logged.
        steps: metric (or glob) -> the metric that its x axis is.
        summary: what the table of runs shows of it.
        saved: files that are uploaded with it, below its `files` folder.
        artifacts: name -> type, then path in it -> file on this machine.
    """

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    saved: list[str] = field(default_factory=list)
    artifacts: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    finished: bool = False


def offline_runs(folder: Path) -> dict[str, OfflineRun]:
    """Every offline run below a run folder's `wandb`, by name; no name twice."""
    runs = [_read(path) for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]
    assert len({run.name for run in runs}) == len(runs)
    return {run.name: run for run in runs}


def _read(path: Path) -> OfflineRun:
    run = OfflineRun()
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            one = record.run
            run.id, run.name, run.group = one.run_id, one.display_name, one.run_group
            run.job_type, run.project, run.tags = one.job_type, one.project, run.tags or list(one.tags)
            run.config |= {item.key: json.loads(item.value_json) for item in one.config.update}
        elif kind == "history":
            items = {(item.key or ".".join(item.nested_key)): item.value_json for item in record.history.item}
            run.history.append({key: json.loads(value) for key, value in items.items()})
        elif kind == "metric":
            run.steps[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "summary":
            changed = {(item.key or ".".join(item.nested_key)): item.value_json for item in record.summary.update}
            run.summary |= {key: json.loads(value) for key, value in changed.items()}
        elif kind == "files":
            run.saved += [item.path for item in record.files.files]
        elif kind == "artifact":
            files = {one.path: one.local_path for one in record.artifact.manifest.contents}
            assert record.artifact.name not in run.artifacts
            run.artifacts[record.artifact.name] = (record.artifact.type, files)
        elif kind == "exit":
            run.finished = record.exit.exit_code == 0
    return run


def _records(data: bytes) -> Iterator[bytes]:
    at, whole = FILE_HEADER, b""
    while at + RECORD_HEADER <= len(data):
        if BLOCK - at % BLOCK < RECORD_HEADER:  # a header never straddles two blocks
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + RECORD_HEADER : at + RECORD_HEADER + length]
        at += RECORD_HEADER + length
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield whole
