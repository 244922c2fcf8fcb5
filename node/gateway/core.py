"""The gateway without HTTP: validated requests in, steps of an answer out.

Every dialect is a thin shell over this. What it adds to the mesh: request ids, the catalogue as
clients name it, one step per batch of chunks, the rule that an answer ends in `Finish` or in an
error, and an orderly end of whatever is live when the node stops.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import msgspec

from aigrid.metagraph.preferences import Preferences
from aigrid.metagraph.selection import Criteria
from aigrid.node.gateway.by_capability import capability_of, check_taken, task_of
from aigrid.node.gateway.call import TaskCall, TextCall
from aigrid.node.gateway.choices import Choices, Generated, numbered, requests_of
from aigrid.node.gateway.fitting import Fitting, WrongAnswerError
from aigrid.node.gateway.generation import Generation, Live
from aigrid.node.gateway.patience import Wish
from aigrid.node.gateway.told import Told
from aigrid.node.mesh.routing.answer import Answer, Inference, ModelView, Segment
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.observing.course import Course
from aigrid.node.outcome.contract import Contract, unsaid
from aigrid.node.policy.charging import Charge, most
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import (
    TEXT_GENERATION,
    Finish,
    InferRequest,
    TaskRequest,
    Tensor,
    TensorRequest,
)
from aigrid.protocol.model import MODEL_URN

_NAME_SHOWN_CHARS = 100
_OPERATIONS = {"feature-extraction": "embeddings"}  # as OpenTelemetry calls them; else a "task"
_REQUEST_ID = re.compile(r"(?!aigrid-)[A-Za-z0-9_-]{8,64}")  # a key is kept nowhere


@dataclass(frozen=True, slots=True)
class Listed:
    """A model under the id that clients use for it."""

    listed_id: str
    view: ModelView


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """A task's answer: who gave it, and its output as JSON text, or the tensors that came out."""

    answer: Answer
    output: bytes
    finish: Finish
    told: Told
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class GatewayCore:
    """The one entry to the mesh for all dialects.

    `status` gives the body of `GET /aigrid/v1/status`; `now_ms` is wall time in milliseconds since
    the epoch; `token` returns a fresh random name of 8 to 64 characters out of letters, digits, `_`
    and `-`; `broader` names the capabilities above one; `whereabouts` says by model id where each
    is, as a JSON object; `contract` is that of a capability, and raises for one that is unknown;
    `misfit` hears of a (PeerId, model id, capability) whose answer was none of the capability's.
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
        contract: Callable[[str], Contract] = unsaid,
        misfit: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._contract = contract
        self.misfit = misfit
        self._inference = inference
        self._broader = broader
        self.whereabouts = whereabouts
        self.status = status
        self._now_ms = now_ms
        self._token = token
        self._requests: dict[str, Course] = {}
        self._live = Live()

    # Requests
    @contextmanager
    def request(self, offered: str | None) -> Iterator[str]:
        """The id of a request while it lives: the client's, if well-formed and not in use."""
        if offered is None or offered in self._requests or not _REQUEST_ID.fullmatch(offered):
            offered = self._token()
        self._requests[offered] = Course(offered)
        try:
            yield offered
        finally:
            self._requests.pop(offered, None)

    def course(self, request_id: str) -> Course:
        """What is noted of a request, that of `request` while it lives."""
        return self._requests.get(request_id) or Course(request_id)

    @property
    def in_flight(self) -> int:
        """Requests that live."""
        return len(self._requests)

    def now_seconds(self) -> int:
        """Wall time in whole seconds, as APIs report it."""
        return self._now_ms() // 1000

    # Catalogue
    def models(self) -> tuple[Listed, ...]:
        """Everything offered, once per id: by name, or by model id where the name means another."""
        views = self._inference.models()
        named: defaultdict[str, set[str]] = defaultdict(set)
        for view in views:
            if view.meant:
                named[view.name].add(view.model)
        listed: dict[str, Listed] = {}
        for view in views:
            listed_id = view.name if named[view.name] == {view.model} else view.model
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
        call: TextCall,
        *,
        request_id: str,
        visit: Visit,
        wish: Wish | None = None,
        part: int = 0,
    ) -> Generated:
        """Ask for text; see `Generation` and `Choices`.

        `part` tells apart what one request of a client asks several nodes for.

        Raises:
            AigridError: the caller may not, or not now.
        """
        if (named := capability_of(call.models, self._stated)) is not None:
            capability, criteria = named
            call = replace(call, models=(), capability=capability, criteria=criteria)
        contract = self._contract(call.capability or TEXT_GENERATION)
        speaks = contract.task != TEXT_GENERATION
        requests: Iterable[InferRequest] = requests_of(call)
        if speaks:
            requests = [task_of(request, contract) for request in requests_of(call)]
        cost = call.choices * sum(map(most, (call.request, *call.others)))
        models = call.models or ("",)
        self._check(visit, models, contract.capability, cost)
        course = self.course(request_id)
        course.operation = "chat" if call.request.messages else "text_completion"
        parts = count(part)

        def make(request: InferRequest, preferences: Preferences) -> Generation:
            return self._generation(
                models,
                request,
                call.capability,
                preferences=preferences,
                criteria=call.criteria,
                request_id=numbered(request_id, next(parts)),
                visit=visit,
                wish=wish,
                course=course,
            )

        made = [
            Fitting(
                partial(make, request),
                call.preferences,
                contract,
                check=partial(check_taken, call, contract),
                misfit=self.misfit,
            )
            if speaks
            else make(request, call.preferences)
            for request in requests
        ]
        return made[0] if len(made) == 1 else Choices(made, call.choices)

    async def run_task(
        self,
        call: TaskCall,
        *,
        request_id: str,
        visit: Visit,
        wish: Wish | None = None,
        part: int = 0,
    ) -> TaskAnswer:
        """Ask for what has one answer. `part`: see `generate`.

        Raises:
            AigridError: the caller may not, or there is no complete answer.
        """
        if (named := capability_of(call.models, self._stated)) is not None:
            call = self._by_capability(call, *named)
        request = call.request
        self._check(visit, call.models or ("",), call.capability, most(request))
        course = self.course(request_id)
        course.operation = _OPERATIONS.get(call.capability, "task")
        asked = self._generation(
            call.models or ("",),
            request,
            call.capability,
            preferences=call.preferences,
            criteria=call.criteria,
            request_id=numbered(request_id, part),
            visit=visit,
            wish=wish,
            course=course,
        )
        async with asked as generation:
            steps = [step async for step in generation]
            finish = steps[-1].finish
            output = b"".join(step.output for step in steps)
            tensors = next((step.tensors for step in steps if step.tensors is not None), None)
            found = output if isinstance(request, TaskRequest) else tensors
            if finish is None or not found:
                answer = generation.answer
                self.misfit(answer.node, answer.model, call.capability)
                raise WrongAnswerError("The model answered without a result.", answer.node)
            told = Told.of(generation.answer, generation.segments, course)
            return TaskAnswer(generation.answer, output, finish, told, tensors or {})

    def _stated(self, capability: str) -> Collection[str]:
        return self._contract(capability).stated()

    def _by_capability(self, call: TaskCall, capability: str, criteria: Criteria) -> TaskCall:
        """A task of whatever model has a capability, which has to be the task, or narrower."""
        request = call.request
        fits = isinstance(request, TaskRequest) and self._contract(capability).task == request.task
        if not fits:
            raise InvalidRequestError(
                f"{capability[:_NAME_SHOWN_CHARS]} is not what is done here.", param="model"
            )
        task = msgspec.structs.replace(request, task=capability)
        return replace(call, models=(), request=task, criteria=criteria)

    def _generation(
        self,
        models: tuple[str, ...],
        request: InferRequest,
        capability: str = "",
        *,
        preferences: Preferences,
        criteria: Criteria,
        request_id: str,
        visit: Visit,
        wish: Wish | None,
        course: Course,
    ) -> Generation:
        wish, ended = wish or Wish(), list[Segment]()
        waiting = Waiting(wish.keep_alive_seconds, whole=wish.whole)
        asked = self._inference.infer(
            models[0],
            request,
            request_id=request_id,
            capability=capability,
            fallbacks=models[1:],
            preferences=preferences,
            criteria=criteria,
            caller=visit.caller,
            ended=ended,
            patience_seconds=wish.patience_seconds,
            waiting=waiting,
            trace=course.trace,
        )
        return Generation(
            self._live,
            asked,
            visit,
            Charge(request),
            ended=ended,
            waiting=waiting,
            patience_seconds=wish.patience_seconds,
            course=course,
            takes_tensors=isinstance(request, TensorRequest),
        )

    def _check(self, visit: Visit, models: Sequence[str], capability: str, cost: int) -> None:
        """Whether the caller may ask every one of the models, for what it may cost in all."""
        if visit.actor is None:
            return
        for number, model in enumerate(models):
            self._check_one(visit, model, capability, 0 if number else cost)

    def _check_one(self, visit: Visit, model: str, capability: str, cost: int) -> None:
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
        return self._live.stopping

    def refuse_new(self) -> None:
        """Refuse new generations from now on; live ones go on."""
        self._live.refuse_new()

    async def drained(self) -> None:
        """Wait until no generation is live; call `refuse_new` first."""
        await self._live.drained()

    def cut_off(self) -> None:
        """End whatever is live with `shutting_down` as soon as it next waits for the mesh."""
        self._live.cut_off()
