"""The course of one request through the gateway: when what happened, and how it ended."""

import math
from typing import Final

import trio

from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.observing.trace import NO_TRACE, Trace
from aigrid.protocol.errors import Code
from aigrid.protocol.inference import Finish

_CLIENT_SECONDS: Final = 0.01  # whatever takes no longer is our own work


class Course:
    """Told what happens to a request, by whoever makes it happen; one for all its choices.

    Times are seconds of trio's clock.

    Attributes:
        route: the template of its path; "" until it is known, "other" where there is nothing.
        operation: what was asked for, by the name that OpenTelemetry has for it; "" for no answer
            of a model.
        name, model, node: of the model that answers, and who has it (a PeerId); "" before that.
        first_seconds, over_seconds: after so long the answer began, and the request was over; None
            before that.
        status: of HTTP; 499 where the client left before there was one.
        code: of the error that ended it.
        attempts, continued: nodes that were asked, and how often one went on where another one had
            broken off, for all choices.
        finished: whether an answer came to its end; then the tokens are known.
        counted: whether there is any answer; of one that broke off the tokens are those that came,
            and the prompt is estimated.
        longest_tokens: of the choice that has most; they are made at once.
        client_seconds, engine_seconds: what was waited for the client, and for engines.
        written: whether the last byte of the answer was handed to the connection.
        trace: what spans of this request hang from.
    """

    __slots__ = (
        "_at_once_seconds",
        "_until_seconds",
        "attempts",
        "began_seconds",
        "client_seconds",
        "code",
        "completion_tokens",
        "continued",
        "counted",
        "engine_seconds",
        "finished",
        "first_seconds",
        "longest_tokens",
        "model",
        "name",
        "node",
        "operation",
        "over_seconds",
        "prompt_tokens",
        "request_id",
        "route",
        "status",
        "trace",
        "written",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.began_seconds = 0.0
        self.route = self.operation = self.name = self.model = self.node = ""
        self.first_seconds: float | None = None
        self.over_seconds: float | None = None
        self.client_seconds = self.engine_seconds = 0.0
        self._at_once_seconds, self._until_seconds = 0.0, -math.inf
        self.prompt_tokens = self.completion_tokens = self.longest_tokens = 0
        self.attempts = self.continued = 0
        self.status = 0
        self.code: Code | None = None
        self.finished = self.counted = self.written = False
        self.trace: Trace = NO_TRACE

    def begin(self) -> None:
        """The request has arrived."""
        self.began_seconds = trio.current_time()

    def waited(self, seconds: float) -> None:
        """So long it took to receive from the client, or to send: a moment is our own work."""
        if seconds > _CLIENT_SECONDS:
            self.client_seconds += seconds

    def answered(self, answer: Answer) -> None:
        """The first chunk of a choice is there."""
        if self.first_seconds is None:
            self.first_seconds = self.seconds
            self.name, self.model, self.node = answer.name, answer.model, answer.node

    def ended(
        self,
        answer: Answer,
        finish: Finish,
        engine_seconds: float,
        *,
        since_seconds: float = -math.inf,
    ) -> None:
        """A choice has ended well; it was asked for at `since_seconds`.

        Of those made at once the longest wait for an engine is that of all; one that was asked for
        when all others had ended adds its own.
        """
        self.finished = True
        self._worked(since_seconds, engine_seconds)
        self._add(answer, finish.prompt_tokens, finish.completion_tokens)

    def broke_off(
        self,
        answer: Answer,
        prompt_tokens: int,
        completion_tokens: int,
        engine_seconds: float,
        *,
        since_seconds: float = -math.inf,
    ) -> None:
        """A choice that had begun has ended before its end."""
        self._worked(since_seconds, engine_seconds)
        self._add(answer, prompt_tokens, completion_tokens)

    def failed_to_begin(self, name: str, attempts: int) -> None:
        """A choice has no answer; `name` is of the model that was asked last, "" for none."""
        self.name = self.name or name
        self.attempts += attempts

    def client_gone(self) -> None:
        """It left; before the end of its answer if that is not written."""
        if not self.written:
            self.status = self.status or 499
            self.code = self.code or Code.CANCELLED

    def _worked(self, since_seconds: float, engine_seconds: float) -> None:
        if since_seconds >= self._until_seconds:
            self._at_once_seconds = 0.0
        more = max(0.0, engine_seconds - self._at_once_seconds)
        self._at_once_seconds += more
        self.engine_seconds += more
        self._until_seconds = trio.current_time()

    def _add(self, answer: Answer, prompt_tokens: int, completion_tokens: int) -> None:
        self.counted = True
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.longest_tokens = max(self.longest_tokens, completion_tokens)
        self.attempts += answer.attempts
        self.continued += max(0, len(answer.segments) - 1)

    def over(self) -> None:
        """Nothing happens to it any more."""
        self.over_seconds = self.seconds

    @property
    def seconds(self) -> float:
        """Since it arrived, until it was over if it is."""
        if self.over_seconds is not None:
            return self.over_seconds
        return trio.current_time() - self.began_seconds

    @property
    def overhead_ms(self) -> float:
        """Milliseconds that were neither an engine's nor the client's; see SPEC 23."""
        spent = self.seconds - self.engine_seconds - self.client_seconds
        return round(max(0.0, spent) * 1000, 2)
