"""Packages of the npm registry at pinned versions, for programs of other people that judge ours."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

OPTIONS = ("--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund")
INSTALL_SECONDS = 180


class UnavailableError(Exception):
    """No Node.js here, or npm could not install; the text says which."""


def programs() -> tuple[str, str]:
    """Paths of `node` and `npm`. Raises UnavailableError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise UnavailableError("node and npm are needed to run other people's implementations")
    return node, npm


def installed(packages: Sequence[str], extra: Mapping[str, str] | None = None) -> Path:
    """A `node_modules` with `packages` (NAME@VERSION), made once and kept for later runs.

    `extra` are files to write beside them, by their path within it. Raises UnavailableError.
    """
    _, npm = programs()
    extra = extra or {}
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
            timeout=INSTALL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            why = done.stderr.strip()[-300:]
            raise UnavailableError(f"npm could not install {packages[0]}: {why}")
        for name, text in extra.items():
            path = making / "node_modules" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with contextlib.suppress(OSError):  # another run was quicker: its folder is as good
            making.rename(finished.parent)
    return finished


@contextlib.contextmanager
def folder_with(script: Path, modules: Path, *, beside: Sequence[Path] = ()) -> Iterator[Path]:
    """A folder that holds a copy of `script` beside `modules`, which Node looks for there.

    `beside` are scripts that it imports.
    """
    with tempfile.TemporaryDirectory(prefix="aigrid-node-") as folder:
        for one in (script, *beside):
            shutil.copy(one, folder)
        (Path(folder) / "node_modules").symlink_to(modules)
        yield Path(folder)
