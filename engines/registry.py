"""Which engines are installed, found through the entry point group `aigrid.engines`.

A plug-in that cannot be imported or that breaks the interface is reported as a `Probe` with a
`problem`, and never stops the others. A name belongs to one engine: those of this package keep
theirs, and of two packages that claim the same one the first by name has it.
"""

import contextlib
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import msgspec

from aigrid.engines.base import Engine, ModelSource, Probe, check_trusted, may_load
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import EVERYTHING
from aigrid.protocol.names import PRINTABLE

GROUP: Final = "aigrid.engines"
PACKAGE: Final = "aigrid-node"
_PARTS: Final = ("name", "probe", "estimate", "load", "infer", "stats", "unload")
_NAME: Final = re.compile(r"[a-z0-9_]{1,64}")
_PARTS_MAX: Final = 16
"""Formats, and of each other list of a probe, that a node has room for; as in its record."""


@dataclass(frozen=True, slots=True)
class Installed:
    """An entry point: "module:Class" under a name, and the package that it came with.

    `problem` says why it is not used, or is empty.
    """

    name: str
    factory: str
    package: str
    problem: str = ""

    @property
    def own(self) -> bool:
        """Whether it is an engine of this package."""
        return self.package == PACKAGE

    @property
    def label(self) -> str:
        """What people call it; unlike any other even where the name is taken."""
        return f"{self.name} ({self.package})"[:64] if self.problem else self.name


def installed() -> tuple[Installed, ...]:
    """Everything that is installed, working or not, by name; one without a `problem` per name."""
    found = {(e.name, _package(e)): e.value for e in entry_points(group=GROUP)}
    holders: dict[str, str] = {}
    everything = []
    for name, package in sorted(found, key=lambda key: (key[1] != PACKAGE, key[1], key[0])):
        problem = ""
        if _NAME.fullmatch(name) is None:
            problem = "the name of an engine has small letters, digits and _ only"
        elif (holder := holders.setdefault(name, package)) != package:
            problem = f"the name {name} is that of an engine of {holder}: choose another"
        everything.append(Installed(name[:64], found[name, package], package[:64], problem))
    return tuple(sorted(everything, key=lambda one: (one.name, one.package)))


def factory_of(name: str, factory: str = "") -> str:
    """Where an engine comes from: "module:Class".

    Raises:
        EngineError: `unsupported_model` where there is none.
    """
    usable = (one.factory for one in installed() if one.name == name and not one.problem)
    found = factory or next(usable, "")
    if not found:
        raise EngineError(f"no engine {name!r} is installed", Code.UNSUPPORTED_MODEL)
    return found


def load_engine(name: str, factory: str = "") -> Engine:
    """Construct an engine by name, or from `factory` ("module:Class").

    Raises:
        EngineError: `unsupported_model` where there is none, `engine_failed` for a broken plug-in.
    """
    module, _, attribute = factory_of(name, factory).partition(":")
    try:
        engine = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # boundary: a plug-in's load
        raise EngineError(
            f"engine {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if missing := [part for part in _PARTS if not hasattr(engine, part)]:
        raise EngineError(f"engine {name} lacks a part of the engine interface: {missing[0]}")
    made: Engine = engine
    return made


def preimports(name: str, factory: str = "") -> tuple[str, ...]:
    """Import what an engine says that its models need whichever they are; the names of that.

    Raises as `load_engine`; a module that is not here is left to `load`, which says so.
    """
    modules = tuple(getattr(load_engine(name, factory), "preimports", ()))
    for module in modules:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module(module)
    return modules


def probe(name: str) -> Probe:
    """What one engine says about this machine; a broken one is reported, never raised."""
    try:
        said = msgspec.to_builtins(load_engine(name).probe())
        return fitting(name, msgspec.convert(said, Probe))
    except BaseException as error:  # noqa: BLE001 -- boundary: a plug-in's load; it may exit, too
        return broken(name, str(error) or type(error).__name__)


def broken(name: str, problem: str) -> Probe:
    """What is said of an engine that cannot be used."""
    text = " ".join(problem.split())[: LIMITS.error_message_max_chars]
    return Probe(name, "", (), (), (), problem=text or "broken")


def fitting(name: str, found: Probe) -> Probe:
    """A probe as this node shows it and signs it: of the engine asked, and within bounds.

    What a probe says comes from a process in which foreign code ran.
    """
    if found.engine != name:
        return broken(name, f"its probe speaks of the engine {found.engine[:64]!r}")
    lists = (found.formats, found.devices, found.code_formats, found.refuses)
    if any(len(items) > _PARTS_MAX for items in lists) or len(found.tasks) > LIMITS.tensors_max:
        return broken(name, f"its probe lists more than {_PARTS_MAX} of something")
    words = (found.version, *found.formats, *found.code_formats, *found.tasks)
    names = (text for device in found.devices for text in (device.kind, device.name))
    if any(len(word) > LIMITS.name_max_chars or not _shown(word) for word in (*words, *names)):
        return broken(name, f"its probe has words that are not {LIMITS.name_max_chars} characters")
    if not found.problem and not (found.version and found.formats and found.devices):
        return broken(name, "its probe tells neither a problem nor version, formats and devices")
    most = LIMITS.error_message_max_chars
    return replace(
        found,
        problem=found.problem[:most],
        refuses=tuple(" ".join(line.split())[:most] for line in found.refuses),
    )


def _shown(word: str) -> bool:
    return re.search(PRINTABLE, word) is not None


def _package(entry: EntryPoint) -> str:
    name = entry.dist.name if entry.dist is not None else ""
    return (name or "unknown").lower().replace("_", "-")


class EngineTable:
    """Chooses the engine for a model among those that were probed."""

    def __init__(self, probes: Iterable[Probe], prefer: Sequence[str] = ()) -> None:
        """`prefer`: names of engines that come first where they can, best first."""
        self.probes = tuple(probes)
        self._prefer = tuple(prefer)

    def runs_code(self, format_: str) -> bool:
        """Whether a model of that format is taken here only where its publisher is trusted.

        So it is where every engine that `engines_for` may choose may run code hidden in it. Those
        that do not work have a say only where none does.
        """
        takers = [p for p in self.probes if format_ in p.formats]
        able = [p for p in takers if not p.problem] or takers
        return bool(able) and all(format_ in p.code_formats for p in able)

    @property
    def formats(self) -> frozenset[str]:
        """What engines that work here take."""
        return frozenset(name for p in self.probes if not p.problem for name in p.formats)

    def takes(self, format_: str) -> tuple[str, ...]:
        """Further members of a request that whichever engine may load such a model takes."""
        said = [set(p.takes) for p in self.probes if format_ in p.formats and not p.problem]
        named = [names for names in said if EVERYTHING not in names]
        if not named:
            return (EVERYTHING,) if said else ()
        return tuple(sorted(set.intersection(*named)))

    def engines_for(self, source: ModelSource) -> tuple[str, ...]:
        """Names of engines that work here and take the format, best first.

        Those that know the task come before those that do not, whatever is preferred. One that
        then refuses the model itself leaves it to the next.

        Raises:
            EngineError: `unsupported_model`, saying why not; `unsafe_file` where those that could
                may run code that is hidden in it, and its publisher is not trusted.
        """
        takers = [p for p in self.probes if source.format in p.formats]
        able = [p for p in takers if not p.problem]
        if not able:
            why = "; ".join(f"{p.engine}: {p.problem}" for p in takers) or "no engine takes it"
            raise EngineError(
                f"a model in format {source.format!r} cannot run here ({why})",
                Code.UNSUPPORTED_MODEL,
            )
        safe = [p for p in able if may_load(source, p.code_formats)]
        if not safe:
            check_trusted(source, able[0].code_formats)
        ranks = {name: rank for rank, name in enumerate(self._prefer)}

        def order(probe: Probe) -> tuple[bool, int, bool]:
            unknown = bool(probe.tasks) and source.task not in probe.tasks
            return unknown, ranks.get(probe.engine, len(ranks)), probe.fallback

        return tuple(probe.engine for probe in sorted(safe, key=order))
