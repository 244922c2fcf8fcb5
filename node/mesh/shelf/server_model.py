"""A model behind somebody's server: where it is, and what the server says of it."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from msgspec import UNSET, UnsetType

from aigrid.engines.base import Endpoint, Served
from aigrid.protocol.errors import Code, EngineError, UsageError
from aigrid.protocol.task import TaskMapping


class Discover(Protocol):
    """See `WorkerSpawner.discover`."""

    def __call__(
        self, endpoint: Endpoint, model: str, /, *, engine: str
    ) -> Awaitable[tuple[Served, ...]]: ...


@dataclass(frozen=True, slots=True)
class ServerModel:
    """A model behind a server: which engine speaks to it, where it is, what it is called there.

    Without a `model`, publishing fails with a list of what the server has.
    """

    engine: str
    endpoint: Endpoint
    model: str
    mapping: TaskMapping | UnsetType = UNSET


async def look(discover: Discover, upstream: ServerModel) -> Served:
    """What the server says of the model.

    Raises:
        UsageError: where no model is named, with what the server has; for a wrong address.
        EngineError: why the server does not answer.
    """
    endpoint, engine = upstream.endpoint, upstream.engine
    if not upstream.model:
        served = await discover(endpoint, "", engine=engine)
        names = ", ".join(sorted(model.name for model in served)) or "none"
        raise UsageError(f"name one of the server's models with --upstream-model: {names}")
    found = await discover(endpoint, upstream.model, engine=engine)
    if len(found) != 1:
        raise EngineError(
            f"the server tells of {len(found)} models where one was asked for",
            Code.UNSUPPORTED_MODEL,
        )
    return found[0]
