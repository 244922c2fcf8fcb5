"""js-libp2p's Yamux put through scripts: one node process, asked over its standard streams."""

import base64
import contextlib
import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from scripts import npm
from scripts.yamux.conversations import Act, Script, Step
from scripts.yamux.sides import Observed, from_json

PACKAGES = ("@chainsafe/libp2p-yamux@8.0.1",)
PROGRAM = Path(__file__).with_name("js_side.mjs")
_LENGTH = struct.Struct("!I")


class JsSide:
    """`ask` and `answer` are apart, so that the process works while its caller does."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin, self._stdout = stdin, stdout

    def ask(self, script: Script) -> None:
        question = {"dialer": script.dialer, "steps": [_json(step) for step in script.steps]}
        body = json.dumps(question).encode()
        self._stdin.write(_LENGTH.pack(len(body)) + body)
        self._stdin.flush()

    def answer(self) -> Observed:
        """Of the oldest question. Raises RuntimeError where the process failed."""
        head = self._stdout.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            raise RuntimeError("the node process has died")
        return from_json(json.loads(self._stdout.read(_LENGTH.unpack(head)[0])))


@contextlib.contextmanager
def running() -> Iterator[JsSide]:
    """Raises npm.UnavailableError where there is no Node.js, or no package."""
    node, modules = npm.programs()[0], npm.installed(PACKAGES)
    with npm.folder_with(PROGRAM, modules) as folder:
        process = subprocess.Popen(
            [node, PROGRAM.name], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield JsSide(process.stdin, process.stdout)
        finally:
            process.kill()
            process.communicate()


def _json(step: Step) -> dict[str, object]:
    if isinstance(step, Act):
        return {"verb": step.verb, "stream_id": step.stream_id, "size": step.size}
    return {"bytes": base64.b64encode(step).decode()}
