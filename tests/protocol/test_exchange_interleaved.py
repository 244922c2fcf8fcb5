"""Client and server machines over two wires, in every order of events that a seed can make."""

import random
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.exchange import Cancelled, Data, Ended, Failed, RequestReceived
from aigrid.protocol.exchange_client import ClientExchange
from aigrid.protocol.exchange_server import RequestBudget, ServerExchange, ServerState
from aigrid.protocol.framing import HEADER_BYTES
from aigrid.protocol.limits import LIMITS

FRAME, WINDOW, ROOM, EXCHANGES = 128, 512, 800, 6
SMALL = replace(
    LIMITS,
    frame_max_bytes=FRAME,
    request_part_least_bytes=1,
    request_max_bytes=960,
    stream_credit_bytes=WINDOW,
)


class Link:
    """One stream; any number of bytes is delivered at a time, the application acts in between."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.client = ClientExchange(SMALL)
        # The server allows less than the client asks, and holds less than the largest request.
        self.budget = RequestBudget(ROOM)
        self.server = ServerExchange(
            replace(SMALL, request_part_least_bytes=1, request_max_bytes=ROOM + 80), self.budget
        )
        self.up, self.down = bytearray(), bytearray()
        self.number = 0
        self.request = b""
        self.sent: list[bytes] = []
        self.got: list[bytes] = []
        self.unread: list[bytes] = []
        self.serving = self.stopping = self.cancelled = False
        self.outcome: Ended | Failed | None = None
        self.said: LocalError | None = None
        self.results: list[str] = []

    def step(self) -> None:
        self.rng.choice(
            [self.deliver_up, self.deliver_down, self.serve, self.read, self.begin, self.give_up]
        )()
        self.up += self.client.data_to_send()
        self.down += self.server.data_to_send()
        waiting = sum(HEADER_BYTES + len(body) for body in self.unread)
        assert waiting < WINDOW + FRAME + HEADER_BYTES

    @property
    def quiet(self) -> bool:
        waiting = self.unread or self.up or self.down
        return self.client.idle and self.outcome is None and not waiting

    def begin(self) -> None:
        idle = self.client.idle and not self.unread and self.outcome is None
        if idle and self.number < EXCHANGES:
            self.number += 1
            self.cancelled = False
            self.sent, self.got = [], []
            size = self.rng.choice([0, 40, 128, 129, 480, ROOM, ROOM + 1, ROOM + 81, 960])
            self.request = bytes([self.number]) * size
            self.client.start(self.request)

    def give_up(self) -> None:
        if self.rng.random() < 0.03 and not self.client.idle:
            self.cancelled = True
            self.unread.clear()
            self.client.cancel()

    def deliver_up(self) -> None:
        size = self.rng.randint(0, len(self.up))
        data, self.up = bytes(self.up[:size]), self.up[size:]
        for happened in self.server.receive(data):
            if isinstance(happened, RequestReceived):
                assert not self.serving, "two requests at once"
                assert happened.body == self.request, "a request of another exchange"
                self.serving, self.stopping = True, False
            elif isinstance(happened, Cancelled):
                assert self.serving
                self.stopping = True

    def deliver_down(self) -> None:
        size = self.rng.randint(0, len(self.down))
        data, self.down = bytes(self.down[:size]), self.down[size:]
        for happened in self.client.receive(data):
            if isinstance(happened, Data):
                self.unread.append(happened.body)
            elif isinstance(happened, Cancelled):
                assert self.cancelled
                self.results.append("cancelled")
            elif isinstance(happened, (Ended, Failed)):
                assert not self.cancelled
                self.outcome = happened

    def serve(self) -> None:
        if not self.serving:
            return
        if self.stopping or self.rng.random() < 0.2:
            self.said = LocalError("no", Code.DENIED) if self.rng.random() < 0.3 else None
            self.server.end(self.said)
            self.serving = False
        elif self.server.can_send:
            body = bytes([self.number, len(self.sent) % 256]) * self.rng.randint(0, FRAME // 2)
            self.sent.append(body)
            self.server.send(body)

    def read(self) -> None:
        if self.unread:
            body = self.unread.pop(0)
            self.got.append(body)
            self.client.consumed(len(body))
        elif self.outcome is not None:
            self.results.append(self.finish(self.outcome))
            self.outcome = None

    def finish(self, outcome: Ended | Failed) -> str:
        if isinstance(outcome, Failed) and outcome.error.code is not Code.DENIED:
            assert outcome.error.code in {Code.BODY_TOO_LARGE, Code.BUSY}
            assert len(self.request) > ROOM
            return "refused"
        assert (self.said is None) is isinstance(outcome, Ended)
        assert self.got == self.sent, "lost, doubled or reordered bodies"
        return "ended" if self.said is None else "denied"


@settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_no_interleaving_loses_data_or_leaves_the_sides_in_disagreement(seed: int) -> None:
    link = Link(random.Random(seed))
    for _ in range(6000):
        link.step()
        if link.number == EXCHANGES and link.quiet:
            break
    assert len(link.results) == EXCHANGES, "an exchange did not end"
    assert link.server.state is ServerState.IDLE
    assert not link.serving
    assert link.budget.take(ROOM), "bytes of a request were not given back"
    for result in set(link.results):
        event(result)
