"""Files and artifacts: whole or absent, what was saved, inside their folder, and harmless to whoever reads them."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from caa_bench.errors import UserError
from caa_bench.storage.artifact_folder import read_artifact, write_artifact
from caa_bench.storage.atomic import TEMPORARY, remove_temporary
from caa_bench.storage.files import (
    content_key,
    csv_cell,
    folder_fingerprint,
    inside,
    lock_folder,
    read_json,
    safe_name,
    sha256_file,
    terminal_safe,
    to_json,
    write_atomic,
    write_json,
)


def in_child(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with its arguments in `argv`."""
    command = [sys.executable, "-c", f"import sys; argv = sys.argv[1:]\n{code}", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(action: Callable[[], object]) -> str:
    """The one line of a refusal."""
    with pytest.raises(UserError) as caught:
        action()
    assert len(caught.value.lines) == 1
    assert "; " in caught.value.lines[0]
    return caught.value.lines[0]


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


WRITE_ON_A_FULL_DISK = """
import resource
from pathlib import Path
from caa_bench.storage.atomic import write_atomic, whole_folder, write_synced
from caa_bench.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the system refuses every byte beyond, as a full disk does
target = Path(argv[0])
try:
    if target.is_dir():
        with whole_folder(target) as staged:
            write_synced(staged / "new", "x" * 10_000)
    else:
        write_atomic(target, "x" * 10_000)
except UserError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "results.csv"
    target.write_text("old")
    done = in_child(WRITE_ON_A_FULL_DISK, target)
    assert done.stdout == f"{target}: cannot be written (File too large); free space or choose another folder\n"
    assert target.read_text() == "old"
    assert names(tmp_path) == ["results.csv"]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "vector"
    target.mkdir()
    (target / "old").write_text("old")
    done = in_child(WRITE_ON_A_FULL_DISK, target)
    assert done.stdout == f"{target}: cannot be written (File too large); free space or choose another folder\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["vector", "old"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_no_permission_names_the_file_and_leaves_it(open_folder: Path) -> None:
    target = open_folder / "results.csv"
    target.write_text("old")
    open_folder.chmod(0o555)
    code = """
import os
from pathlib import Path
from caa_bench.storage.atomic import write_atomic
from caa_bench.errors import UserError
if os.geteuid() == 0:  # permissions do not hold for root
    os.setegid(65534); os.seteuid(65534)
try:
    write_atomic(Path(argv[0]), "new")
except UserError as error:
    print(error)
"""
    done = in_child(code, target)
    open_folder.chmod(0o755)
    assert done.stdout == f"{target}: cannot be written (Permission denied); free space or choose another folder\n"
    assert target.read_text() == "old"
    assert names(open_folder) == ["results.csv"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
def test_an_error_before_the_rename_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def stop(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises((KeyboardInterrupt, RuntimeError, UserError)):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert refused(lambda: write_atomic(tmp_path / "a", "x")).startswith(f"{tmp_path / 'a'}: cannot be written (")
    assert refused(lambda: write_atomic(tmp_path / "no" / "a", "x")).startswith(f"{tmp_path / 'no' / 'a'}: cannot")
    assert names(tmp_path) == ["a"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "é")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert (tmp_path / "a").read_bytes() == "é".encode()


REWRITE_FOREVER = """
from pathlib import Path
from caa_bench.storage.atomic import write_atomic
for i in range(10**9):
    write_atomic(Path(argv[0]) / "a", str(i % 10) * 100_000)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """SIGKILL at random moments; what is left over beside the file goes with `remove_temporary`."""
    r = random.Random(0)
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", f"import sys; argv = sys.argv[1:]\n{REWRITE_FOREVER}", tmp_path]
        )
        wait_for(lambda: (tmp_path / "a").exists())
        time.sleep(r.random() * 0.05)
        child.kill()
        child.wait()
        text = (tmp_path / "a").read_text()
        assert len(text) == 100_000
        assert set(text) == {text[0]}
        (tmp_path / "a").unlink()
    (tmp_path / "deep" / f"{TEMPORARY}folder").mkdir(parents=True)
    (tmp_path / "deep" / f"{TEMPORARY}file").write_text("")
    remove_temporary(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


VECTORS = {"vectors": torch.arange(12.0).reshape(3, 4), "means": torch.ones(2, dtype=torch.bfloat16)}


def saved(folder: Path) -> Path:
    """An artifact with tensors of its own and an adapter that peft might have written."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"lora_A": torch.ones(2, 3)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 8}')
    write_artifact(folder, tensors=VECTORS, meta={"settings": {"layers": [1, 2], "name": "caa"}})
    return folder


def test_an_artifact_is_what_was_saved(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    artifact = read_artifact(folder, expect={"vectors": (3, None), "settings": {"layers": [1, 2], "name": "caa"}})
    assert artifact.tensors.keys() == VECTORS.keys()
    for name, tensor in VECTORS.items():
        assert torch.equal(artifact.tensors[name], tensor)
        assert artifact.tensors[name].dtype == tensor.dtype
    described = json.loads((folder / "artifact.json").read_text())
    assert described["files"]["adapter_config.json"] == sha256_file(folder / "adapter_config.json")
    assert described["files"].keys() == {"adapter_config.json", "adapter_model.safetensors", "tensors.safetensors"}
    assert described["tensors"]["vectors"] == {"shape": [3, 4], "dtype": "torch.float32"}
    assert names(tmp_path) == ["a"]


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    assert folder_fingerprint(saved(tmp_path / "a")) == (first := folder_fingerprint(saved(tmp_path / "b")))
    write_artifact(tmp_path / "a", tensors=VECTORS, meta={"settings": {"layers": [1, 2], "name": "caa"}})
    assert folder_fingerprint(tmp_path / "a") == first


def test_an_artifact_may_have_no_tensors(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", tensors=None, meta={"k": None})
    assert read_artifact(tmp_path / "a", expect=None).tensors == {}
    assert read_artifact(tmp_path / "a", expect={"k": None}).meta == {"k": None}


def test_every_bit_flip_is_refused_by_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    r = random.Random(0)
    files = ["tensors.safetensors", "artifact.json", "adapter_model.safetensors", "adapter_config.json"]
    for _ in range(300):
        path = folder / r.choice(files)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[r.randrange(len(whole))] ^= 1 << r.randrange(8)
        path.write_bytes(damaged)
        assert refused(lambda: read_artifact(folder, expect=None)).startswith((f"{path}:", str(folder)))
        path.write_bytes(whole)
    read_artifact(folder, expect=None)


def test_every_truncation_is_refused_by_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for length in {0, 1, 7, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:length])
            assert refused(lambda: read_artifact(folder, expect=None)).startswith(f"{path}:")
        path.unlink()
        assert refused(lambda: read_artifact(folder, expect=None)).startswith(f"{path}: missing; ")
        path.write_bytes(whole)


def test_files_of_another_artifact_are_refused(tmp_path: Path) -> None:
    folder, other = saved(tmp_path / "a"), tmp_path / "b"
    write_artifact(other, tensors={"vectors": torch.zeros(3, 4)}, meta={})
    shutil.copy(other / "tensors.safetensors", folder)
    line = refused(lambda: read_artifact(folder, expect=None))
    assert line == (
        f"{folder / 'tensors.safetensors'}: not what was saved (its checksum differs); "
        f"delete the folder {folder} and fit again"
    )


def test_an_unexpected_shape_or_meta_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")

    def line(**expect: object) -> str:
        return refused(lambda: read_artifact(folder, expect=expect)).partition("; ")[0].removeprefix(f"{folder}/")

    assert line(vectors=(3, 5)) == "tensors.safetensors: tensor 'vectors' has shape [3, 4], expected [3, 5]"
    assert line(vectors=(2, None)) == "tensors.safetensors: tensor 'vectors' has shape [3, 4], expected [2, None]"
    assert line(vectors=(3, 4, 1)) == "tensors.safetensors: tensor 'vectors' has shape [3, 4], expected [3, 4, 1]"
    assert line(other=(1,)) == "tensors.safetensors: no tensor 'other'"
    assert line(behavior="refusal") == "artifact.json: behavior is None, expected 'refusal'"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    from safetensors.torch import save_file

    folder = saved(tmp_path / "a")
    before = folder_fingerprint(folder)
    problem = "holds NaN or infinity"
    tensors = {"vectors": torch.tensor([1.0, value])}
    line = refused(lambda: write_artifact(folder, tensors=tensors, meta={}))
    assert line.startswith(
        f"{folder / 'tensors.safetensors'}: tensor 'vectors' {problem}; nothing is kept, and another fit"
    )
    assert "fit again" not in line
    assert folder_fingerprint(folder) == before
    assert names(tmp_path) == ["a"]
    # One that another program wrote, checksum and all.
    save_file(tensors, folder / "tensors.safetensors")
    forged = json.loads((folder / "artifact.json").read_text())
    forged["files"]["tensors.safetensors"] = sha256_file(folder / "tensors.safetensors")
    forge(folder, forged)
    assert problem in refused(lambda: read_artifact(folder, expect=None))


def forge(folder: Path, manifest: dict[str, object]) -> None:
    """An artifact.json whose own checksum is right."""
    plain = {key: value for key, value in manifest.items() if key != "sha256"}
    (folder / "artifact.json").write_text(to_json(plain | {"sha256": content_key(plain)}, indent=2) + "\n")


def test_another_schema_and_another_json_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    manifest = json.loads((folder / "artifact.json").read_text())
    forge(folder, manifest | {"schema": 99})
    assert "artifact.json: schema 99, this version reads 1; " in refused(lambda: read_artifact(folder, expect=None))
    for text in ("[]", "{}", "null", "NaN", '{"files": 3}', "[" * 100_000, '{"a": 1e999999}', "\xff"):
        (folder / "artifact.json").write_text(text, encoding="latin-1")
        assert "artifact.json" in refused(lambda: read_artifact(folder, expect=None))
    assert str(tmp_path / "none") in refused(lambda: read_artifact(tmp_path / "none", expect=None))


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["vectors.pt", "adapter_model.bin", "deep/optimizer.PKL"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "a")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "pwned")))
    for action in (
        lambda: read_artifact(folder, expect=None),
        lambda: write_artifact(folder, tensors=None, meta={}),
    ):
        assert refused(action) == f"{folder / name}: a pickle, which can run code; only safetensors are read"
    # The same bytes under a name that is read are no tensors.
    (folder / name).rename(folder / "tensors.safetensors")
    assert refused(lambda: read_artifact(folder, expect=None)).startswith(str(folder / "tensors.safetensors"))
    assert not (tmp_path / "pwned").exists()


def test_a_link_out_of_an_artifact_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    (folder / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    (folder / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    for action in (
        lambda: read_artifact(folder, expect=None),
        lambda: write_artifact(folder, tensors=None, meta={}),
    ):
        assert refused(action).startswith(f"{folder / 'adapter_config.json'}: a link or a special file; ")


def test_an_interrupted_save_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step that touches the disk: an error there leaves the artifact as it was, and no other file."""
    folder = saved(tmp_path / "a")
    before = folder_fingerprint(folder)
    steps = {"fsync": os.fsync, "rename": os.rename}
    for name, real in steps.items():
        for fail_at in range(1, 3):
            calls = 0

            def step(*args: object, real: Callable[..., object] = real, fail_at: int = fail_at) -> object:
                nonlocal calls
                calls += 1
                if calls == fail_at:
                    raise OSError(28, "No space left on device")
                return real(*args)

            with monkeypatch.context() as patched:
                patched.setattr(os, name, step)
                line = refused(lambda: write_artifact(folder, tensors={"v": torch.zeros(1)}, meta={}))
            assert line.startswith(f"{folder}: cannot be written (No space left on device); ")
            assert folder_fingerprint(folder) == before, (name, fail_at)
            assert names(tmp_path) == ["a"]


SAVE_FOREVER = """
import torch
from pathlib import Path
from caa_bench.storage.artifact_folder import write_artifact
for i in range(10**9):
    write_artifact(Path(argv[0]) / "a", tensors={"v": torch.full((1000,), float(i))}, meta={"i": i})
    print(i, flush=True)
"""


def test_a_killed_save_leaves_a_whole_artifact_or_none(tmp_path: Path) -> None:
    r = random.Random(0)
    for _ in range(2):
        command = [sys.executable, "-c", f"import sys; argv = sys.argv[1:]\n{SAVE_FOREVER}", tmp_path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(r.random() * 0.1)
            child.kill()
        if (tmp_path / "a").exists():
            artifact = read_artifact(tmp_path / "a", expect={"v": (1000,)})
            assert artifact.tensors["v"][0] == artifact.meta["i"]
        remove_temporary(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"a"}


BAD_NAMES = ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a\0", "x" * 300, ".hidden", "-rf", "a b", "a\n", "é"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    for action in (lambda: safe_name(name), lambda: inside(tmp_path, name)):
        line = refused(action)
        assert line.startswith("name ")
        assert terminal_safe(line) == line


def test_a_safe_name_is_itself(tmp_path: Path) -> None:
    for name in ("refusal", "corrigible-neutral-HHH", "compare_1.5,+2=a@b", "x" * 120):
        assert safe_name(name) == name
        assert inside(tmp_path, name) == tmp_path / name


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for target in (tmp_path, tmp_path / "not-there", Path("/etc")):
        link = tmp_path / "runs" / "link"
        link.symlink_to(target)
        line = refused(lambda: inside(tmp_path / "runs", "link"))
        assert line == f"{tmp_path}/runs/link: leads outside of {tmp_path}/runs; remove the link"
        link.unlink()
    (tmp_path / "here").symlink_to(tmp_path / "runs")
    assert inside(tmp_path / "here", "a") == tmp_path / "here" / "a"


HOLD = """
from pathlib import Path
from caa_bench.storage.files import lock_folder
with lock_folder(Path(argv[0])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_holder_of_a_folder_is_named_and_its_death_frees_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"import sys; argv = sys.argv[1:]\n{HOLD}", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        line = refused(lambda: lock_folder(tmp_path).__enter__())
        assert line.startswith(f"{tmp_path}: in use by process {child.pid} on {os.uname().nodename} since 2")
        assert line.endswith("; wait for it, or stop it")
        child.send_signal(signal.SIGKILL)
    with lock_folder(tmp_path):
        assert f"in use by process {os.getpid()} on " in refused(lambda: lock_folder(tmp_path).__enter__())
    with lock_folder(tmp_path):
        pass
    assert names(tmp_path) == [".lock"]


def test_content_keys_are_of_values_not_of_their_order() -> None:
    assert content_key({"a": 1, "b": [1.0, None]}) == content_key({"b": [1.0, None], "a": 1})
    assert len({content_key(value) for value in (1, 1.0, "1", True, [1], None, {"1": 1})}) == 7
    for value in (math.nan, math.inf, [{"a": -math.inf}]):
        with pytest.raises(ValueError, match="not JSON compliant"):
            content_key(value)


def test_json_has_null_and_never_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [math.nan, math.inf, 0.1, (1, -math.inf)], "y": None})
    assert read_json(tmp_path / "a.json") == {"x": [None, None, 0.1, [1, None]], "y": None}
    (tmp_path / "b.json").write_text('{"a": 1,\n "b": }\n')
    assert refused(lambda: read_json(tmp_path / "b.json")).startswith(f"{tmp_path}/b.json:2: not valid JSON (")
    (tmp_path / "b.json").write_text('{"a": NaN}')
    assert refused(lambda: read_json(tmp_path / "b.json")).startswith(f"{tmp_path}/b.json:1: not valid JSON")


HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07x",
    "\x1bP1\x1b\\x",
    "\x9b31m",
    "a\rb",
    "a\nb\u2028c",
    "\u202egnp.exe",
]


@pytest.mark.parametrize(
    "text", [*HOSTILE, "\u202egnp.exe", "\x1b]0;never closed", "\x1b", "\x1b[", "\ud800", "\x1b[" * 100_000]
)
def test_text_cannot_steer_a_terminal(text: str) -> None:
    safe = terminal_safe(text)
    assert safe == terminal_safe(safe)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u202e\ud800" for c in safe)


def test_terminal_safe_keeps_what_is_text() -> None:
    assert terminal_safe("a\tb\nc é 漢 😀 \x1b[1mbold\x1b[0m [31m") == "a b c é 漢 😀 bold [31m"
    started = time.process_time()
    terminal_safe("\x1b]" * 500_000 + "x" * 500_000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "text", ["=cmd()", "+1+1", "-1+cmd|'/C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1"]
)
def test_a_csv_cell_is_never_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


def test_a_csv_cell_is_otherwise_itself() -> None:
    for value in ("refusal", "1-2", "", -1.5, 3, None, "a=b"):
        assert csv_cell(value) is value


def test_a_fingerprint_follows_every_file_but_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.json").write_text("1")
    (tmp_path / "a").write_text("2")
    first = folder_fingerprint(tmp_path)
    (tmp_path / ".lock").write_text("")
    assert folder_fingerprint(tmp_path) == first
    assert list(first) == ["a", "deep/b.json"]
    (tmp_path / "deep" / "b.json").write_text("2")
    assert folder_fingerprint(tmp_path) != first
