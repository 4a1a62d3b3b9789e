"""A headless Chromium driven over its debugging pipe: what a page shows, logs and asks for."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)

# The browser reads commands from descriptor 3 and writes answers to 4.
_ON_3_AND_4 = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One tab. Commands and events of the DevTools protocol are JSON with a zero byte after each.

    Attributes:
        events: all that the tab has reported, in order.
    """

    def __init__(self, write: int, read: int, timeout: float = 120.0) -> None:
        self.write, self.read, self.timeout = write, read, timeout
        self.events: list[dict[str, Any]] = []
        self._bytes, self._count, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.timeout
        while (answer := self._next(end)).get("id") != self._count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str) -> Self:
        """Opens a page and waits until all of it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        end = time.monotonic() + self.timeout
        while not self.seen("Page.loadEventFired"):
            self.events.append(self._next(end))
        return self

    def seen(self, method: str) -> list[dict[str, Any]]:
        """The events of one kind so far."""
        return [e["params"] for e in self.events if e.get("method") == method]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["text"])
        return found["result"].get("value")

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._bytes:
            ready, _, _ = select([self.read], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.read, 1 << 16) if ready else b""
            if not chunk:
                raise TimeoutError("the browser has closed" if ready else "the browser is silent")
            self._bytes += chunk
        message, _, self._bytes = self._bytes.partition(b"\0")
        return json.loads(message)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile, or a skip that says how to get one."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium: apt-get install chromium (Debian), or Google Chrome")
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for _ in (0, 1) for end in _pipe()]
    read, commands, answers, write = pipes
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_3_AND_4, str(read), str(write), found[0], *FLAGS,
         f"--user-data-dir={profile}"],
        pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read)
    os.close(write)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        process.terminate()
        process.wait(30)


def _pipe() -> Iterator[int]:
    for end in os.pipe():
        yield end
        os.close(end)
