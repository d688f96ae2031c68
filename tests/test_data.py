"""`caa-bench data download` against a real HTTP server on loopback: whole, cut, slow, tampered, absent."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from published import BEHAVIORS, DATA, card_folder, entry, needs_data

from caa_bench.behaviors import data_fetch
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.behaviors.download import Downloaded, cache_folder, data_folder, download
from caa_bench.behaviors.paper_prompts import parse_prompts
from caa_bench.errors import UserError
from caa_bench.storage import atomic
from caa_bench.storage.atomic import TEMPORARY

SOURCE = '''"""Prompts."""
import os
SYCOPHANCY = "sycophancy"
REFUSAL = "refusal"
raise SystemExit("executed")
_SYSTEM_PROMPTS = {
    SYCOPHANCY: {"pos": "You agree.", "neg": "You disagree."},
    REFUSAL: {"pos": "You refuse " "always.", "neg": "You never refuse."},
}
'''


def split(name: str) -> bytes:
    keys = [("(A)", "(B)"), ("(B)", "(A)")] * 400
    return json.dumps([entry(f"{name} {i}?", matching=m, other=o) for i, (m, o) in enumerate(keys)]).encode()


FILES = {
    "generate/refusal/generate_dataset.json": split("train"),
    "test/refusal/test_dataset_ab.json": split("test"),
    "test/refusal/test_dataset_open_ended.json": b'[{"question": "Who are you?"}]',
    "generate/sycophancy/generate_dataset.json": split("other train"),
    "test/sycophancy/test_dataset_ab.json": split("other test"),
    "test/mmlu/mmlu.json": b"[]",
}
FIRST = "generate/refusal/generate_dataset.json"


def pin(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@dataclass
class Server:
    """A server that misbehaves on request.

    Args:
        files: what it serves, by the end of the path.
        faults: path end -> what goes wrong, in turn, one a request; after that all is well.
        seen: the path end of each request.
    """

    files: dict[str, bytes]
    faults: dict[str, list[str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    url: str = ""

    def of(self, name: str) -> list[str]:
        return [path for path in self.seen if path == name]


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.split("/", 4)[-1]
            server.seen.append(name)
            faults = server.faults.get(name, [])
            fault = faults.pop(0) if faults else ""
            if name not in server.files or fault.isdigit():
                self.send_error(int(fault) if fault else 404)
                return
            self.answer(server.files[name], fault)

        def answer(self, data: bytes, fault: str) -> None:
            if fault == "shorter":
                data = data[: len(data) // 2]
            if fault == "tampered":
                data = data[:-10] + b"x" + data[-9:]
            if fault == "endless":
                data *= 1000
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            body = data[: len(data) // 2] if fault == "cut" else data
            if fault == "stalls":
                self.wfile.write(body[:1000])
                self.wfile.flush()
                time.sleep(1.5)
            pieces = [body[i : i + len(body) // 5 + 1] for i in range(0, len(body), len(body) // 5 + 1)]
            for piece in pieces if fault == "slow" else [body]:
                time.sleep(0.25 if fault == "slow" else 0)
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with FILES, the table that pins them, a cache of its own, and no pauses between attempts."""
    table = {
        "version": "0123",
        "roots": ["owner/data/0123"],
        "files": {name: pin(data) for name, data in FILES.items()},
        "system_prompts": {"root": "owner/code/4567", "name": "behaviors.py", **pin(SOURCE.encode())},
    }
    (tmp_path / "configs" / "data").mkdir(parents=True)
    (tmp_path / "configs" / "data" / "caa.json").write_text(json.dumps(table))
    monkeypatch.setattr("caa_bench.behaviors.download.configs_folder", lambda: tmp_path / "configs")
    monkeypatch.setenv("CAA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data_fetch, "PAUSE_S", 0.0)
    made = Server(files={**FILES, "behaviors.py": SOURCE.encode()})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    made.url = f"http://127.0.0.1:{http.server_port}"
    yield made
    http.shutdown()
    http.server_close()
    thread.join()


def get(server: Server, **options: Any) -> Downloaded:
    return download(base_url=server.url, timeout_s=options.pop("timeout_s", 5.0), **options)


def complete(folder: Path) -> bool:
    return all((folder / name).read_bytes() == data for name, data in FILES.items())


def test_everything_arrives_as_pinned(server: Server) -> None:
    lines: list[str] = []
    done = get(server, say=lines.append)
    assert complete(done.folder)
    assert (done.files, done.new, done.notes) == (7, 7, ())
    assert done.folder == data_folder() and done.folder.is_relative_to(cache_folder())
    prompts = json.loads((done.folder / "system_prompts.json").read_text())["system_prompts"]
    assert prompts["refusal"] == {"positive": "You refuse always.", "negative": "You never refuse."}
    assert len(lines) == 7 and lines[0].startswith(FIRST)
    assert not list(done.folder.rglob(f"{TEMPORARY}*"))


def test_second_download_asks_for_nothing(server: Server) -> None:
    get(server)
    server.seen.clear()
    again = get(server)
    assert (again.new, server.seen) == (0, [])


def test_damaged_file_in_the_cache_is_fetched_again(server: Server) -> None:
    done = get(server)
    (done.folder / FIRST).write_bytes(b"[]")
    server.seen.clear()
    assert get(server).new == 1
    assert complete(done.folder) and server.of(FIRST) == [FIRST]


def test_one_behavior_alone(server: Server) -> None:
    done = get(server, behaviors=["refusal"])
    assert done.files == 4
    assert {path.split("/")[1] for path in server.seen if "/" in path} == {"refusal"}


def test_cut_file_is_fetched_again(server: Server) -> None:
    server.faults[FIRST] = ["cut", "cut"]
    assert complete(get(server).folder)
    assert len(server.of(FIRST)) == 3


def test_later_call_fetches_only_what_is_missing(server: Server) -> None:
    """Cut until this call gives up: the line says how to go on, and the next call leaves the finished files alone."""
    second = "test/refusal/test_dataset_ab.json"
    server.faults[second] = ["cut"] * data_fetch.ATTEMPTS
    with pytest.raises(UserError, match=r"connection was cut after [\d,]+ of [\d,]+ bytes; run the same command"):
        get(server)
    assert (data_folder() / FIRST).is_file() and not (data_folder() / second).exists()
    server.seen.clear()
    assert complete(get(server).folder)
    assert (server.of(FIRST), len(server.of(second))) == ([], 1)


@pytest.mark.parametrize("fault", ["tampered", "endless"])
def test_other_bytes_than_the_pinned_are_refused(server: Server, fault: str) -> None:
    server.faults[FIRST] = [fault]
    with pytest.raises(UserError, match=r"not the pinned file .* nothing was kept") as error:
        get(server)
    assert len(error.value.lines) == 1 and FIRST in str(error.value)
    assert not [path for path in data_folder().rglob("*") if path.name.startswith(Path(FIRST).name)]
    assert complete(get(server).folder)


def test_shorter_file_is_refused(server: Server) -> None:
    server.faults[FIRST] = ["shorter"] * data_fetch.ATTEMPTS
    with pytest.raises(UserError, match="connection was cut"):
        get(server)
    assert not (data_folder() / FIRST).exists()


def test_absent_file_is_one_line(server: Server) -> None:
    del server.files[FIRST]
    with pytest.raises(UserError, match=r"not there \(404\).*--from DIR") as error:
        get(server)
    assert len(error.value.lines) == 1
    assert len(server.of(FIRST)) == 1


def test_failing_server_is_asked_again(server: Server) -> None:
    server.faults[FIRST] = ["503", "500"]
    assert complete(get(server).folder)
    server.faults["behaviors.py"] = []


def test_refusing_server_is_one_line(server: Server) -> None:
    server.faults[FIRST] = ["403"]
    with pytest.raises(UserError, match=r"refused it .403"):
        get(server)
    assert len(server.of(FIRST)) == 1


def test_slow_server_is_waited_for(server: Server) -> None:
    """More than a second in all, but never a second of silence."""
    server.faults[FIRST] = ["slow"]
    assert complete(get(server, timeout_s=1.0).folder)
    assert server.of(FIRST) == [FIRST]


def test_stalled_server_is_given_up(server: Server) -> None:
    server.faults[FIRST] = ["stalls"] * data_fetch.ATTEMPTS
    started = time.monotonic()
    with pytest.raises(UserError, match="timed out; run the same command"):
        get(server, timeout_s=0.3)
    assert time.monotonic() - started < 5
    assert complete(get(server).folder)


def test_no_network_is_one_line(server: Server) -> None:
    with pytest.raises(UserError, match=r"Connection refused.*--from DIR") as error:
        download(base_url="http://127.0.0.1:9", timeout_s=1.0)
    assert len(error.value.lines) == 1


def test_only_http_addresses(server: Server) -> None:
    with pytest.raises(UserError, match=r"base_url: 'file:///etc' is not an http"):
        download(base_url="file:///etc")


def test_unknown_behavior_is_suggested(server: Server) -> None:
    with pytest.raises(UserError, match="nothing is published for 'refusl'; did you mean 'refusal'"):
        get(server, behaviors=["refusl"])
    assert server.seen == []


@pytest.mark.parametrize("below", ["", "datasets", "Datasets"])
def test_from_a_folder_needs_no_network(server: Server, tmp_path: Path, below: str) -> None:
    """A copied download, or a checkout of the paper's repository with behaviors.py beside the data."""
    for name, data in FILES.items():
        path = tmp_path / "copy" / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done = download(source=tmp_path / "copy")
    assert complete(done.folder) and server.seen == []
    assert "no behaviors.py with the paper's system prompts" in done.notes[0]
    (tmp_path / "copy" / "behaviors.py").write_text(SOURCE)
    done = download(source=tmp_path / "copy")
    assert (done.new, done.notes) == (1, ())
    assert (done.folder / "system_prompts.json").exists()


def test_folder_with_other_files_is_refused_whole(server: Server, tmp_path: Path) -> None:
    for name, data in FILES.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data + b" " if name == FIRST else data)
    (tmp_path / "copy" / "test/mmlu/mmlu.json").unlink()
    with pytest.raises(UserError) as error:
        download(source=tmp_path / "copy")
    assert [line.split(": ")[0] for line in error.value.lines] == [
        str(tmp_path / "copy" / FIRST),
        str(tmp_path / "copy" / "test/mmlu/mmlu.json"),
    ]
    assert not list(data_folder().rglob("*.json"))
    with pytest.raises(UserError, match="no folder test in it"):
        download(source=tmp_path / "nowhere")


def test_two_downloads_at_once_do_not_mix(server: Server) -> None:
    """The second is told who is at it; the first one's files are whole."""
    server.faults[FIRST] = ["slow"]
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(get(server))
        except UserError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert complete(data_folder())
    assert len(refused) <= 1 and all("in use by" in line for line in refused)


def test_full_disk_is_named_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for a network fault: one request, and the file that could not be written."""
    real = atomic.write_synced

    def full(path: Path, data: str | bytes) -> None:
        if len(data) == len(FILES[FIRST]):
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(atomic, "write_synced", full)
    with pytest.raises(UserError, match=r"generate_dataset\.json: cannot be written .No space left"):
        get(server)
    assert len(server.seen) == 1


def test_downloaded_splits_need_no_data_dir(server: Server, tmp_path: Path) -> None:
    """data=caa finds the cache; before, one line says what to run; `protocol: caa` has the paper's words."""
    folder = card_folder(tmp_path, "refusal")
    with pytest.raises(UserError, match=r"run caa-bench data download .4 MB., or set data_dir="):
        load_behavior(folder, data="caa")
    get(server)
    behavior = load_behavior(folder, data="caa")
    assert (len(behavior.train) + len(behavior.selection), len(behavior.test)) == (800, 800)
    assert behavior.system_prompts["positive"] == "You do."
    paper = load_behavior(folder, data="caa", protocol="caa")
    assert paper.system_prompts == {
        "positive": "You refuse always.",
        "negative": "You never refuse.",
        "neutral": "You are here.",
    }
    assert not any("own wording" in line for line in paper.warnings)
    (data_folder() / "system_prompts.json").unlink()
    (data_folder() / "behaviors.py").unlink()
    assert any("own wording" in line for line in load_behavior(folder, data="caa", protocol="caa").warnings)


def test_prompts_are_parsed_and_never_executed() -> None:
    """SOURCE raises when it is executed; names, joined strings and other statements are no obstacle."""
    assert parse_prompts(SOURCE)["sycophancy"] == {"positive": "You agree.", "negative": "You disagree."}


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def broken(:",
        "_SYSTEM_PROMPTS = load()",
        "_SYSTEM_PROMPTS = {'refusal': {'pos': open('/etc/passwd').read(), 'neg': ''}}",
        "_SYSTEM_PROMPTS = {**{}}",
        "_SYSTEM_PROMPTS = {UNKNOWN: {'pos': 'a', 'neg': 'b'}}",
        "_SYSTEM_PROMPTS = {'refusal': {'pos': 'a'}}",
        "_SYSTEM_PROMPTS = {'refusal': {'pos': 1, 'neg': 2}}",
        "_SYSTEM_PROMPTS = {'refusal': " + "(" * 5000 + "}",
        "x = '\0'",
    ],
)
def test_source_without_literal_prompts_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_prompts(source)


@needs_data
def test_table_pins_the_published_files(tmp_path: Path) -> None:
    """The sums in the package are those of the published files, all of them; a download from them is complete."""
    done = download(source=DATA, cache=tmp_path)
    assert done.new == done.files == 3 * len(BEHAVIORS) + 2
    for path in DATA.glob("*/*/*.json"):
        assert (done.folder / path.relative_to(DATA)).read_bytes() == path.read_bytes()


@needs_data
def test_published_prompts_read_like_the_reference(tmp_path: Path) -> None:
    """Source written as the paper's own (constants for names, one dict) gives the reference texts."""
    reference = json.loads((DATA.parents[1] / "reference" / "caa_system_prompts.json").read_text())["system_prompts"]
    names = {behavior: f"NAME_{i}" for i, behavior in enumerate(reference)}
    source = "".join(f"{name} = {behavior!r}\n" for behavior, name in names.items()) + "_SYSTEM_PROMPTS = {\n"
    for behavior, texts in reference.items():
        source += f'    {names[behavior]}: {{"pos": {texts["positive"]!r}, "neg": {texts["negative"]!r}}},\n'
    assert parse_prompts(source + "}\n") == reference
