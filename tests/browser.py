"""A headless Chromium driven over its own pipe (Chrome DevTools Protocol): no package, no port, no network."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
_READ, _WRITE = 3, 4  # where Chromium looks for its pipe


def chromium() -> str | None:
    """The browser's path, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab.

    Attributes:
        events: everything that the browser reported, oldest first.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = os.fdopen(to_browser, "wb", buffering=0), os.fdopen(from_browser, "rb", buffering=0)
        self._buffer, self._last, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def start(self) -> Self:
        """Open the tab and listen to everything it does."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def open(
        self, place: Path | str, *, width: int, height: int = 768, scripts: bool = True, media: str = "screen"
    ) -> None:
        """Show a file, or an address, in a window of this size and wait until it is loaded."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Emulation.setEmulatedMedia", media=media)
        self.call("Page.navigate", url=place if isinstance(place, str) else place.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def box(self, selector: str) -> dict[str, float]:
        """Left, top, right and bottom of an element, in pixels of the window."""
        rectangle = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return dict(self.run(f"(({{left,top,right,bottom}}) => ({{left,top,right,bottom}}))({rectangle})"))

    def press(self, key: str, *, code: int) -> None:
        """Press and release a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Errors of scripts and what the page's policy refused."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._in.fileno(), 1 << 16)
            if not data:
                raise AssertionError("the browser ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A tab of a browser that ends with the block.

    Args:
        profile: an empty folder for the browser's own files.
    """
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    # Out of the way of 3 and 4, which dup2 overwrites in the child.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (theirs_in, theirs_out)]

    def wire() -> None:
        os.dup2(high[0], _READ)
        os.dup2(high[1], _WRITE)

    command = [str(chromium()), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, preexec_fn=wire, pass_fds=(_READ, _WRITE), **quiet)
    for fd in (theirs_in, theirs_out, *high):
        os.close(fd)
    try:
        yield Page(ours_out, ours_in).start()
    finally:
        process.terminate()
        process.wait(timeout=30)
