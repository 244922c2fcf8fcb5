"""How a node is, in numbers: what members tell each other for `aigrid top --grid`.

Sums over everybody who asked, never of one actor, and no more than the operator's own screen shows.
All numbers are bounded integers, so that what a liar says can be added and shown.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aigrid.protocol.limits import LIMITS
from aigrid.protocol.message import Message
from aigrid.protocol.names import PRINTABLE

_Count = Annotated[int, Meta(ge=0, le=10**12)]
_Milliseconds = Annotated[int, Meta(ge=0, le=10**9)]
_Bytes = Annotated[int, Meta(ge=0, le=2**60)]
_Name = Annotated[str, Meta(max_length=LIMITS.name_max_chars, pattern=PRINTABLE)]


class Examine(Message, frozen=True, tag="examine"):
    """How are you? Answered by one `Vitals`; `version` is the newest that the asker understands."""

    version: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Vitals(Message, frozen=True, tag="vitals"):
    """How a node is. Counts are of requests that it computed, and since it started.

    `running` includes those that are `waiting` for a model or a slot; `failed` are those that
    engines failed, `denied` those that policy refused. Within the last `window_ms` (0: nothing yet)
    `prompt_tokens` were read and `completion_tokens` written. Half of the answers of the last
    minutes took `first_p50_ms` at most to begin. `memory`: by device, the bytes that models have
    of their budget, and the budget. `models`: names of loaded models that the node offers, `loaded`
    how many they are in all.
    """

    software: _Name
    name: _Name = ""
    version: Literal[1] = 1
    uptime_seconds: _Count = 0
    running: _Count = 0
    waiting: _Count = 0
    served: _Count = 0
    failed: _Count = 0
    denied: _Count = 0
    window_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 0
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    first_p50_ms: _Milliseconds | None = None
    first_p95_ms: _Milliseconds | None = None
    memory: Annotated[
        dict[_Name, tuple[_Bytes, _Bytes]], Meta(max_length=LIMITS.vitals_memory_max)
    ] = msgspec.field(default_factory=dict)
    models: Annotated[tuple[_Name, ...], Meta(max_length=LIMITS.vitals_models_max)] = ()
    loaded: _Count = 0
