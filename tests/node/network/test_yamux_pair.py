"""Two Yamux sessions joined: everything arrives, in order, whatever the steps."""

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.network.yamux_events import Ended, Event, Opened, Received, Writable
from aigrid.node.network.yamux_session import Session
from aigrid.node.network.yamux_state import StreamState
from aigrid.protocol.limits import KIB, MIB


class Side:
    """A session, what its streams got, and what is on its way to it."""

    def __init__(self, *, is_initiator: bool) -> None:
        self.session = Session(is_initiator=is_initiator)
        self.got: dict[int, bytes] = {}
        self.read: dict[int, int] = {}
        self.ended: set[int] = set()
        self.incoming = b""

    def states(self) -> list[StreamState]:
        return list(self.session.streams.values())

    def take(self, count: int) -> None:
        data, self.incoming = self.incoming[:count], self.incoming[count:]
        for event in self.session.receive(data, 0.0):
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Received):
            self.got[event.stream_id] = self.got.get(event.stream_id, b"") + event.data
        elif isinstance(event, Ended):
            self.ended.add(event.stream_id)
        else:
            assert isinstance(event, Opened | Writable), event

    def consume(self, stream: StreamState, most: int) -> None:
        unread = len(self.got.get(stream.stream_id, b"")) - self.read.get(stream.stream_id, 0)
        count = min(most, unread)
        self.read[stream.stream_id] = self.read.get(stream.stream_id, 0) + count
        self.session.consumed(stream, count)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "write", "move", "read", "end", "widen"]),
        st.booleans(),
        st.integers(0, 7),
        st.integers(1, 400_000),
    ),
    max_size=60,
)


@given(STEPS)
def test_two_joined_deliver_everything_in_order(steps: list[tuple[str, bool, int, int]]) -> None:
    sides = (Side(is_initiator=True), Side(is_initiator=False))
    sent: list[dict[int, bytes]] = [{}, {}]

    def move(here: int, count: int) -> None:
        other = sides[1 - here]
        while sides[here].session.unsent_bytes:
            other.incoming += sides[here].session.next_message()
        other.take(count)

    for number, (action, second, which, amount) in enumerate(steps):
        here = int(second)
        side, streams = sides[here], sides[here].states()
        if action == "open":
            side.session.open()
        elif action == "widen":
            side.session.window_bytes = MIB
        elif action == "move":
            move(here, amount)
        elif streams:
            stream = streams[which % len(streams)]
            if action == "write" and not stream.fin_sent:
                payload = bytes([number]) * amount
                taken = side.session.send(stream, memoryview(payload), 300_000)
                before = sent[here].get(stream.stream_id, b"")
                sent[here][stream.stream_id] = before + payload[:taken]
            elif action == "read":
                side.consume(stream, amount)
            elif action == "end":
                side.session.end(stream)
    for _ in range(2):
        move(0, 1 << 30)
        move(1, 1 << 30)
    for here, side in enumerate(sides):
        assert side.session.violated is None
        assert side.got == {k: v for k, v in sent[1 - here].items() if v}
        assert side.session.unread_bytes == sum(s.unread_bytes for s in side.states())


def test_window_of_a_whole_session_is_never_lost() -> None:
    """Much more than a window, through small reads: the writer is always let go on."""
    left, right = Side(is_initiator=True), Side(is_initiator=False)
    stream, data = left.session.open(), memoryview(bytes(3 * MIB))
    while data or left.session.unsent_bytes:
        data = data[left.session.send(stream, data, 100_000) :]
        while left.session.unsent_bytes:
            right.incoming += left.session.next_message()
        right.take(1 << 30)
        for state in right.states():
            right.consume(state, 70 * KIB)
        while right.session.unsent_bytes:
            left.incoming += right.session.next_message()
        left.take(1 << 30)
    assert right.got[1] == bytes(3 * MIB)
