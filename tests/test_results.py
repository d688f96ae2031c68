"""Rows and run folders: a killed run ends in the same bytes, nothing is done twice, and no folder mixes recipes."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caa_bench.errors import UserError
from caa_bench.runs.folder import MANIFEST, RowStore, RunFolder, read_manifest, versions
from caa_bench.runs.rows import FIELDS, NOT_FINITE
from caa_bench.runs.test_splits import opening
from caa_bench.storage import atomic
from caa_bench.storage.atomic import TEMPORARY


def row(item: int, *, letters: str = "AB", **changes: Any) -> dict[str, Any]:
    """A row whose floats have no short decimal form."""
    r = random.Random(item)
    logits = [r.gauss(0, 10) for _ in letters]
    fields = {"cell": f"c{item % 3}", "item": f"test/{item:04d}", "cluster": f"k{item % 5}", "order": item % 2}
    return {
        **fields,
        "matching": 0,
        "letters": letters,
        "logits": logits,
        "log_z": r.random(),
        "error": None,
        **changes,
    }


def batch(number: int, *, size: int = 3) -> list[dict[str, Any]]:
    return [row(number * size + i) for i in range(size)]


def filled(path: Path, keys: str | list[str]) -> RowStore:
    """A store with one batch a key, each key's rows its own."""
    store = RowStore(path)
    for key in keys:
        store.append(key, batch(ord(key[0])))
    return store


def refused(action: Callable[[], object]) -> list[str]:
    with pytest.raises(UserError) as caught:
        action()
    assert all("; " in line for line in caught.value.lines)
    return list(caught.value.lines)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_rows_come_back_exactly(path: Path) -> None:
    rows = [
        row(1),
        row(2, letters="ABCD"),
        row(3, error="odd, but measured"),
        row(4, logits=[5e-324, -0.0], log_z=1e308),
    ]
    store = RowStore(path)
    assert not path.exists()
    store.append("a", rows)
    store.append("empty", [])
    for reader in (store, RowStore(path)):
        assert repr(list(reader.rows())) == repr(rows)
        assert set(reader.done) == {"a", "empty"}


def test_what_is_not_finite_is_null_with_an_error(path: Path) -> None:
    RowStore(path).append(
        "a",
        [
            row(1, logits=[math.nan, 1.0]),
            row(2, logits=[1.0, -math.inf]),
            row(3, log_z=math.inf),
            row(4, logits=None, log_z=None, error="no letter token"),
            row(5, logits=[math.nan, 1.0], error="seen before"),
        ],
    )
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    rows = list(RowStore(path).rows())
    assert all(r["logits"] == [None, None] and r["log_z"] is None for r in rows)
    assert [r["error"] for r in rows] == [NOT_FINITE] * 3 + ["no letter token", "seen before"]
    frame = RowStore(path).frame()
    assert frame[["logit_0", "logit_1", "log_z"]].isna().all(axis=None)
    assert list(frame["error"]) == [r["error"] for r in rows]


def test_a_row_that_says_nothing_is_a_bug(path: Path) -> None:
    store = RowStore(path)
    for bad in (row(1) | {"extra": 1}, {"cell": "c"}, row(1, logits=None), row(1, logits=[1.0]), row(1, log_z=None)):
        with pytest.raises(ValueError, match=r"row|logits"):
            store.append("a", [bad])
    assert not path.exists()
    store.append("a", [row(1)])
    with pytest.raises(ValueError, match="already"):
        store.append("a", [row(1)])
    assert len(list(RowStore(path).rows())) == 1


def test_numbers_of_numpy_are_written_as_they_are(path: Path) -> None:
    logits = np.array([0.1, 0.2], dtype=np.float32)
    RowStore(path).append("a", [row(1, logits=logits, log_z=np.float32(0.3))])
    (read,) = RowStore(path).rows()
    assert read["logits"] == [float(x) for x in logits]
    assert read["log_z"] == float(np.float32(0.3))


def test_the_frame_has_a_column_an_option_and_nan_where_there_is_none(path: Path) -> None:
    RowStore(path).append("a", [row(1), row(2, letters="ABC"), row(3, logits=[math.nan, 0.0])])
    frame = RowStore(path).frame()
    assert list(frame.columns) == [*FIELDS[:6], "logit_0", "logit_1", "logit_2", "log_z", "error"]
    assert list(frame["logit_2"].isna()) == [True, False, True]
    assert list(frame["logit_1"].isna()) == [False, False, True]
    assert frame["logit_0"][0] == row(1)["logits"][0]
    assert list(frame["order"]) == [1, 0, 1]
    assert frame["error"][0] is None
    assert RowStore(path.with_name("none.jsonl")).frame().empty


def test_what_a_kill_leaves_at_the_end_is_overwritten(path: Path) -> None:
    """Cut the last batch all over, and put garbage there: the batches before it stand, and the file heals."""
    filled(path, "abc")
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, whole.rindex(b'{"cell":"c0","item":"test/0297"')) + 1
    assert set(filled(path.with_name("two"), "ab").done) == {"a", "b"}
    assert path.with_name("two").read_bytes() == whole[:start]
    tails = [whole[start:end] for end in range(start, len(whole), 5)]
    tails += [
        b"\0" * 5000,
        b"\xff\n\n{}\n",
        b'{"batch": 3}\n',
        b'{"batch":' + b"[" * 100_000 + b"\n",
        whole[start:-90] + b"\n",
    ]
    tails += [whole[start:].replace(b"0297", b"0298"), whole[start:].replace(b'"rows": 3', b'"rows": 2')]
    for tail in tails:
        path.write_bytes(whole[:start] + tail)
        store = RowStore(path)
        assert set(store.done) == {"a", "b"}, tail[-100:]
        assert len(list(store.rows())) == 6
        assert path.read_bytes() == whole[:start] + tail  # reading writes nothing
        store.append("c", batch(ord("c")))
        assert path.read_bytes() == whole


def test_damage_before_a_whole_batch_is_refused_by_line(path: Path) -> None:
    filled(path, "abc")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 12
    b = slice(4, 8)  # the lines of the second batch

    def damaged(*replacement: bytes) -> list[str]:
        path.write_bytes(b"".join([*lines[:4], *replacement, *lines[8:]]))
        return refused(lambda: RowStore(path))

    expected = [f"{path}:5: damaged before a whole batch; delete this file and run again"]
    assert damaged(*lines[b][:3]) == expected  # without its end
    assert damaged(*lines[b][1:]) == expected  # without its first row
    assert damaged(lines[5], lines[4], *lines[6:8]) == expected  # rows swapped
    assert damaged(*lines[4:7], lines[7].replace(b'"b"', b'"x"')) == expected  # another batch's key
    assert damaged(b"\0" * 100 + b"\n") == expected
    assert damaged(*lines[0:4]) == expected  # the first batch again
    r = random.Random(0)
    start, end = len(b"".join(lines[:4])), len(b"".join(lines[:8]))
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[r.randrange(start, end - 1)] ^= 1 << r.randrange(8)
        path.write_bytes(flipped)
        (line,) = refused(lambda: RowStore(path))
        assert line.startswith(f"{path}:5: damaged")


def test_a_full_disk_leaves_the_batches_before(path: Path) -> None:
    """Real: the system refuses the bytes beyond a limit. The store then goes on where it was."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_results import *
store = filled(Path(sys.argv[1]), "ab")
size = Path(sys.argv[1]).stat().st_size
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
try:
    store.append("c", batch(ord("c")))
except UserError as error:
    print(error)
assert set(store.done) == set("ab") == set(RowStore(Path(sys.argv[1])).done)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.append("c", batch(ord("c")))
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == f"{path}: cannot be written (File too large); free space or choose another folder\n"
    filled(path.with_name("whole"), "abc")
    assert path.read_bytes() == path.with_name("whole").read_bytes()


def test_the_finished_file_is_in_the_plan_s_order_whatever_happened(path: Path) -> None:
    """A batch that failed and is run again stands last, until the end of the run puts it in its place."""
    plan = list("abcdefgh")
    filled(path.with_name("whole"), plan)
    whole = path.with_name("whole").read_bytes()
    r = random.Random(0)
    for _ in range(20):
        path.unlink(missing_ok=True)
        for _ in range(3):
            store = RowStore(path)
            for key in plan:
                if key not in store.done and r.random() < 0.6:
                    store.append(key, batch(ord(key)))
            store.rewrite_in_order(plan)
            assert list(store.done) == [key for key in plan if key in store.done]
        for key in plan:
            if key not in store.done:
                store.append(key, batch(ord(key)))
        assert len(list(store.rows())) == 24
        store.rewrite_in_order(plan)
        assert path.read_bytes() == whole
        assert list(store.rows()) == list(RowStore(path).rows())


def test_a_file_in_order_is_not_touched_and_a_torn_end_is_cut(path: Path) -> None:
    store = filled(path, "abc")
    whole, before = path.read_bytes(), path.stat().st_ino
    store.rewrite_in_order(list("abc"))
    assert path.stat().st_ino == before
    path.write_bytes(whole + b'{"cell"')
    RowStore(path).rewrite_in_order(list("abc"))
    assert path.read_bytes() == whole


def test_batches_of_another_plan_are_refused_and_kept(path: Path) -> None:
    store = filled(path, "abc")
    whole = path.read_bytes()
    store.refuse_strangers(list("cbad"))
    for action in (store.refuse_strangers, store.rewrite_in_order):
        (line,) = refused(lambda action=action: action(list("ab")))
        assert line.startswith(f"{path}: 1 of 3 batches were made with another model, artifact, data or version; ")
    assert path.read_bytes() == whole


RESUME = """
import random, sys
from pathlib import Path
from caa_bench.runs.folder import RowStore, RunFolder

def batch(number):
    r = random.Random(number)
    return [
        {"cell": "c", "item": f"{number}/{i}", "cluster": "k", "order": 0, "matching": 0, "letters": "AB",
         "logits": [r.gauss(0, 1), r.gauss(0, 1)], "log_z": r.random(), "error": None}
        for i in range(60)
    ]

with RunFolder(Path(sys.argv[1]), recipe={"seed": 1}, facts={"batches": 40}) as run:
    store = RowStore(run.rows_path)
    keys = [f"b{number}" for number in range(40)]
    for number, key in enumerate(keys):
        if key not in store.done and not (key == "b7" and sys.argv[2] == "fail"):
            store.append(key, batch(number))
    run.open_test("plan")
    run.record(rows=len(list(store.rows())))
    store.rewrite_in_order(keys)
"""


def resume(folder: Path, *, kill_at: int | None = None, fail: bool = False) -> bool:
    """Run or continue a run in a child; False if it was killed, once its rows had `kill_at` bytes."""
    command = [sys.executable, "-c", RESUME, str(folder), "fail" if fail else ""]
    with subprocess.Popen(command) as child:
        rows = folder / "rows.jsonl"
        while kill_at is not None and child.poll() is None:
            if rows.exists() and rows.stat().st_size >= kill_at:
                child.kill()
            time.sleep(0.0005)
    return child.returncode == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill_and_resume(tmp_path: Path, *, count: int) -> int:
    """Kill runs at random moments, twice each, one batch failing at first; all must end in the same bytes."""
    assert resume(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert whole.keys() == {".lock", MANIFEST, "rows.jsonl"}
    r = random.Random(0)
    kills = 0
    for number in range(count):
        folder = tmp_path / str(number)
        for at in sorted((r.random(), r.random())):
            kills += not resume(folder, kill_at=int(at * len(whole["rows.jsonl"])), fail=number % 2 == 0)
        assert resume(folder)
        assert contents(folder) == whole, number
    return kills


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, count=8) >= 8


@pytest.mark.slow
def test_a_hundred_killed_runs_end_in_the_same_bytes(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, count=100) >= 100


def test_every_write_of_a_resumed_run_may_be_the_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without chance: stop after each byte count that a write could have reached."""
    filled(path, "abcd")
    whole = path.read_bytes()
    for end in range(0, len(whole) + 1, 13):
        path.write_bytes(whole[:end])
        store = RowStore(path)
        for key in "abcd":
            if key not in store.done:
                store.append(key, batch(ord(key)))
        assert path.read_bytes() == whole


def test_sixty_thousand_rows_are_written_and_read_in_seconds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = atomic.os.fsync
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    rows = [row(i) for i in range(1200)]
    store = RowStore(path)
    begun = time.process_time()
    for number in range(50):
        store.append(f"b{number}", rows)
    assert time.process_time() - begun < 5
    assert len(synced) == 50
    begun = time.process_time()
    assert len(RowStore(path).frame()) == 60_000
    assert time.process_time() - begun < 5


RECIPE = {"seed": 1, "caa": {"layers": (13,), "normalize": "none"}, "dose": 0.5}


def test_a_manifest_says_what_made_the_numbers(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", recipe=RECIPE, facts={"seeds": [1]}) as run:
        assert read_manifest(run.path)["status"] == "started"
        run.record(layers=32)
    manifest = read_manifest(tmp_path / "run")
    assert manifest["recipe"] == {"seed": 1, "caa.layers": [13], "caa.normalize": "none", "dose": 0.5}
    assert manifest["status"] == "success"
    assert manifest["facts"] == {"seeds": [1], "layers": 32}
    assert manifest["test_opened"] == 0
    assert manifest["versions"]["torch"] == versions()["torch"] is not None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt, "cancelled"),
        (SystemExit(143), "cancelled"),
        (ValueError, "error"),
        (UserError("x"), "error"),
    ],
)
def test_the_status_says_how_a_run_ended(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit, ValueError, UserError)), RunFolder(tmp_path, recipe=RECIPE):
        raise error
    assert read_manifest(tmp_path)["status"] == status
    with RunFolder(tmp_path, recipe=RECIPE) as run:
        assert run.manifest["status"] == "started"
        run.set_status("error")
    assert read_manifest(tmp_path)["status"] == "error"
    with pytest.raises(ValueError, match="not one of"), RunFolder(tmp_path, recipe=RECIPE) as run:
        run.set_status("fine")  # type: ignore[arg-type]


def test_the_test_split_is_counted_once_a_plan(tmp_path: Path) -> None:
    """A resumed run opens nothing new; another selection of layers or doses does."""
    for key, opened in (("plan", 1), ("plan", 1), ("another", 2), ("plan", 2)):
        with RunFolder(tmp_path, recipe=RECIPE) as run:
            assert run.open_test(key) == opened
    assert read_manifest(tmp_path)["test_opened"] == 2


def test_openings_of_a_test_split_are_counted_over_all_runs(tmp_path: Path) -> None:
    """By model and items; the same plan again is not another one, and a line cut off by a kill is none."""
    asked = [("split", "a", 1), ("split", "b", 2), ("split", "a", 1), ("other", "a", 1), ("split", "c", 3)]
    for split, plan, number in asked:
        assert opening(tmp_path / "runs", split=split, plan=plan, run="refusal") == number
    path = tmp_path / "runs" / "test_openings.jsonl"
    assert len(path.read_text().splitlines()) == 4
    with path.open("a") as file:
        file.write('{"split": "split", "pl\n')
    assert opening(tmp_path / "runs", split="split", plan="d", run="refusal") == 4


def test_a_folder_of_another_recipe_names_every_key(tmp_path: Path) -> None:
    with RunFolder(tmp_path, recipe=RECIPE):
        pass
    before = contents(tmp_path)
    other = {"seed": 2, "caa": {"layers": [13]}, "dose": 0.5, "limit": None, "text": "\x1b[31m" + "x" * 500}
    lines = refused(lambda: RunFolder(tmp_path, recipe=other).__enter__())
    end = "here; choose another output folder, or delete this one"
    assert lines[:3] == [
        f"{tmp_path}: holds another recipe: seed is 1 there and 2 {end}",
        f"{tmp_path}: holds another recipe: caa.normalize is 'none' there and absent {end}",
        f"{tmp_path}: holds another recipe: limit is absent there and None {end}",
    ]
    assert len(lines) == 4
    assert len(lines[3]) < len(str(tmp_path)) + 250
    assert "\x1b" not in lines[3]
    assert contents(tmp_path) == before
    for same in (1, 1.0, True):
        if same != 1:
            assert refused(lambda same=same: RunFolder(tmp_path, recipe=RECIPE | {"seed": same}).__enter__())


def test_a_second_process_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path, recipe=RECIPE) as run:
        before = contents(tmp_path)
        (line,) = refused(lambda: RunFolder(tmp_path, recipe=RECIPE).__enter__())
        assert "in use by process" in line
        assert contents(tmp_path) == before
        RowStore(run.rows_path).append("a", [row(1)])
    with RunFolder(tmp_path, recipe=RECIPE) as run:
        assert set(RowStore(run.rows_path).done) == {"a"}


def test_what_a_killed_writer_left_is_removed_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}0123").write_text("half a manifest")
    with RunFolder(tmp_path, recipe=RECIPE):
        assert not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_a_folder_that_is_no_run_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (line,) = refused(lambda: RunFolder(tmp_path, recipe=RECIPE).__enter__())
    assert line == f"{tmp_path}: holds 'thesis.tex' but no {MANIFEST}; choose an empty or a new folder"
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    assert refused(lambda: RunFolder(tmp_path / "thesis.tex" / "run", recipe=RECIPE).__enter__())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2}', '{"schema": 1, "recipe": []}', "\0"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    (line,) = refused(lambda: RunFolder(tmp_path, recipe=RECIPE).__enter__())
    assert line.startswith(f"{tmp_path}/{MANIFEST}")
    assert (tmp_path / MANIFEST).read_text() == text


def test_a_recipe_changed_by_hand_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path, recipe=RECIPE):
        pass
    manifest = read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest | {"recipe_key": "0" * 64}))
    (line,) = refused(lambda: RunFolder(tmp_path, recipe=RECIPE).__enter__())
    assert "changed by hand" in line


def test_other_versions_are_noted_and_no_others(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path, recipe=RECIPE):
            pass
    manifest = read_manifest(tmp_path)
    assert manifest["version_changes"] == []
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    for _ in range(2):
        with RunFolder(tmp_path, recipe=RECIPE):
            pass
    assert read_manifest(tmp_path)["version_changes"] == [f"torch 1.0 -> {versions()['torch']}"]


def test_no_secret_of_the_environment_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "s3cr3t-value")
    with RunFolder(tmp_path, recipe=RECIPE) as run:
        RowStore(run.rows_path).append("a", [row(1)])
    assert not any(b"s3cr3t" in data for data in contents(tmp_path).values())
