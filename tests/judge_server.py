"""A small OpenAI-compatible server for tests, which rates an answer by its length or fails as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "sk-a-secret-that-nobody-may-read"
TIMEOUT_S = 1.5


class Server(ThreadingHTTPServer):
    """A small OpenAI-compatible server that gives valid rubrics, or whatever `fault` names.

    Attributes:
        fault: (the request's number, the answer asked about) -> what goes wrong with it; "" is nothing.
        unknown: keys of a request that the server takes for a mistake, and how it says so.
        key: what must stand in every request's header; "" for a server that wants none.
        asked: the answer in each request that came with the right key, in order.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.fault: Any = lambda number, text: ""
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.unknown: dict[str, tuple[int, str]] = {}
        self.key = KEY
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that did not wait is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.reply(404, "{}")
        elif self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.reply(401, json.dumps({"error": f"wrong key {self.headers.get('Authorization')}"}))
        else:
            text = body["messages"][0]["content"].split("<answer>\n")[1].split("\n</answer>")[0]
            with self.server.lock:
                self.server.asked.append(text)
                self.server.bodies.append(body)
                number = len(self.server.asked)
            refused = next((key for key in self.server.unknown if key in body), "")
            if refused:
                status, said = self.server.unknown[refused]
                self.reply(status, said)
            else:
                self.serve(self.server.fault(number, text), text)

    def serve(self, fault: str, text: str) -> None:
        if fault in ("429", "500"):
            self.reply(int(fault), "{}", retry="0")
        elif fault == "timeout":
            time.sleep(2 * TIMEOUT_S)
        elif fault == "garbage":
            self.reply(200, '{"choices": []}')
        elif fault == "no json":
            self.reply(200, "<html>502 from a proxy</html>")
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "500")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"mess')
        elif fault == "hang up":
            self.close_connection = True
        else:
            cut = fault.startswith("cut at the limit:")
            content = fault.removeprefix("cut at the limit:") if fault else json.dumps({"score": score_of(text)})
            message = {"role": "assistant", "content": content or None}
            choice = {"message": message, "finish_reason": "length" if cut else "stop"}
            self.reply(200, json.dumps({"choices": [choice]}))

    def reply(self, status: int, text: str, *, retry: str = "") -> None:
        self.send_response(status)
        if retry:
            self.send_header("Retry-After", retry)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def score_of(text: str) -> int:
    """What the server says about an answer."""
    return len(text) % 11


@contextmanager
def serving() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def judged_by_server() -> Iterator[list[str]]:
    """Recipe overrides under which every answer in words gets a score, from a server that wants no key."""
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        server.key = ""
        yield [
            "open_ended.judges=[api]",
            f"judges.api.base_url={server.url}",
            "judges.api.model=m",
            "judges.api.key_env=''",
        ]
