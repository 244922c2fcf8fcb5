"""Two sets end equal in few rounds, and nothing a peer may send does anything but be refused."""

import hashlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.reconcile import FRAME_BYTES_MIN, Reconciler, Step
from aigrid.protocol.reconcile_items import Items, item
from aigrid.protocol.reconcile_wire import (
    INFINITY,
    TIMESTAMP_MAX,
    Mode,
    Writer,
    decode_ranges,
    varint,
)

TS = 8
few_ids = st.integers(0, 40).map(lambda n: hashlib.sha256(bytes([n])).digest())
near_ids = st.integers(0, 2**18 - 1).map(lambda n: n.to_bytes(32, "big"))  # long common prefixes
any_ids = st.binary(min_size=32, max_size=32)


def timed(one: bytes) -> bytes:
    """An id has one timestamp: often that of others, sometimes far off."""
    return item(one[31] % 4 if one[30] % 4 else int.from_bytes(one[24:]) % TIMESTAMP_MAX, one)


one_item = (few_ids | near_ids | any_ids).map(timed)


def talk(ours, theirs, frame_max_bytes=FRAME_BYTES_MIN, rounds_max=64):
    """(have, need, messages) of a conversation between two sets of items."""
    initiator = Reconciler(Items(ours), frame_max_bytes=frame_max_bytes, rounds_max=rounds_max)
    have, need = [], []
    messages: list[Any] = [initiator.initiate()]
    while True:
        responder = Reconciler(Items(theirs), frame_max_bytes=frame_max_bytes)  # stateless
        answer = responder.reconcile(messages[-1])
        assert (answer.have_ids, answer.need_ids) == ([], [])
        assert answer.reply is not None
        messages.append(answer.reply)
        step = initiator.reconcile(answer.reply)
        have += step.have_ids
        need += step.need_ids
        if step.reply is None:
            assert max(map(len, messages)) <= frame_max_bytes
            return have, need, messages
        messages.append(step.reply)


def ids(items):
    return {one[TS:] for one in items}


def check(ours, theirs, **options):
    have, need, messages = talk(ours, theirs, **options)
    assert len(have) == len(set(have))
    assert len(need) == len(set(need))
    assert set(have) == ids(set(ours) - set(theirs))
    assert set(need) == ids(set(theirs) - set(ours))
    return messages


@given(common=st.sets(one_item, max_size=80), a=st.sets(one_item), b=st.sets(one_item))
def test_any_two_sets_end_equal_in_few_rounds(common, a, b):
    messages = check(common | a, common | b)
    assert len(messages) <= 2 * 4


@given(
    st.integers(0, 2**32),
    st.integers(0, 3000),
    st.integers(0, 1500),
    st.sampled_from([0, 50, 10**9]),
)
@settings(max_examples=40, deadline=None)
def test_large_sets_end_equal_under_the_smallest_frames(seed, common, differing, spread):
    rng = random.Random(seed)

    def some(count):
        return {item(rng.randint(0, spread), rng.randbytes(32)) for _ in range(count)}

    shared = some(common)
    a, b = some(rng.randint(0, differing)), some(rng.randint(0, differing))
    messages = check(shared | a, shared | b)
    total = common + 2 * differing
    assert len(messages) <= 2 * (8 + total // 40)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(0, 0), (0, 1), (1, 0), (0, 31), (31, 0), (0, 33), (33, 0)]
)
def test_empty_and_small_sets_take_one_exchange(ours, theirs):
    def some(n):
        return [item(1, bytes([k]) * 32) for k in range(n)]

    messages = check(some(ours), some(theirs))
    assert len(messages) == 2


def test_a_newcomer_gets_everything_in_order_by_frames():
    theirs = [item(n, hashlib.sha256(bytes([n >> 8, n & 255])).digest()) for n in range(5000)]
    _, need, messages = talk([], theirs, frame_max_bytes=64 * 1024)
    assert need == [one[TS:] for one in theirs]
    assert len(messages) == 2 * (5000 * 32 // (64 * 1024) + 1)


def test_recent_changes_are_cheap():
    rng = random.Random(1)
    items = [item(1_700_000_000 + n, rng.randbytes(32)) for n in range(10_100)]
    messages = check(
        set(items[:10_000]), set(items[:9_900] + items[10_000:]), frame_max_bytes=65536
    )
    assert len(messages) <= 6
    assert sum(map(len, messages)) < 12_000


def test_equal_sets_answer_with_the_version_alone():
    items = [item(n, bytes([n]) * 32) for n in range(200)]
    assert check(items, items)[1:] == [b"\x61"]


def test_a_fingerprint_is_that_of_the_definition():
    members = [item(n, hashlib.sha256(bytes([n])).digest()) for n in range(200)]
    items = Items(reversed(members))
    total = sum(int.from_bytes(one[TS:], "little") for one in members[3:150]) % 2**256
    expected = hashlib.sha256(total.to_bytes(32, "little") + b"\x81\x13").digest()[:16]  # 147
    assert items.fingerprint(3, 150) == expected
    assert items.fingerprint(7, 7) == hashlib.sha256(bytes(33)).digest()[:16]


@given(st.integers(0, 2**64 - 1), st.binary(max_size=32))
def test_bounds_and_varints_are_read_as_written(timestamp, prefix):
    bound = min(timestamp, TIMESTAMP_MAX).to_bytes(8, "big") + prefix
    writer = Writer()
    writer.skip(bound)
    writer.id_list(INFINITY, [bytes(32)])
    ranges = list(decode_ranges(writer.message(), 2))
    assert [(r.upper, r.mode, r.ids) for r in ranges] == [
        (bound, Mode.SKIP, ()),
        (INFINITY, Mode.ID_LIST, (bytes(32),)),
    ]
    assert varint(300) == b"\x82\x2c"
    assert varint(0) == b"\x00"


HOSTILE = {
    "empty": "",
    "no version": "00",
    "above the versions": "70",
    "cut in a bound": "6181",
    "cut before the mode": "610000",
    "cut in a fingerprint": "610000" + "01" + "00" * 15,
    "cut in a list": "610000" + "0202" + "00" * 63,
    "an endless count": "610000" + "02" + "ff" * 9 + "7f",
    "a padded varint": "618000" + "00",
    "a varint of 65 bits": "61" + "82" + "80" * 8 + "00" + "00" + "00",
    "a varint without end": "61" + "ff" * 40,
    "a long id prefix": "610121" + "00" * 33 + "00",
    "timestamps that overflow": "61" + ("81" + "ff" * 8 + "7e" + "0000") + "050000",
    "an unknown mode": "610000" + "03",
    "descending bounds": "61" + "0101bb00" + "0101aa00",
    "a range after infinity": "61" + "000000" + "000000",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("initiator", [False, True])
def test_what_the_protocol_does_not_allow_is_refused(name, initiator):
    reconciler = Reconciler(Items([item(1, bytes(32))]))
    if initiator:
        reconciler.initiate()
    with pytest.raises(RemoteError) as caught:
        reconciler.reconcile(bytes.fromhex(HOSTILE[name]))
    assert caught.value.code is Code.PROTOCOL_VIOLATION


def test_a_prefix_of_infinity_says_nothing():
    assert [r.upper for r in decode_ranges(bytes.fromhex("610002aabb00"), 1)] == [INFINITY]


def test_another_version_is_answered_with_ours_and_ends_an_initiator():
    assert Reconciler(Items([])).reconcile(b"\x62rest").reply == b"\x61"
    initiator = Reconciler(Items([]))
    initiator.initiate()
    with pytest.raises(RemoteError):
        initiator.reconcile(b"\x60")


def test_an_initiator_is_not_led_on_for_ever():
    initiator = Reconciler(Items(item(n, bytes([n]) * 32) for n in range(100)), rounds_max=5)
    initiator.initiate()
    other = b"\x61\x00\x00\x01" + bytes(16)
    for _ in range(5):
        assert initiator.reconcile(other).reply is not None
    assert initiator.reconcile(other) == Step(None, [], [], complete=False)


def test_what_has_no_room_in_one_conversation_is_found_in_the_next():
    theirs = {item(n, n.to_bytes(32, "big")) for n in range(2000)}
    ours: set[bytes] = set()
    found = []
    while ours != theirs:
        initiator = Reconciler(Items(ours), frame_max_bytes=FRAME_BYTES_MIN, rounds_max=3)
        message: bytes | None = initiator.initiate()
        need: list[bytes] = []
        while message is not None:
            responder = Reconciler(Items(theirs), frame_max_bytes=FRAME_BYTES_MIN)
            answer = responder.reconcile(message).reply
            assert answer is not None
            step = initiator.reconcile(answer)
            need += step.need_ids
            message = step.reply
        ours |= {item(int.from_bytes(one, "big"), one) for one in need}
        found.append(len(need))
        assert step.complete == (ours == theirs)
    assert len(found) > 2
    assert min(found) > 0


def test_a_message_of_countless_ranges_is_refused():
    reconciler = Reconciler(Items([]), frame_max_bytes=6000)
    assert reconciler.reconcile(b"\x61" + b"\x02\x00\x00" * 1000).reply == b"\x61"
    with pytest.raises(RemoteError):
        reconciler.reconcile(b"\x61" + b"\x02\x00\x00" * 1001)


def test_a_message_over_its_size_is_refused_unread():
    with pytest.raises(RemoteError):
        Reconciler(Items([]), frame_max_bytes=4096).reconcile(b"\x61" + bytes(4096))
    with pytest.raises(ValueError):
        Reconciler(Items([]), frame_max_bytes=4095)


@given(st.lists(st.binary(max_size=80), max_size=8), st.sets(one_item, max_size=100), st.booleans())
def test_random_messages_raise_nothing_but_remote_errors(messages, items, initiator):
    reconciler = Reconciler(Items(items), frame_max_bytes=FRAME_BYTES_MIN)
    if initiator:
        reconciler.initiate()
    for data in messages:
        try:
            step = reconciler.reconcile(b"\x61" + data)
        except RemoteError:
            continue
        assert step.reply is None or len(step.reply) <= FRAME_BYTES_MIN


@given(st.data(), st.sets(one_item, min_size=40, max_size=200), st.sets(one_item, max_size=200))
def test_mutated_messages_raise_nothing_but_remote_errors(data, ours, theirs):
    for message in talk(ours, theirs)[2]:
        mutated = bytearray(message)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(mutated) - 1))
            mutated[at] = data.draw(st.integers(0, 255))
        del mutated[data.draw(st.integers(1, len(mutated))) :]
        for initiator in (False, True):
            reconciler = Reconciler(Items(theirs), frame_max_bytes=FRAME_BYTES_MIN)
            if initiator:
                reconciler.initiate()
            try:
                step = reconciler.reconcile(bytes(mutated))
            except RemoteError:
                continue
            assert step.reply is None or len(step.reply) <= FRAME_BYTES_MIN
