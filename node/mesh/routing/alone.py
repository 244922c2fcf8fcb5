"""Waiting for the only node that may be asked, while somebody is sought who may do better.

An honest node may be slow, and there is nobody else: so it is waited for. But one that never begins
must not keep its model from being served: once its time is up, others are wanted beside it.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio

from aigrid.node.mesh.routing.beginning import Beginning, LateError
from aigrid.node.mesh.routing.waiting import beside
from aigrid.protocol.limits import LIMITS


class Closing(Protocol):
    """What has been opened, and is closed by whoever has it."""

    async def close(self, error: BaseException | None = None) -> None: ...


T = TypeVar("T", bound=Closing)


async def unless_another(
    work: Callable[[], Awaitable[T]],
    beginning: Beginning,
    node: str,
    seek: Callable[[], Awaitable[bool]],
) -> T | None:
    """What `work` opens; None where another node may be asked before it has: it is cancelled then.

    Args:
        work: hears of the load through `beginning`.
        beginning: how long it may take until somebody is sought.
        node: PeerId of the one that is asked.
        seek: waits for another node, and says whether there is one; asked again if not.

    Raises what `work` raises.
    """
    opened: list[T] = []
    scope = trio.CancelScope()

    async def open_it() -> None:
        opened.append(await work())

    async def look() -> None:
        while True:
            await trio.sleep_until(beginning.deadline)
            # One that has no slot free has said so, and is waited for with patience.
            late = trio.current_time() >= beginning.deadline
            if late and isinstance(beginning.problem(node), LateError) and await seek():
                scope.cancel()
                return
            await trio.sleep(LIMITS.summon_retry_seconds)

    try:
        with scope:
            await beside(open_it(), look)
    except BaseException as error:
        for one in opened:  # it had begun at the very moment at which this was cancelled
            await one.close(error)
        raise
    return opened[0] if opened else None
