"""Which engines are installed, found through the entry point group `aigrid.engines`.

A plug-in that cannot be imported or that breaks the interface is reported as a `Probe` with a
`problem`, and never stops the others.
"""

import importlib
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Final

from aigrid.engines.base import Engine, ModelSource, Probe
from aigrid.protocol.errors import Code, EngineError

GROUP: Final = "aigrid.engines"


def engine_names() -> tuple[str, ...]:
    """Names of everything that is installed, working or not."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def factory_of(name: str, factory: str = "") -> str:
    """Where an engine comes from: "module:Class".

    Raises:
        EngineError: `unsupported_model` where there is none.
    """
    found = factory or next((e.value for e in entry_points(group=GROUP, name=name)), "")
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
    if not isinstance(engine, Engine):
        raise EngineError(f"engine {name} lacks a part of the engine interface")
    return engine


def probe(name: str) -> Probe:
    """What one engine says about this machine; a broken one is reported, never raised."""
    try:
        return load_engine(name).probe()
    except Exception as error:  # noqa: BLE001 -- boundary: a plug-in's load
        return Probe(name, "", (), (), (), problem=str(error) or type(error).__name__)


def probe_all() -> tuple[Probe, ...]:
    """Every installed engine, by name. Imports runtimes: call it in a short-lived child."""
    return tuple(probe(name) for name in engine_names())


class EngineTable:
    """Chooses the engine for a model among those that were probed."""

    def __init__(self, probes: Iterable[Probe], prefer: Sequence[str] = ()) -> None:
        """`prefer`: names of engines that come first where they can, best first."""
        self.probes = tuple(probes)
        self._prefer = tuple(prefer)

    @property
    def formats(self) -> frozenset[str]:
        """What engines that work here take."""
        return frozenset(name for p in self.probes if not p.problem for name in p.formats)

    def engines_for(self, source: ModelSource) -> tuple[str, ...]:
        """Names of engines that work here and take the format, best first.

        Those that know the task come before those that do not, whatever is preferred. One that
        then refuses the model itself leaves it to the next.

        Raises:
            EngineError: `unsupported_model`, saying why not.
        """
        takers = [p for p in self.probes if source.format in p.formats]
        able = [p for p in takers if not p.problem]
        if not able:
            why = "; ".join(f"{p.engine}: {p.problem}" for p in takers) or "no engine takes it"
            raise EngineError(
                f"a model in format {source.format!r} cannot run here ({why})",
                Code.UNSUPPORTED_MODEL,
            )
        ranks = {name: rank for rank, name in enumerate(self._prefer)}

        def order(probe: Probe) -> tuple[bool, int, bool]:
            unknown = bool(probe.tasks) and source.task not in probe.tasks
            return unknown, ranks.get(probe.engine, len(ranks)), probe.fallback

        return tuple(probe.engine for probe in sorted(able, key=order))
