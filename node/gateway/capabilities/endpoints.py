"""Capabilities over HTTP: what there is, and an outcome asked for by its name.

`GET /v1/capabilities`, `GET /v1/capabilities/{name}`, `POST /v1/capabilities/{name}`.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.capabilities.outcomes import Outcomes
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.json_io import json_body, json_response
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.http.routes import Route
from aigrid.node.gateway.http.text_answer import TextAnswer, headers_of
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai.answers import EVENT_STREAM, comment, error_body
from aigrid.node.gateway.patience import wish_of
from aigrid.node.gateway.step import Step
from aigrid.node.gateway.told import Told, aigrid_object
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.outcome.asking import Want
from aigrid.node.outcome.modes import Fallback
from aigrid.node.outcome.request import Body, asked, decode
from aigrid.protocol.errors import AigridError, InvalidRequestError
from aigrid.protocol.inference import Finish, TextRequest

_encode = msgspec.json.Encoder().encode


class CapabilityEndpoints:
    """The routes of capabilities. A name may be an IRI."""

    def __init__(
        self, core: GatewayCore, outcomes: Outcomes, bodies: BodyReader, limits: GatewayLimits
    ) -> None:
        self._core = core
        self._outcomes = outcomes
        self._bodies = bodies
        self._limits = limits

    def routes(self) -> list[Route]:
        """What exists under /v1/capabilities."""
        return [
            Route("/v1/capabilities", self._list, methods=["GET"]),
            Route("/v1/capabilities/{name:path}", self._one, methods=["GET"]),
            Route("/v1/capabilities/{name:path}", self._ask, methods=["POST"]),
        ]

    async def _list(self, _request: Request) -> Response:
        offered = self._offered()
        data = [
            {**one.summary, "models": offered[one.capability]}
            for one in self._outcomes.contracts.all()
        ]
        return json_response({"object": "list", "data": data})

    async def _one(self, request: Request) -> Response:
        contract = self._outcomes.contracts.of(request.path_params["name"])
        return json_response(
            {
                **contract.summary,
                "models": self._offered()[contract.capability],
                "input": msgspec.Raw(contract.input),
                "output": msgspec.Raw(contract.output),
                "parameters": msgspec.Raw(contract.parameters),
            }
        )

    async def _ask(self, request: Request) -> Response | TextAnswer:
        name = request.path_params["name"]
        body = decode(await json_body(self._bodies, request))
        if body.stream:
            return self._stream(request, name, body)
        wish = wish_of(request.fields, body.keep_alive, self._limits)
        found = await request.unless_gone(
            self._outcomes.ask(name, body, request_id=request.id, visit=request.visit, wish=wish)
        )
        told = found["aigrid"]
        names = ("node", "model", "attempts", "overhead_ms")
        return json_response(found, headers_of(*(told[name] for name in names)))

    def _stream(self, request: Request, name: str, body: Body) -> TextAnswer:
        found = asked(self._outcomes.contracts.of(name), body)
        want = found.want
        if not isinstance(want.request, TextRequest) or not isinstance(found.mode, Fallback):
            raise InvalidRequestError(
                "Only text is streamed, and only in the mode `fallback`: leave `stream` out.",
                param="stream",
            )
        wish = wish_of(request.fields, body.keep_alive, self._limits, stream=True)
        generation = self._core.generate(
            _call(want, want.request), request_id=request.id, visit=request.visit, wish=wish
        )
        return TextAnswer(generation, EventSpelling(), stream=True, limits=self._limits)

    def _offered(self) -> Counter[str]:
        """How many models can be asked for each capability now."""
        views = (listed.view for listed in self._core.models())
        return self._outcomes.contracts.counted(view.capabilities for view in views)


class EventSpelling:
    """A streamed text: events with `text`, and a last one with `output` and `aigrid`."""

    media_type = EVENT_STREAM

    def __init__(self) -> None:
        self._texts: list[str] = []

    def error(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        return error_body(error, segments)

    def whole(self, steps: Sequence[Step], told: Told) -> bytes:
        """See `Spelling`."""
        text = "".join(step.text for step in steps)
        return _encode({"output": {"text": text}, "aigrid": aigrid_object(told)})

    def begin(self, _answer: Answer) -> bytes:
        """See `Spelling`."""
        return b""

    def step(self, step: Step) -> bytes:
        """See `Spelling`."""
        if not step.text:
            return b""
        self._texts.append(step.text)
        return _event({"text": step.text})

    def end(self, finish: Finish, told: Told) -> bytes:
        """See `Spelling`."""
        said = {
            "output": {"text": "".join(self._texts)},
            "finish_reason": finish.reason,
            "aigrid": aigrid_object(told),
        }
        return _event(said) + b"data: [DONE]\n\n"

    def comment(self, text: str) -> bytes:
        """See `Spelling`."""
        return comment(text)

    def failed(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """See `Spelling`."""
        return b"data: " + error_body(error, segments) + b"\n\n"


def _call(want: Want, request: TextRequest) -> TextCall:
    return TextCall(
        (), request, capability=want.contract.capability, criteria=want.criteria, stream=True
    )


def _event(value: object) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"
