"""Which engines can run here, asked in short-lived children.

The engines of this package share one child, for starting one costs; should it die or hang, each is
asked again in a child of its own, so that one broken runtime takes no other with it. What others
have installed is asked in a child each from the beginning. Few are asked at once: each loads a
runtime.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from aigrid.engines import ipc
from aigrid.engines.base import Probe
from aigrid.engines.registry import Installed, broken, fitting
from aigrid.node.workers.process import WorkerProcess
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import Limits

Start = Callable[[str], Awaitable[WorkerProcess]]
"""Starts a child; the name is for its log. Raises EngineError."""

Heard = Callable[[Probe], None]
"""Takes what an engine says; what it said before is void."""


async def ask_own(
    start: Start, engines: Sequence[Installed], limits: Limits
) -> tuple[tuple[Probe, ...], str]:
    """What the engines of this package say, in order, and what would confine a worker, in words.

    Raises:
        EngineError: where no child can be started at all.
    """
    names = tuple(one.name for one in engines)
    process = await start("probe")
    try:
        return await _ask(process, names, limits)
    except EngineError:
        pass
    finally:
        await process.kill()
    found: dict[str, Probe] = {}
    confined = ""
    turns = trio.CapacityLimiter(limits.plugin_probes_max)

    async def alone(name: str) -> None:
        nonlocal confined
        async with turns:
            found[name], said = await _alone(start, name, limits)
        confined = confined or said

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(alone, name)
    return tuple(found[name] for name in names), confined


async def ask_plugins(
    start: Start, engines: Sequence[Installed], limits: Limits, *, heard: Heard
) -> None:
    """Ask what others have installed; `heard` is told of each now, and again when it answers."""
    turns = trio.CapacityLimiter(limits.plugin_probes_max)

    async def ask(one: Installed) -> None:
        async with turns:
            heard((await _alone(start, one.name, limits))[0])

    async with trio.open_nursery() as nursery:
        for one in engines:
            if one.problem:
                heard(broken(one.label, one.problem))
            else:
                heard(broken(one.name, "its probe has not answered yet"))
                nursery.start_soon(ask, one)


async def _alone(start: Start, name: str, limits: Limits) -> tuple[Probe, str]:
    """What an engine says in a child of its own, or why it says nothing."""
    try:
        process = await start(f"probe-{name}")
        try:
            (found,), confined = await _ask(process, (name,), limits)
        finally:
            await process.kill()
    except EngineError as error:
        return broken(name, f"its probe failed: {error.message}"), ""
    return found, confined


async def _ask(
    process: WorkerProcess, names: tuple[str, ...], limits: Limits
) -> tuple[tuple[Probe, ...], str]:
    report = await process.order(
        ipc.Tell(names), ipc.Probed, timeout_seconds=limits.worker_start_seconds
    )
    if len(report.probes) != len(names):
        raise EngineError("it speaks of other engines than it was asked for")
    pairs = zip(names, report.probes, strict=True)
    return tuple(fitting(name, probe) for name, probe in pairs), report.sandbox
