"""The gateway without HTTP: validated requests in, steps of an answer out.

Every dialect is a thin shell over this. What it adds to the mesh: request ids, the catalogue as
clients name it, one step per batch of chunks, the rule that an answer ends in `Finish` or in an
error, and an orderly end of whatever is live when the node stops.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import trio

from aigrid.node.gateway.patience import Wish
from aigrid.node.gateway.step import Step, TaskAnswer, merged
from aigrid.node.mesh.routing.answer import Answer, Inference, ModelView, Segment
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.policy.charging import Charge, most
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    InvalidRequestError,
    LocalError,
    NoCandidateError,
    RemoteError,
)
from aigrid.protocol.inference import (
    InferChunk,
    InferRequest,
    TaskRequest,
    TensorRequest,
    TextRequest,
)
from aigrid.protocol.model import MODEL_URN

_NAME_SHOWN_CHARS = 100
_TEXT = "text-generation"
_REQUEST_ID = re.compile(r"(?!aigrid-)[A-Za-z0-9_-]{8,64}")  # a key is kept nowhere


@dataclass(frozen=True, slots=True)
class Listed:
    """A model under the id that clients use for it."""

    listed_id: str
    view: ModelView


class GatewayCore:
    """The one entry to the mesh for all dialects.

    `status` gives the body of `GET /aigrid/v1/status`; `now_ms` is wall time in milliseconds since
    the epoch; `token` returns a fresh random name of 8 to 64 characters out of letters, digits, `_`
    and `-`; `broader` names the capabilities above one; `whereabouts` says by model id where each
    is, as a JSON object.
    """

    def __init__(
        self,
        inference: Inference,
        *,
        status: Callable[[], dict[str, Any]],
        now_ms: Callable[[], int],
        token: Callable[[], str],
        broader: Callable[[str], Collection[str]] = lambda _: (),
        whereabouts: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
    ) -> None:
        self._inference = inference
        self._broader = broader
        self.whereabouts = whereabouts
        self.status = status
        self._now_ms = now_ms
        self._token = token
        self._requests: set[str] = set()
        self._generations: set[Generation] = set()
        self._stopping = False
        self._idle = trio.Event()

    # Requests
    @contextmanager
    def request(self, offered: str | None) -> Iterator[str]:
        """The id of a request while it lives: the client's, if well-formed and not in use."""
        if offered is None or offered in self._requests or not _REQUEST_ID.fullmatch(offered):
            offered = self._token()
        self._requests.add(offered)
        try:
            yield offered
        finally:
            self._requests.discard(offered)

    def now_seconds(self) -> int:
        """Wall time in whole seconds, as APIs report it."""
        return self._now_ms() // 1000

    # Catalogue
    def models(self) -> tuple[Listed, ...]:
        """Everything offered, once per id: by name, or by model id where a name is ambiguous."""
        views = self._inference.models()
        named: defaultdict[str, set[str]] = defaultdict(set)
        for view in views:
            named[view.name].add(view.model)
        listed: dict[str, Listed] = {}
        for view in views:
            listed_id = view.name if len(named[view.name]) == 1 else view.model
            listed.setdefault(listed_id, Listed(listed_id, view))
        return tuple(listed.values())

    def model(self, wanted: str) -> Listed:
        """The model that `wanted` lists, names or identifies.

        Raises:
            InvalidRequestError: `model_not_found` or `ambiguous_model`.
        """
        listed = self.models()
        for entry in listed:
            if wanted == entry.listed_id:
                return entry
        for entry in listed:
            if wanted == entry.view.model:
                return Listed(wanted, entry.view)
        several = [entry.listed_id for entry in listed if entry.view.name == wanted]
        if several:
            raise InvalidRequestError(
                f"Several models are named {wanted!r}: {', '.join(several)}.",
                Code.AMBIGUOUS_MODEL,
                param="model",
            )
        raise InvalidRequestError(
            f"No node offers a model {wanted[:_NAME_SHOWN_CHARS]!r}.",
            Code.MODEL_NOT_FOUND,
            param="model",
        )

    # Generation
    def generate(
        self,
        model: str,
        request: TextRequest,
        *,
        request_id: str,
        visit: Visit,
        wish: Wish | None = None,
    ) -> "Generation":
        """Ask for text; see `Generation`.

        Raises:
            AigridError: the caller may not, or not now.
        """
        self._check(visit, model, _TEXT, most(request))
        return self._generation(model, request, request_id=request_id, visit=visit, wish=wish)

    async def run_task(
        self,
        model: str,
        request: TaskRequest | TensorRequest,
        *,
        capability: str = "",
        request_id: str,
        visit: Visit,
        wish: Wish | None = None,
    ) -> TaskAnswer:
        """Run a typed task on `model`, or where that is empty on whatever model can do it.

        Tensors are for a `model`; `capability` is what it does with them.

        Raises:
            AigridError: the caller may not, or there is no complete answer.
        """
        capability = request.task if isinstance(request, TaskRequest) else capability
        self._check(visit, model, capability, most(request))
        asked = self._generation(
            model, request, capability, request_id=request_id, visit=visit, wish=wish
        )
        async with asked as generation:
            steps = [step async for step in generation]
            finish = steps[-1].finish
            output = b"".join(step.output for step in steps)
            tensors = next((step.tensors for step in steps if step.tensors is not None), None)
            found = output if isinstance(request, TaskRequest) else tensors
            if finish is None or not found:
                raise EngineError("The model answered without a result.")
            segments = tuple(generation.segments)
            return TaskAnswer(generation.answer, output, finish, segments, tensors or {})

    def _generation(
        self,
        model: str,
        request: InferRequest,
        capability: str = "",
        *,
        request_id: str,
        visit: Visit,
        wish: Wish | None,
    ) -> "Generation":
        wish, ended = wish or Wish(), list[Segment]()
        waiting = Waiting(wish.keep_alive_seconds)
        asked = self._inference.infer(
            model,
            request,
            request_id=request_id,
            capability=capability,
            caller=visit.caller,
            ended=ended,
            patience_seconds=wish.patience_seconds,
            waiting=waiting,
        )
        return Generation(
            self,
            asked,
            visit,
            Charge(request),
            ended=ended,
            waiting=waiting,
            patience_seconds=wish.patience_seconds,
            takes_tensors=isinstance(request, TensorRequest),
        )

    def _check(self, visit: Visit, model: str, capability: str, cost: int) -> None:
        if visit.actor is None:
            return
        # A name that several models have stands for none of them here: whoever offers a model may
        # call it what a key is held to.
        called = (
            (entry.view.model, entry.listed_id)
            for entry in (self.models() if visit.limits.models else ())
            if model.removeprefix(MODEL_URN) in (entry.view.model, entry.view.name)
        )
        visit.may_begin(model, tuple(called), capability, self._broader(capability), most=cost)

    # Stopping
    @property
    def stopping(self) -> bool:
        """Whether new work is refused."""
        return self._stopping

    def refuse_new(self) -> None:
        """Refuse new generations from now on; live ones go on."""
        self._stopping = True
        self._note_idle()

    async def drained(self) -> None:
        """Wait until no generation is live; call `refuse_new` first."""
        await self._idle.wait()

    def cut_off(self) -> None:
        """End whatever is live with `shutting_down` as soon as it next waits for the mesh."""
        self._stopping = True
        for generation in tuple(self._generations):
            generation.cut()

    def _enter(self, generation: "Generation") -> None:
        if self._stopping:
            raise _stopping_error()
        self._generations.add(generation)

    def _leave(self, generation: "Generation") -> None:
        self._generations.discard(generation)
        self._note_idle()

    def _note_idle(self) -> None:
        if self._stopping and not self._generations:
            self._idle.set()


class Generation:
    """An answer: enter it to wait for the first chunk, then iterate over its steps.

    The last step carries `Finish`, and `segments` is complete with it. Leaving early cancels the
    request everywhere. Entering and iterating raise an `AigridError` when the answer cannot be
    completed; an answer that merely stops is turned into one. `Charge` says what it costs.

    Attributes:
        waiting: what is known of the load that it waits for before its first chunk.
    """

    def __init__(
        self,
        core: GatewayCore,
        answering: AbstractAsyncContextManager[Answer],
        visit: Visit,
        charge: Charge,
        *,
        ended: list[Segment],
        waiting: Waiting,
        patience_seconds: float,
        takes_tensors: bool = False,
    ) -> None:
        self._takes_tensors = takes_tensors
        self._ended_before = ended
        self.waiting = waiting
        self._patience_seconds = patience_seconds
        self._core = core
        self._answering = answering
        self._visit = visit
        self._charge = charge
        self._answer: Answer | None = None
        self._waiting: trio.CancelScope | None = None
        self._is_cut = False
        self._ended = False

    async def __aenter__(self) -> Self:
        self._core._enter(self)  # noqa: SLF001  the two classes are one thing
        try:
            with trio.CancelScope() as self._waiting:
                entering = self._answering.__aenter__()
                self._answer = await self.waiting.patiently(entering, self._patience_seconds)
            self._waiting = None
        except BaseException as error:
            if isinstance(error, trio.Cancelled):  # somebody was at work on it
                self._visit.spend(self._charge.broke_off())
            self._core._leave(self)  # noqa: SLF001
            raise
        if self._answer is None:
            self._core._leave(self)  # noqa: SLF001
            raise _stopping_error()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._visit.spend(self._charge.broke_off())
        try:
            await self._answering.__aexit__(kind, error, traceback)
        finally:
            self._core._leave(self)  # noqa: SLF001

    @property
    def answer(self) -> Answer:
        """Who answers; known once entered."""
        if self._answer is None:
            raise RuntimeError("the generation has not been entered")
        return self._answer

    @property
    def segments(self) -> list[Segment]:
        """Which node produced how much; complete after the last step, or once left.

        Without an answer: what failed before its first chunk.
        """
        return self._ended_before if self._answer is None else self._answer.segments

    def cut(self) -> None:
        """End with `shutting_down` at the next wait, or the present one."""
        self._is_cut = True
        if self._waiting is not None:
            self._waiting.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        if self._ended:
            raise StopAsyncIteration
        while True:
            chunks = await self._next_chunks()
            if chunks is None:
                raise RemoteError("The answer stopped without an end.", Code.CONNECTION_LOST)
            step = merged(chunks, takes_tensors=self._takes_tensors)
            if step.finish is None:
                if step.text or step.logprobs or step.output or step.tensors:
                    return step
                continue
            self._ended = True
            if await self._next_chunks() is not None:
                raise RemoteError("The answer went on after its end.")
            if step.finish.reason == "cancelled":
                raise LocalError("The answer was cancelled before it was complete.", Code.CANCELLED)
            return step

    async def _next_chunks(self) -> tuple[InferChunk, ...] | None:
        """The next batch, or None at the end."""
        if self._is_cut:
            raise _stopping_error()
        with trio.CancelScope() as self._waiting:
            chunks = await anext(self.answer.chunks, None)
        scope, self._waiting = self._waiting, None
        if scope.cancelled_caught:
            raise _stopping_error()
        if chunks is not None:
            self._visit.spend(self._charge.chunks(chunks))
        return chunks


def _stopping_error() -> AigridError:
    return NoCandidateError("This node is stopping.", Code.SHUTTING_DOWN)
