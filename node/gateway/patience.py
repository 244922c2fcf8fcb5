"""How long a client waits for a model, and for how long it wants it kept: headers and a field."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.settings.keep_alive import keep_alive_seconds
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import LIMITS

_PATIENCE, _KEEP_ALIVE = "x-aigrid-patience", "x-aigrid-keep-alive"
_FOR_GOOD = re.compile(r"-1(h|m|s|ms)?")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says of a model that has to be loaded for it.

    Attributes:
        patience_seconds: how long it waits for that.
        keep_alive_seconds: how long the model should stay loaded afterwards; infinite: for good;
            None leaves it to the node.
        whole: whether the answer is wanted in one piece, at its end.
    """

    patience_seconds: float = LIMITS.patience_seconds
    keep_alive_seconds: float | None = None
    whole: bool = False


def wish_of(
    headers: Mapping[bytes, bytes],
    keep_alive: str | float | None,
    limits: GatewayLimits,
    *,
    stream: bool = False,
) -> Wish:
    """`keep_alive` is the field of the body, which counts more than the header.

    Raises:
        InvalidRequestError: a header or the field is wrong.
    """
    kept = keep_alive
    called = "keep_alive"
    if kept is None and (said := headers.get(_KEEP_ALIVE.encode())) is not None:
        kept, called = said.decode("latin-1"), _KEEP_ALIVE
    seconds = None if kept is None else keep_alive_seconds(kept, called=called)
    if seconds == math.inf and called == _KEEP_ALIVE and not _FOR_GOOD.fullmatch(str(kept).strip()):
        # In the body any time below 0 means so, for Ollama's clients say it.
        raise InvalidRequestError(f"{_KEEP_ALIVE} is below 0; -1 keeps the model for good.")
    return Wish(_patience(headers, limits, stream=stream), seconds, whole=not stream)


def _patience(headers: Mapping[bytes, bytes], limits: GatewayLimits, *, stream: bool) -> float:
    said = headers.get(_PATIENCE.encode())
    if said is None:
        return limits.stream_patience_seconds if stream else limits.patience_seconds
    text = said.decode("latin-1").strip()
    if not _SECONDS.fullmatch(text) or float(text) > LIMITS.patience_max_seconds:
        raise InvalidRequestError(
            f"{_PATIENCE} must be seconds, from 0 to {LIMITS.patience_max_seconds:g}."
        )
    return float(text)
