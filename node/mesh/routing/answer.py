"""What the mesh hands to whoever asked: the types between router, gateway and control socket."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import ANYTHING, NOBODY, Criteria, Ranking
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.observing.trace import NO_TRACE, Trace
from aigrid.node.policy.caller import Caller
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import InferChunk, InferRequest
from aigrid.protocol.limits import LIMITS

_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an answer that one node produced. `node` is a PeerId, `model` a model id.

    `receipt` is the id under which this node keeps its receipt, or that there is none that holds;
    "" where nothing is kept. `receipted` says whether one holds.
    """

    node: str
    model: str
    tokens: int
    receipt: str = ""
    receipted: bool = False


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model somebody offers now, as clients see it. `nodes` are PeerIds, best known first.

    `takes`: further members of a text request that some of them take, ascending; `*`: all.
    `meant`: its name alone means this model here, whatever else is called so.
    """

    model: str
    name: str
    issuer: str
    capabilities: tuple[str, ...]
    nodes: tuple[str, ...]
    state: str
    context_tokens: int
    created_ms: int
    takes: tuple[str, ...] = ()
    meant: bool = True


@dataclass(slots=True)
class Answer:
    """An answer that has begun: the first chunk has arrived, so headers may be sent.

    `chunks` yields tuples of chunks that were ready together, the first included; the last tuple
    ends with `Finish`. It raises an `AigridError` when the answer cannot be completed. `segments`
    is complete once `chunks` is exhausted. `ranking` is the choice that it came of, and `sent` the
    request as it was put to the first node. `asked_seconds` is when `node` was asked, by trio's
    clock; None where the model was loaded first, or that is not known: then it says nothing of how
    long the next answer takes.
    """

    request_id: str
    model: str
    name: str
    node: str
    chunks: AsyncIterator[tuple[InferChunk, ...]]
    attempts: int = 1
    segments: list[Segment] = field(default_factory=list)
    ranking: Ranking = NOBODY
    asked_seconds: float | None = None
    sent: InferRequest | None = None


def the_one(
    model: str,
    found: Collection[str],
    *,
    unknown: str,
    said_by: Callable[[str], Collection[str]] = lambda _: (),
) -> str:
    """The one model id among those `found` under what somebody calls `model`.

    `said_by`: DIDs of the publishers of a model, for people to choose by.

    Raises:
        InvalidRequestError: `model_not_found`, with the text `unknown`, or `ambiguous_model`.
    """
    if not found:
        raise InvalidRequestError(unknown, Code.MODEL_NOT_FOUND, param="model")
    if len(found) > 1:
        raise InvalidRequestError(
            f"{model!r} names several models: {several(found, said_by)}",
            Code.AMBIGUOUS_MODEL,
            param="model",
        )
    return next(iter(found))


def several(found: Collection[str], said_by: Callable[[str], Collection[str]]) -> str:
    """Model ids with their publishers, some of each, as text."""
    told = []
    for model in sorted(found)[:_SHOWN_MAX]:
        publishers = sorted(said_by(model))
        by = " and others" if len(publishers) > 1 else ""
        told.append(f"{model} of {publishers[0]}{by}" if publishers else model)
    more = len(found) - len(told)
    return ", ".join(told) + (f", and {more} more" if more else "")


class Inference(Protocol):
    """What the gateway needs from the mesh."""

    def models(self) -> tuple[ModelView, ...]:
        """Everything offered by nodes that may be asked, sorted by name."""

    def infer(
        self,
        model: str,
        request: InferRequest,
        *,
        request_id: str,
        caller: Caller,
        capability: str = "",
        fallbacks: tuple[str, ...] = (),
        preferences: Preferences = ANY,
        criteria: Criteria = ANYTHING,
        ended: list[Segment] | None = None,
        patience_seconds: float = LIMITS.patience_seconds,
        waiting: Waiting | None = None,
        trace: Trace = NO_TRACE,
    ) -> AbstractAsyncContextManager[Answer]:
        """Route a request of `caller` to a node that holds `model` (a name or a model id).

        `fallbacks` stand in for it where nobody serves it, `preferences` say whom to ask, and
        `criteria` what they have to be and what counts among them. An empty `model` with a
        `capability` lets the node choose. Entering waits for the first chunk, and where nobody
        serves it now for `patience_seconds` until somebody does; `waiting` is told how far that is.
        Leaving early cancels the request everywhere. Attempts that failed before their first chunk,
        and had begun, are added to `ended`. Spans hang from `trace`.

        Raises:
            NoCandidateError, InvalidRequestError (`model_not_found`, `ambiguous_model`, ...),
            RemoteError, EngineError.
        """
