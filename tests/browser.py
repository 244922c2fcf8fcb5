"""A real browser for tests: Chromium without a window, told what to do through a pipe.

The protocol is the DevTools one, a JSON object and a NUL each way; no driver and no package is needed
for that. `visit` looks at one page; where there is no Chromium, `CHROMIUM` is None.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_SECONDS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
FLAGS = (
    *("--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # it refuses to run as root otherwise
)
LOADED = """new Promise(done =>
  document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"""
LAUNCH = """if True:  # it reads descriptor 3 and writes 4
    import fcntl, os, sys
    for target, number in enumerate([fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]], 3):
        os.dup2(number, target)
    os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass
class Page:
    """What came of looking at one."""

    browser: "Browser"
    session: str
    errors: list[str] = field(default_factory=list)
    asked_for: list[str] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to, as JSON."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self.browser.call("Runtime.evaluate", asked, self)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def hear(self, event: dict[str, Any]) -> None:
        said = event.get("params", {})
        match event["method"]:
            case "Network.requestWillBeSent":
                self.asked_for.append(said["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if said["type"] in {"error", "warning", "assert"}:
                self.errors.append(str(said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] in {"error", "warning"}:
                self.errors.append(said["entry"]["text"])


class Browser:
    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._rest = 0, b""

    def call(
        self, method: str, params: dict[str, Any] | None = None, page: Page | None = None
    ) -> dict[str, Any]:
        """One command; events that come before its answer are the page's."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params or {}}
        if page is not None:
            asked["sessionId"] = page.session
        os.write(self._commands, json.dumps(asked).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._number:
                assert "error" not in said, said
                return dict(said["result"])
            if page is not None and "method" in said:
                page.hear(said)

    def visit(self, path: Path, *, dark: bool = False, width: int = 1100) -> Page:
        """A page that is loaded, of a file."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", page=page)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [scheme]}, page)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size, page)
        self.call("Page.navigate", {"url": path.as_uri()}, page)
        page.evaluate(LOADED)
        return page

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            read = os.read(self._answers, 1 << 20) if ready else b""
            assert read, "the browser says nothing"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """With a profile of its own in `folder`."""
    assert CHROMIUM is not None
    (theirs_in, commands), (answers, theirs_out) = os.pipe(), os.pipe()
    program = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), *program],
        pass_fds=(theirs_in, theirs_out),
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    ) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            one = Browser(commands, answers)
            yield one
            one.call("Browser.close")
        finally:
            process.kill()
            os.close(commands)
            os.close(answers)
