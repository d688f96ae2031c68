"""A server on loopback that speaks as much of wandb's GraphQL as a saved workspace needs, and remembers all of it."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"
GONE = "3-1-unix-/nowhere/socket"
"""The `WANDB_SERVICE` that a command inherits from a process which used wandb too, and has ended."""


@dataclass(kw_only=True)
class WandbServer:
    """What it answers and what it was asked.

    Args:
        url: its address.
        entity: the default entity of the login; None: none.
        failing: operation ("Viewer", "UpsertView2") -> the HTTP status that it gets; 0: the connection is closed.
        asked: (operation, variables, the Authorization header), oldest first.
        views: name -> the saved workspace's spec.
    """

    url: str = ""
    entity: str | None = "ann"
    projects: tuple[str, ...] = ("p",)
    failing: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    inserted: list[bool] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Of a user who is logged in here; a client that has to ask again gives up soon."""
        limit_s = "2" if self.failing else "30"
        login = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "", "WANDB_HTTP_TIMEOUT": limit_s}
        return login | {"WANDB_SERVICE": GONE}

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of an operation."""
        if operation == "UpsertView2":
            return {"upsertView": self._upsert(variables)}
        if operation == "View":
            found = variables["viewName"] in self.views
            nodes = [{"node": {"id": "view-1", "displayName": "", "spec": "{}"}}] if found else []
            return {"project": {"allViews": {"edges": nodes}} if variables["name"] in self.projects else None}
        viewer = {
            "id": "1",
            "entity": self.entity,
            "username": "ann",
            "email": "",
            "flags": "{}",
            "teams": {"edges": []},
        }
        return {"viewer": viewer}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.inserted.append("id" not in variables)
        self.views[variables["name"]] = json.loads(variables["spec"])
        return {"view": {"id": "view-1", "name": variables["name"]}, "inserted": self.inserted[-1]}


@contextmanager
def wandb_server(made: WandbServer | None = None) -> Iterator[WandbServer]:
    """Serve for the time of the block."""
    state = made or WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/graphql":  # its telemetry
                self._reply(404, {})
                return
            asked = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            operation = asked["query"].split("(")[0].split("{")[0].split()[-1]
            variables = asked.get("variables") or {}
            state.asked.append((operation, variables, self.headers.get("Authorization", "")))
            status = state.failing.get(operation, 200)
            if not status:
                self.close_connection = True
                self.connection.close()
            elif status == 200:
                self._reply(200, {"data": state.answer(operation, variables)})
            else:
                self._reply(status, {"errors": [{"message": "no\nway"}]})

        def do_GET(self) -> None:
            self._reply(404, {})

        def _reply(self, status: int, what: dict[str, Any]) -> None:
            body = json.dumps(what).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
