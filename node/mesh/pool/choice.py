"""The first of several engines that does not refuse a model."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from aigrid.protocol.errors import Code, EngineError

REFUSALS: Final = frozenset({Code.UNSUPPORTED_MODEL, Code.UNSUPPORTED_QUANTISATION})

T = TypeVar("T")
log = structlog.get_logger(__name__)


async def first_able(engines: Sequence[str], attempt: Callable[[str], Awaitable[T]]) -> T:
    """What `attempt` gives for the first engine that takes the model; best engine first.

    Only a refusal of the model itself goes on to the next engine: a crash or a lack of memory is
    not cured by trying a larger one.

    Raises:
        EngineError: of the first engine where all refuse, for it is the one that was meant.
    """
    refused: EngineError | None = None
    for engine in engines:
        try:
            return await attempt(engine)
        except EngineError as error:
            if error.code not in REFUSALS:
                raise
            log.info("engine_refuses", engine=engine, code=error.code)
            refused = refused or error
    raise refused or EngineError("no engine takes this model", Code.UNSUPPORTED_MODEL)
