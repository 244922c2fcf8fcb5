"""How long a node may take to begin an answer before the next one is asked.

Signs of life cost a liar nothing, so they count for nothing here: who says that a model is warm
has the time that this takes, by what was observed of it and by the length of what it has to read
first. A load may go on for as long as its own figures rise.
"""

import math
import re
from dataclasses import dataclass, field
from types import TracebackType

import trio

from aigrid.metagraph.selection import Kept
from aigrid.node.mesh.routing.waiting import IN_LINE, Said
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import InferRequest, TextRequest
from aigrid.protocol.kinds import OfferState
from aigrid.protocol.limits import KIB, LIMITS, Limits

_WORKS_MAX = 4  # kinds of work whose figures rise one after the other: fetching, loading
_TOKEN_CHARS = 4
_FIGURES = re.compile(r"[0-9]+")


class LateError(RemoteError):
    """It did not begin in time."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Seconds: `quiet` until the first chunk or the next figure of a load, `most` in all."""

    quiet_seconds: float
    most_seconds: float


def allowed(
    state: OfferState, known_ms: float | None, request: InferRequest, limits: Limits = LIMITS
) -> Allowed:
    """What a node has that is not the last that could be asked.

    Args:
        state: as it was offered.
        known_ms: observed or declared until the first chunk; None where nothing is known.
        request: what it has to read first.
        limits: the bounds.
    """
    if state != "warm":
        return Allowed(limits.begin_load_seconds, limits.answer_silence_seconds)
    most = limits.begin_max_seconds
    if not isinstance(request, TextRequest):  # these are answered at once and in one piece
        return Allowed(most, most)
    usual = limits.begin_times * (known_ms or 0.0) / 1000
    least = limits.begin_min_seconds + limits.begin_kib_seconds * _chars(request) / KIB
    return Allowed(min(max(usual, least), most), most)


def ready(kept: Kept) -> bool:
    """Whether a candidate may well do better than one that does not begin."""
    return not kept.full and kept.candidate.state != "can_fetch"


@dataclass(slots=True)
class Beginning:
    """One attempt until its first chunk. `deadline` is by the clock that `began_seconds` is by."""

    allowed: Allowed
    began_seconds: float
    deadline: float = field(init=False)
    _said: Said | None = None
    _reached: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deadline = self.began_seconds + self.allowed.quiet_seconds

    def hear(self, said: Said) -> None:
        """How far a load is: only a figure that was not reached before gives it more time."""
        self._said = said
        percent, work = said.percent, _FIGURES.sub("", said.text)
        known = self._reached.get(work, -1 if len(self._reached) < _WORKS_MAX else 100)
        if percent is None or percent <= known:
            return
        self._reached[work] = percent
        quiet, most = self.allowed.quiet_seconds, self.allowed.most_seconds
        self.deadline = min(said.at_seconds + quiet, self.began_seconds + most)

    def problem(self, node: str, limits: Limits = LIMITS) -> RemoteError:
        """Why it was given up: one that has no slot free is no liar."""
        if self._said is not None and self._said.text == IN_LINE:
            return RemoteError(
                "every slot of this model is taken",
                Code.BUSY,
                peer=node,
                retry_after_seconds=limits.retry_after_seconds,
            )
        return LateError("the node does not begin to answer", Code.TIMEOUT, peer=node)


class InTime:
    """A context to wait in until an attempt's `beginning` is over; it may be entered again.

    Raises what `Beginning.problem` gives. Without a `beginning`, or where that `ends` nothing, it
    only hears.
    """

    def __init__(self, node: str, beginning: Beginning | None, *, ends: bool = True) -> None:
        self._node = node
        self._beginning = beginning
        self._ends = ends
        self._scope = trio.CancelScope()

    def hear(self, text: str) -> None:
        """The node has said how far a load is."""
        if self._beginning is not None:
            self._beginning.hear(Said(self._node, text, trio.current_time()))
            self._scope.deadline = self._deadline

    @property
    def _deadline(self) -> float:
        return self._beginning.deadline if self._beginning and self._ends else math.inf

    def __enter__(self) -> None:
        self._scope = trio.CancelScope(deadline=self._deadline)
        self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope.__exit__(kind, error, trace)
        if self._beginning is not None and self._scope.cancelled_caught:
            raise self._beginning.problem(self._node) from None


def _chars(request: TextRequest) -> int:
    """About how much text there is to read."""
    said = sum(len(message.content) for message in request.messages) + len(request.prompt or "")
    return said + _TOKEN_CHARS * (len(request.token_ids or ()) + len(request.continued_ids))
