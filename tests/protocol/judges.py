"""Other people's programs as judges: installed by npm at pinned versions, asked in lines of JSON."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scripts import npm


class Judge:
    """A running script. A question is `{"call", ...}`, the reply `{"answer"}` or `{"error"}`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, call: str, **more: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, **more}) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline() or '{"error": "the judge has died"}')
        if "error" in said:
            raise AssertionError(said["error"])
        return said["answer"]


@contextlib.contextmanager
def judge(
    script: Path,
    packages: Sequence[str],
    *,
    extra: Mapping[str, str] | None = None,
    beside: Sequence[Path] = (),
) -> Iterator[Judge]:
    """Run `script` where `packages` (NAME@VERSION) are installed; skip the test where they cannot be.

    `extra` are files to write beside them, by their path within `node_modules`; `beside` are scripts
    that it imports.
    """
    try:
        node, installed = npm.programs()[0], npm.installed(packages, extra)
    except npm.UnavailableError as error:
        pytest.skip(str(error))
    with (
        npm.folder_with(script, installed, beside=beside) as folder,
        speaking([node, script.name], folder) as one,
    ):
        yield one


@contextlib.contextmanager
def speaking(command: Sequence[str], folder: Path, *, stderr: int | None = None) -> Iterator[Judge]:
    """A program that speaks in lines of JSON, killed in the end."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        yield Judge(process)
    finally:
        process.kill()
        process.communicate()
