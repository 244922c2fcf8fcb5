"""Other people's programs as judges: installed by npm at pinned versions, asked in lines of JSON."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

OPTIONS = ("--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund")


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
    script: Path, packages: Sequence[str], *, extra: Mapping[str, str] | None = None
) -> Iterator[Judge]:
    """Run `script` where `packages` (NAME@VERSION) are installed; skip the test where they cannot be.

    `extra` are files to write beside them, by their path within `node_modules`.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are needed to run other people's implementations")
    installed = _installed(npm, packages, extra or {})
    with tempfile.TemporaryDirectory(prefix="aigrid-judge-") as folder:
        shutil.copy(script, folder)
        (Path(folder) / "node_modules").symlink_to(installed)
        process = subprocess.Popen(
            [node, script.name],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Judge(process)
        finally:
            process.kill()
            process.communicate()


def _installed(npm: str, packages: Sequence[str], extra: Mapping[str, str]) -> Path:
    """A `node_modules` with these packages, made once and kept for later runs."""
    key = hashlib.sha256(json.dumps([packages, extra]).encode()).hexdigest()[:16]
    kept = Path.home() / ".cache/aigrid/tests"
    finished = kept / f"npm-{key}" / "node_modules"
    if finished.is_dir():
        return finished
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        making = Path(folder) / "making"
        making.mkdir()
        (making / "package.json").write_text('{"name": "judge", "private": true}')
        done = subprocess.run(
            [npm, "install", *OPTIONS, *packages],
            cwd=making,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"npm could not install {packages[0]}: {done.stderr.strip()[-300:]}")
        for name, text in extra.items():
            path = making / "node_modules" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with contextlib.suppress(OSError):  # another run was quicker: its folder is as good
            making.rename(finished.parent)
    return finished
