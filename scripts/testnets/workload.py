"""Requests through gateways of nodes, as any OpenAI client makes them, and what came of each."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scripts.testnets.grid import Member, State
from scripts.testnets.schedule import Ask

OK, WRONG, HIT, NO_NODE = "ok", "wrong", "asker_hit", "no_asker"
NOT_COUNTED = frozenset({HIT, NO_NODE})
ECHO = "echo"
SAID_MAX_CHARS = 200
UNREADABLE = (  # no HTTP, no JSON, or another shape
    OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip

Connect = Callable[[int, str, float], http.client.HTTPConnection]
"""Node's number, `HOST:PORT` and patience in seconds to a connection with its gateway."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    Attributes:
        at_seconds: when it was due, from the begin.
        code: `ok`; `wrong`, if the echo model said something else; `asker_hit`, if the node that
            was asked was itself killed, held or restarted meanwhile, whatever came of it;
            `no_asker`, if there was none; else the error's code, or what the client saw.
        took_seconds: from when it was due, so that waiting for a free client counts.
        first_seconds: the same, to the first text of a stream; 0 for others.
        served_by: PeerId.
    """

    at_seconds: float
    code: str
    took_seconds: float
    asker: int = -1
    streamed: bool = False
    first_seconds: float = 0.0
    served_by: str = ""
    attempts: int = 0
    said: str = ""


@dataclass(frozen=True, slots=True)
class Prompts:
    """How long, in words of a prompt and tokens of an answer, and the seconds to wait for it."""

    words: int
    tokens: int
    patience_seconds: float

    def text(self, ask: Ask) -> str:
        return " ".join(f"word{ask.number}-{n}" for n in range(self.words))

    def echoed(self, ask: Ask, answer: str) -> bool:
        """Whether this is what the echo model has to say, whose tokens are words."""
        return answer.split() == self.text(ask).split()[: self.tokens]

    def body(self, ask: Ask) -> dict[str, Any]:
        return {
            "model": ask.model,
            "messages": [{"role": "user", "content": self.text(ask)}],
            "max_tokens": self.tokens,
            "stream": ask.streamed,
        }


class _BrokenError(Exception):
    """A request failed: the code, and what was said."""

    def __init__(self, code: str, said: str) -> None:
        super().__init__(said)
        self.code = code


@dataclass(slots=True)
class _Answer:
    text: str = ""
    first_at: float = 0.0
    served_by: str = ""
    attempts: int = 0


class Workload:
    """Up to `clients` ask at once, from threads; `outcomes` grows as they end."""

    def __init__(self, began: float, prompts: Prompts, clients: int, connect: Connect) -> None:
        self._began = began
        self._prompts = prompts
        self._connect = connect
        self._pool = ThreadPoolExecutor(clients)
        self._running: list[Future[Outcome]] = []
        self.outcomes: list[Outcome] = []

    @property
    def under_way(self) -> int:
        return len(self._running)

    def start(self, ask: Ask, askers: list[Member]) -> None:
        """At one of the nodes that are up."""
        if not askers:
            self.outcomes.append(Outcome(ask.at_seconds, NO_NODE, 0.0))
            return
        asker = askers[int(ask.draw * len(askers))]
        self._running.append(self._pool.submit(self._ask, ask, asker))

    def collect(self) -> None:
        """Take what has ended. Now and then: it looks at all that are under way."""
        self.outcomes += [one.result() for one in self._running if one.done()]
        self._running = [one for one in self._running if not one.done()]

    def finish(self, patience_seconds: float) -> None:
        """Wait for those under way; those that do not end in time have failed."""
        deadline = time.monotonic() + patience_seconds
        while self._running and time.monotonic() < deadline:
            time.sleep(0.1)
            self.collect()
        self.outcomes += [
            Outcome(time.monotonic() - self._began, "hangs", patience_seconds)
            for _ in self._running
        ]
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, ask: Ask, asker: Member) -> Outcome:
        due, began = self._began + ask.at_seconds, time.monotonic()
        answer, code, said = _Answer(), OK, ""
        try:
            answer = self._answer(ask, asker)
            if ask.model == ECHO and not self._prompts.echoed(ask, answer.text):
                code, said = WRONG, answer.text[:SAID_MAX_CHARS]
        except _BrokenError as error:
            code, said = error.code, str(error)[:SAID_MAX_CHARS]
        except UNREADABLE as error:
            code, said = f"client_{type(error).__name__}", str(error)[:SAID_MAX_CHARS]
        is_hit = asker.hit_at >= began - 0.5 or asker.state is not State.UP
        if is_hit and code != WRONG:  # which no end of a gateway makes of a right one
            code = HIT
        return Outcome(
            at_seconds=ask.at_seconds,
            code=code,
            took_seconds=time.monotonic() - due,
            asker=asker.number,
            streamed=ask.streamed,
            first_seconds=answer.first_at - due if answer.first_at else 0.0,
            served_by=answer.served_by,
            attempts=answer.attempts,
            said=said,
        )

    def _answer(self, ask: Ask, asker: Member) -> _Answer:
        patience = self._prompts.patience_seconds
        netloc = urlsplit(asker.node.gateway).netloc
        connection = self._connect(asker.number, netloc, patience)
        headers = {"Content-Type": "application/json", "x-aigrid-patience": f"{patience:.0f}"}
        try:
            body = json.dumps(self._prompts.body(ask))
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            answer = _Answer(served_by=response.getheader("x-aigrid-node") or "")
            answer.attempts = int(response.getheader("x-aigrid-attempts") or 0)
            if response.status != http.HTTPStatus.OK:
                raise _error(json.loads(response.read()))
            if ask.streamed:
                _read_stream(response, answer)
            else:
                answer.text = json.loads(response.read())["choices"][0]["message"]["content"]
        finally:
            connection.close()
        return answer


def _read_stream(response: http.client.HTTPResponse, answer: _Answer) -> None:
    for event in _events(response):
        if "error" in event:
            raise _error(event)
        text = "".join(c.get("delta", {}).get("content") or "" for c in event["choices"])
        if text:
            answer.first_at = answer.first_at or time.monotonic()
            answer.text += text
        told = event.get("aigrid", {})
        answer.attempts = int(told.get("attempts", answer.attempts))
        if told.get("segments"):
            answer.served_by = str(told["segments"][-1]["node"])


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        data = line.strip()
        if data == b"data: [DONE]":
            return
        if data.startswith(b"data: "):
            yield json.loads(data.removeprefix(b"data: "))
    raise _BrokenError("stream_cut", "the stream stopped before its end")


def _error(body: dict[str, Any]) -> _BrokenError:
    error = body.get("error", {})
    return _BrokenError(str(error.get("code", "unknown")), str(error.get("message", body)))
