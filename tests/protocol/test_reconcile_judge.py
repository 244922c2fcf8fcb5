"""Other people's implementations of negentropy, as judges: the same bytes, the same result.

From the npm registry: `@nostr-dev-kit/sync` has both roles, `nostr-tools` (nip77) the initiator's. The
reference's own JavaScript is not published there (the name `negentropy` is not taken).
"""

import json
import random
from pathlib import Path

import pytest
from tests.protocol import judges

from aigrid.protocol.reconcile import Reconciler
from aigrid.protocol.reconcile_items import Items, item
from aigrid.protocol.reconcile_wire import decode_ranges

PACKAGES = ("@nostr-dev-kit/sync@1.0.0", "nostr-tools@2.25.2")
# The first imports a client library that its negentropy does not use: these names are enough.
STAND_IN = {
    "@nostr-dev-kit/ndk/package.json": '{"type": "module", "main": "index.js"}',
    "@nostr-dev-kit/ndk/index.js": "export const NDKRelaySet = 0, NDKSubscriptionCacheUsage = 0;\n"
    "export const fetchRelayInformation = 0;\n",
}
SCRIPT = Path(__file__).with_name("negentropy_judge.mjs")
VECTORS = Path(__file__).parents[1] / "vectors" / "reconcile.json"
FRAME = 1 << 20


@pytest.fixture(scope="module")
def judge():
    with judges.judge(SCRIPT, PACKAGES, extra=STAND_IN) as running:
        yield running


class Side:
    """One side of a conversation, held by the judge."""

    def __init__(self, judge, kind, items, frame=0):
        self.judge = judge
        self.side = judge.ask(
            "new",
            kind=kind,
            items=[(timestamp, one.hex()) for timestamp, one in items],
            frame=frame,
        )

    def initiate(self):
        return bytes.fromhex(self.judge.ask("initiate", side=self.side))

    def reconcile(self, message):
        step = self.judge.ask("reconcile", side=self.side, message=message.hex())
        reply = step["reply"]
        return (
            None if reply is None else bytes.fromhex(reply),
            [bytes.fromhex(one) for one in step["have"]],
            [bytes.fromhex(one) for one in step["need"]],
        )


def ours(items, frame=FRAME):
    return Reconciler(
        Items(item(timestamp, one) for timestamp, one in items), frame_max_bytes=frame
    )


def talk(initiator, new_responder):
    """(messages, have, need)."""
    messages, have, need = [initiator.initiate()], set(), set()
    for _ in range(100):
        messages.append(new_responder().reconcile(messages[-1])[0])
        reply, some_have, some_need = initiator.reconcile(messages[-1])[:3]
        have.update(some_have)
        need.update(some_need)
        if reply is None:
            return messages, have, need
        messages.append(reply)
    raise AssertionError("no end")


def two_sets(seed, common, differing, seconds):
    rng = random.Random(seed)

    def some(count):
        return [(1_790_000_000 + rng.randrange(seconds), rng.randbytes(32)) for _ in range(count)]

    shared = some(common)
    return shared + some(differing), shared + some(differing)


SETS = {
    "empty": two_sets(1, 0, 0, 1),
    "one each": two_sets(2, 0, 1, 1),
    "below a split": two_sets(3, 25, 3, 5),
    "one second": two_sets(4, 600, 20, 1),
    "many seconds": two_sets(5, 3000, 40, 10_000),
    "nothing in common": two_sets(6, 0, 700, 100),
    "a newcomer": ([], two_sets(7, 900, 0, 100)[1]),
}


def meaning(messages):
    """What messages say: `@nostr-dev-kit/sync` pads the bounds that it read with zeros."""
    return [
        [
            (one.upper.ljust(40, b"\0"), one.mode, one.fingerprint, one.ids)
            for one in decode_ranges(each, FRAME)
        ]
        for each in messages
    ]


@pytest.mark.parametrize("name", SETS)
def test_every_message_of_an_initiator_is_the_same_byte_for_byte(judge, name):
    a, b = SETS[name]
    expected = talk(ours(a), lambda: ours(b))
    assert talk(Side(judge, "nostr-tools", a, FRAME), lambda: ours(b)) == expected
    assert Side(judge, "ndk", a).initiate() == expected[0][0]


@pytest.mark.parametrize("name", SETS)
def test_every_message_of_either_side_means_the_same(judge, name):
    a, b = SETS[name]
    messages, have, need = talk(ours(a), lambda: ours(b))
    for other in (
        talk(Side(judge, "ndk", a), lambda: Side(judge, "ndk", b)),
        talk(ours(a), lambda: Side(judge, "ndk", b)),
        talk(Side(judge, "ndk", a), lambda: ours(b)),
    ):
        assert meaning(other[0]) == meaning(messages)
        assert other[1:] == (have, need)


def test_the_answer_to_fingerprints_is_the_same_byte_for_byte(judge):
    for name in ("one second", "many seconds", "nothing in common"):
        a, b = SETS[name]
        first = ours(a).initiate()
        answer, _, _ = Side(judge, "nostr-tools", b, FRAME).reconcile(first)
        assert answer == ours(b).reconcile(first).reply


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("frame", [4096, 20_000])
def test_short_frames_end_in_the_same_sets(judge, name, frame):
    a, b = SETS[name]
    only_a = {one for _, one in a} - {one for _, one in b}
    only_b = {one for _, one in b} - {one for _, one in a}
    cases = [
        (Side(judge, "ndk", a, frame), lambda: ours(b, frame)),
        (Side(judge, "nostr-tools", a, frame), lambda: ours(b, frame)),
    ]
    if name != "a newcomer":
        # There the judge is wrong: after a list that it cut short it sends the fingerprint of what
        # follows the whole list.
        cases.append((ours(a, frame), lambda: Side(judge, "ndk", b, frame)))
    for initiator, responder in cases:
        messages, have, need = talk(initiator, responder)
        assert (have, need) == (only_a, only_b)
        assert max(map(len, messages)) <= frame


def test_the_vectors_are_what_others_compute(judge):
    vectors = json.loads(VECTORS.read_text())
    assert vectors["conversations"]
    for vector in vectors["conversations"]:
        a, b = (
            [(timestamp, bytes.fromhex(one)) for timestamp, one in vector[side]]
            for side in ("initiator_items", "responder_items")
        )
        messages, have, need = talk(Side(judge, "ndk", a), lambda b=b: Side(judge, "ndk", b))
        said = [bytes.fromhex(one) for one in vector["messages"]]
        assert meaning(messages) == meaning(said)
        assert talk(Side(judge, "nostr-tools", a, FRAME), lambda b=b: ours(b))[0] == said
        assert sorted(one.hex() for one in have) == sorted(vector["have_ids"])
        assert sorted(one.hex() for one in need) == sorted(vector["need_ids"])
