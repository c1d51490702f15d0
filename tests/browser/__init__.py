# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium, driven through its debugging pipe, and axe-core to judge pages with.

Chromium is the system's, or Debian's package; axe-core comes from npm into the cache, as its lock file pins it.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from tests.cluster.tools import cache, install

HERE = pathlib.Path(__file__).parent
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LIMIT = 60.0  # Seconds that one command may take.
# A Chromium with a debugging pipe reads commands from the file descriptor 3, and writes to 4.
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
DESKTOP, NARROW = (1280, 900), (390, 844)


class BrowserError(Exception):
    """The browser can't be had, or did not do what it was told."""


def chromium() -> str:
    """The path of a Chromium, installed if there is none."""
    if not any(map(shutil.which, PROGRAMS)):
        install(["chromium"], "the tests of the HTML report need a browser")
    return next(path for path in map(shutil.which, PROGRAMS) if path)


def prepare() -> None:
    """Install both where they are missing: within a cluster's network there is no way out to fetch them."""
    chromium()
    axe()


def axe() -> str:
    """The source of axe-core."""
    found = _axe()
    if isinstance(found, BrowserError):
        raise found
    return found


@functools.cache
def _axe() -> str | BrowserError:
    """The same, or why it can't be had; asked for once, since npm tries for more than a minute."""
    lock = HERE / "package-lock.json"
    target = cache() / f"browser-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(HERE / name, temporary)
                command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
                done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
                if done.returncode:
                    return BrowserError(f"npm could not install axe-core: {done.stderr.strip()[-500:]}")
                pathlib.Path(temporary, "node_modules").rename(target)
    return (target / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


class Page:
    """One page. Commands and events are those of the Chrome DevTools Protocol."""

    def __init__(self, reading: int, writing: BinaryIO) -> None:
        self._reading, self._writing = reading, writing
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._writing.write(json.dumps(message).encode() + b"\0")
        self._writing.flush()
        while True:
            told = self._receive(method)
            if told.get("id") == self._number:
                if "error" in told:
                    raise BrowserError(f"{method}: {told['error']['message']}")
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def _receive(self, waiting_for: str) -> dict[str, Any]:
        end = time.monotonic() + LIMIT
        while b"\0" not in self._rest:
            if not select.select([self._reading], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserError(f"{waiting_for}: no answer within {LIMIT:.0f} s")
            more = os.read(self._reading, 1 << 20)
            if not more:
                raise BrowserError(f"{waiting_for}: the browser has ended")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        return told

    def size(self, width: int, height: int) -> None:
        """The size of the window, in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """What the user prefers: light or dark."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def load(self, path: pathlib.Path) -> None:
        """Open a file, and wait until it is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive("Page.loadEventFired"))

    def open(self, path: pathlib.Path) -> float:
        """Open a file, and return the milliseconds until it was loaded and painted."""
        self.load(path)
        painted = "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
        return float(self.evaluate(painted))

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        told = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise BrowserError(str(told["exceptionDetails"].get("exception", {}).get("description")))
        return told["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key; ``code`` is its virtual key code, ``text`` what it types."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def axe(self) -> list[str]:
        """What axe-core finds wrong: a line for each rule that is broken."""
        self.evaluate(f"{axe()};0")
        found = self.evaluate("axe.run().then(r => r.violations)")
        return [f"{each['id']}: {each['help']}: {[node['html'][:120] for node in each['nodes'][:3]]}" for each in found]

    def screenshot(self, path: pathlib.Path) -> None:
        """A PNG of what the window shows."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What the browser wrote to its console since the page was opened."""
        told = [event["params"] for event in self.events if event.get("method") == "Log.entryAdded"]
        thrown = [event["params"] for event in self.events if event.get("method") == "Runtime.exceptionThrown"]
        return [entry["entry"]["text"] for entry in told] + [str(each["exceptionDetails"]) for each in thrown]


@contextmanager
def browse() -> Iterator[Page]:
    """A page of a browser of its own, which is gone afterwards."""
    told_read, told_write = os.pipe()
    asked_read, asked_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="image-puller-browser-", ignore_cleanup_errors=True) as profile:
        command = [chromium(), "--headless", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        command += ["--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"]
        with subprocess.Popen(
            [sys.executable, "-c", START, str(asked_read), str(told_write), *command, f"--user-data-dir={profile}"],
            pass_fds=(asked_read, told_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            os.close(asked_read)
            os.close(told_write)
            try:
                with os.fdopen(asked_write, "wb") as writing:
                    page = Page(told_read, writing)
                    page.size(*DESKTOP)
                    yield page
            finally:
                os.close(told_read)
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
