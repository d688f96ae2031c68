"""One HTTP request in OpenAI's form: its route, key and limits, and its errors. Knows nothing of models."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from caa_bench.commands.serve_replies import failure, listed, reply, stream_head, stream_piece, stream_rest
from caa_bench.commands.serve_requests import read_request
from caa_bench.commands.serve_speaker import Leaving
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.serve_http import SteeredServer
    from caa_bench.commands.serve_speaker import Ready

MOST_BYTES = 2**22
READ_S = 30.0
ROUTES = {"/v1/chat/completions": True, "/v1/completions": False}
"""Where requests go, and whether they are conversations."""
logger = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        what: what is wrong and what to do.
        code: OpenAI's word for it; None where there is none.
    """

    def __init__(self, status: int, what: str, *, code: str | None = None) -> None:
        super().__init__(what)
        self.status, self.code = status, code


def _host_of(address: str) -> str:
    """The host of a `Host` header; "" where there is none that can be read."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def is_local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Handler(BaseHTTPRequestHandler):
    """Answers one request of a `SteeredServer`."""

    server: SteeredServer
    timeout = READ_S
    server_version, sys_version = "caa_bench", ""

    def do_GET(self) -> None:
        """The models, or whether it is there at all."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """An answer."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """`_answer` writes the line, without the query, which could hold anything."""

    def _answer(self, work: Callable[[str], None]) -> None:
        started, self._status = time.monotonic(), 0
        path = self.path.partition("?")[0]
        try:
            self._guard(path)
            work(path)
        except Refusal as error:
            self._fail(error.status, str(error), code=error.code)
        except UserError as error:
            missing = error.lines[0].startswith("model: there is no")
            self._fail(404 if missing else 400, error.lines[0], code="model_not_found" if missing else None)
        except Leaving:
            self._fail(503, "the server is being stopped; ask another one")
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:
            logger.exception("%s failed", terminal_safe(path[:80]))
            self._fail(500, "the server failed; its own output says how")
        if self.server.log is not None:
            took = time.monotonic() - started
            self.server.log(f"{self.command} {terminal_safe(path[:80])} {self._status or 'cut off'} {took:.1f} s")

    def _guard(self, path: str) -> None:
        """Key and host. A page in this machine's browser could reach a local server under a name of its own."""
        if self.server.local and not is_local(_host_of(self.headers.get("Host", ""))):
            raise Refusal(403, "this server answers only under its own address, such as 127.0.0.1")
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").encode("latin-1", "replace")
        if self.server.key and path != "/health" and not hmac.compare_digest(given, self.server.key):
            raise Refusal(401, "the key is wrong or missing; send it as a bearer token", code="invalid_api_key")

    def _get(self, path: str) -> None:
        models = listed(self.server.offer.names())
        if path == "/health":
            return self._send({"status": "ok"})
        if path == "/v1/models":
            return self._send({"object": "list", "data": models})
        name = unquote(path.removeprefix("/v1/models/"))
        if path.startswith("/v1/models/"):
            self.server.offer.of_model(name)
            return self._send(listed([name])[0])
        raise Refusal(404, f"there is no such address; use {', '.join(('/v1/models', '/health', *ROUTES))}")

    def _post(self, path: str) -> None:
        if path not in ROUTES:
            raise Refusal(404, f"there is no such address; post to {' or '.join(ROUTES)}")
        asked = read_request(self._body(), self.server.offer, chat=ROUTES[path])
        ready = self.server.speaker.ready(asked)
        if not self.server.room.acquire(blocking=False):
            raise Refusal(
                429, f"{self.server.most_waiting} requests wait already; ask again later", code="rate_limit_exceeded"
            )
        try:
            if asked.stream:
                self._stream(ready)
            else:
                self._send(reply(ready, self.server.speaker.say(ready)))
        finally:
            self.server.room.release()

    def _body(self) -> Any:
        """The request's JSON. No page elsewhere can send this content type without being asked first."""
        if self.headers.get_content_type() != "application/json":
            raise Refusal(415, "send the body as JSON, with Content-Type: application/json")
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise Refusal(411, "say how long the body is, with Content-Length")
        if len(size) > 12 or int(size) > MOST_BYTES:
            raise Refusal(413, f"the body is longer than {MOST_BYTES:,} bytes; send less")
        data = self.rfile.read(int(size))
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is no JSON; send an object with model and messages") from None

    def _stream(self, ready: Ready) -> None:
        """Server-sent events, one a piece of text; the first is sent when the answer begins."""
        head = stream_head(ready)

        def tell(piece: str) -> None:
            self._begin_stream(head)
            self._event(stream_piece(head, piece))

        try:
            spoken = self.server.speaker.say(ready, tell=tell)
        except Leaving:
            if not self._status:
                raise
            self._event(failure("the server is being stopped", status=503))
            return
        self._begin_stream(head)
        for event in stream_rest(head, ready, spoken):
            self._event(event)
        self.wfile.write(b"data: [DONE]\n\n")

    def _begin_stream(self, head: dict[str, Any]) -> None:
        if self._status:
            return
        self._status = 200
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self._event(stream_piece(head, None))

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def _fail(self, status: int, what: str, *, code: str | None = None) -> None:
        if self._status:  # begun already
            self.close_connection = True
            return
        try:
            self._send(failure(what, status=status, code=code), status=status)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _send(self, value: dict[str, Any], *, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self._status = status
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)
