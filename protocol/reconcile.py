"""Range-based set reconciliation: two sets learn how they differ, in a few small messages.

Sans-I/O. The messages are those of the negentropy protocol, version 1 (see `reconcile_wire`): the
initiator sends fingerprints of ranges of its items; whoever finds a fingerprint that is not its own
splits that range, until what is left is short enough to be listed. Only the initiator learns the
result, and only it keeps state: a responder answers each message from its items alone.
"""

from typing import NamedTuple

from aigrid.protocol.errors import RemoteError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.reconcile_items import Items
from aigrid.protocol.reconcile_wire import (
    ID_BYTES,
    INFINITY,
    VERSION,
    ZERO,
    Mode,
    Range,
    Writer,
    decode_ranges,
)

FRAME_BYTES_MIN = 4096
_BUCKETS = 16
_RESERVED_BYTES = 200  # of a frame, for the ranges that end a message which became too long
# A message of F bytes holds at most F / 19 fingerprints. What answers it is at most a skip and a
# list for each, and F / 19 new fingerprints: there is no reason for more than F / 6 ranges.
_BYTES_PER_RANGE = 6
_VERSIONS = range(0x60, 0x70)
NOTHING_TO_COMPARE = bytes([VERSION])  # a message without ranges, which settles everything


class Step(NamedTuple):
    """What came of a message.

    `reply` goes back to its sender, and is None when an initiator has nothing left to ask, or no
    rounds left: then it is not `complete`, and another conversation, after the records named so
    far were exchanged, finds the rest. `have_ids` are held here and not there, `need_ids` there and
    not here, each named in one step only; a responder learns neither.
    """

    reply: bytes | None
    have_ids: list[bytes]
    need_ids: list[bytes]
    complete: bool = True


class Reconciler:
    """One side of a conversation; the side that calls `initiate` is the initiator."""

    def __init__(
        self,
        items: Items,
        *,
        frame_max_bytes: int = LIMITS.reconcile_max_bytes,
        rounds_max: int = LIMITS.reconcile_rounds_max,
    ) -> None:
        """Messages are at most `frame_max_bytes` long, which is at least `FRAME_BYTES_MIN`."""
        if frame_max_bytes < FRAME_BYTES_MIN:
            raise ValueError(f"a frame holds at least {FRAME_BYTES_MIN} bytes")
        self._items = items
        self._frame_max_bytes = frame_max_bytes
        self._rounds_left = rounds_max
        self._initiator = False
        # A message that ran out of room covers its rest by one fingerprint, so that ranges which
        # were settled before are gone through again.
        self._have: set[bytes] = set()
        self._need: set[bytes] = set()

    def initiate(self) -> bytes:
        """The first message."""
        self._initiator = True
        turn = _Turn(self._items, self._frame_max_bytes, initiator=True)
        turn.split(len(self._items), INFINITY)
        return turn.out.message()

    def reconcile(self, message: bytes) -> Step:
        """Take in the other side's message.

        Raises:
            RemoteError: `protocol_violation`, for anything that the protocol does not allow.
        """
        if len(message) > self._frame_max_bytes:
            raise RemoteError("a reconciliation message over its size")
        if not message or message[0] not in _VERSIONS:
            raise RemoteError("not a reconciliation message")
        if message[0] != VERSION:
            if self._initiator:
                raise RemoteError("a version of reconciliation that is not known here")
            return Step(bytes([VERSION]), [], [])
        turn = _Turn(self._items, self._frame_max_bytes, initiator=self._initiator)
        for each in decode_ranges(message, self._frame_max_bytes // _BYTES_PER_RANGE):
            if not turn.take(each):
                break
        if not self._initiator:
            return Step(turn.out.message(), [], [])
        have, need = _new(turn.have_ids, self._have), _new(turn.need_ids, self._need)
        if turn.out.empty:
            return Step(None, have, need)
        self._rounds_left -= 1
        if self._rounds_left < 0:
            return Step(None, have, need, complete=False)
        return Step(turn.out.message(), have, need)


class _Turn:
    """The answer to one message while its ranges are gone through, in order."""

    def __init__(self, items: Items, frame_max_bytes: int, *, initiator: bool) -> None:
        self.out = Writer()
        self.have_ids: list[bytes] = []
        self.need_ids: list[bytes] = []
        self._items = items
        self._room_bytes = frame_max_bytes - _RESERVED_BYTES
        self._initiator = initiator
        self._index = 0  # of the first item not yet gone through
        self._bound = ZERO  # where the range of that item begins
        self._skipping = False  # ranges up to `_bound` are settled, but not yet said to be

    def take(self, each: Range) -> bool:
        """Go through one range; whether there is room for what comes of the next."""
        stop = self._items.lower_bound(each.upper, self._index)
        mark = self.out.mark()
        skipping = self._skipping
        if each.mode is Mode.FINGERPRINT:
            if each.fingerprint == self._items.fingerprint(self._index, stop):
                self._skipping = True
            else:
                self.split(stop, each.upper)
        elif each.mode is Mode.ID_LIST and not self._initiator:
            return self._list(stop, each.upper)
        else:
            if each.mode is Mode.ID_LIST:
                self._compare(stop, each.ids)
            self._skipping = True
        if self.out.size > self._room_bytes:
            self.out.rewind(mark)
            self._skipping = skipping
            self._rest()
            return False
        self._index, self._bound = stop, each.upper
        return True

    def split(self, stop: int, upper: bytes) -> None:
        """Say what is held from here to `stop`: a list if that is short, else fingerprints."""
        self._settle()
        start, count = self._index, stop - self._index
        if count < 2 * _BUCKETS:
            self.out.id_list(upper, self._items.ids(start, stop))
            return
        size, larger = divmod(count, _BUCKETS)
        for bucket in range(_BUCKETS):
            end = start + size + (bucket < larger)
            bound = upper if end == stop else self._items.minimal_bound(end)
            self.out.fingerprint(bound, self._items.fingerprint(start, end))
            start = end

    def _compare(self, stop: int, ids: tuple[bytes, ...]) -> None:
        ours = self._items.ids(self._index, stop)
        theirs = dict.fromkeys(ids)
        for one in ours:
            if one in theirs:
                del theirs[one]
            else:
                self.have_ids.append(one)
        self.need_ids += theirs

    def _list(self, stop: int, upper: bytes) -> bool:
        """A responder's answer to a list is its own, as much of it as there is room for."""
        count = (self._room_bytes - self.out.size) // ID_BYTES + 1
        if self._index + count < stop:
            stop = self._index + count
            upper = self._items[stop]
        self._settle()
        self.out.id_list(upper, self._items.ids(self._index, stop))
        self._index, self._bound = stop, upper
        if self.out.size > self._room_bytes:
            self._rest()
            return False
        return True

    def _settle(self) -> None:
        if self._skipping:
            self.out.skip(self._bound)
            self._skipping = False

    def _rest(self) -> None:
        """End the message with the fingerprint of everything that it has no room for."""
        self._settle()
        self.out.fingerprint(INFINITY, self._items.fingerprint(self._index, len(self._items)))


def _new(ids: list[bytes], named: set[bytes]) -> list[bytes]:
    """Those not yet in `named`, in order and once; they are added to it."""
    fresh = [one for one in dict.fromkeys(ids) if one not in named]
    named.update(fresh)
    return fresh
