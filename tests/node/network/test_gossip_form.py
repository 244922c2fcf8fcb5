"""The one form that a gossip message has: what may stand beside its data, and who may have put it there."""

from typing import Any

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from tests.node.network import nodes
from tests.node.network.test_gossip_dht import in_mesh, inject, sign, signed
from tests.patience import PATIENCE_SECONDS

from aigrid.node.network import compat
from aigrid.node.network.forgetting import SeenMessages
from aigrid.node.network.gossip_author import author_of, signed_by
from aigrid.protocol.limits import LIMITS


def signed_with(library: Any, **fields: Any) -> Any:
    message = signed(library, b"data")
    for name, value in fields.items():
        setattr(message, name, value)
    sign(library, message)
    return message


def with_unsigned(library: Any, **fields: Any) -> Any:
    message = signed(library, b"data")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


FORMS = {
    "a long seqno": lambda library: signed_with(library, seqno=b"s" * 90),
    "a short seqno": lambda library: signed_with(library, seqno=b"s"),
    "no seqno": lambda library: signed_with(library, seqno=b""),
    "another key": lambda library: with_unsigned(library, key=bytes(900_000)),
    "a long signature": lambda library: with_unsigned(library, signature=bytes(65)),
    "no signature": lambda library: with_unsigned(library, signature=b""),
}


@pytest.mark.parametrize("form", FORMS)
async def test_another_form_is_refused_and_the_message_passes_without_it(
    pair: nodes.Pair, hostile: nodes.Hostile, form: str
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    async with two.subscribe("topic") as heard:
        muxer = await hostile.connect(two)
        await inject(muxer, FORMS[form](hostile.library), signed(hostile.library, b"data"))
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"data")
    assert two.counters()["gossip_refused"] == 1
    assert muxer.dead is None


@pytest.mark.parametrize("key", [True, False], ids=["as py-libp2p writes it", "as others do"])
def test_the_key_may_stand_in_the_message_or_not(*, key: bool) -> None:
    library = compat.build(nodes.new_seed(), lambda: ())
    message = signed(library, b"data")
    if not key:
        message.key = b""
    author = author_of(message)
    assert author is not None
    assert author.peer_id == str(library.peer_id)
    assert signed_by(message, author)


async def test_what_a_relay_adds_is_not_passed_on(pair: nodes.Pair, hostile: nodes.Hostile) -> None:
    one, two = pair
    two.admit([hostile.peer_id])
    one.admit([hostile.peer_id])
    fine = signed(hostile.library, b"data")
    grown = rpc_pb2.Message.FromString(
        fine.SerializeToString() + b"\xfa\x7f\x90\x4e" + bytes(10_000)
    )
    assert grown.ByteSize() > fine.ByteSize() + 10_000
    async with two.subscribe("topic") as heard, one.subscribe("topic") as farther:
        await in_mesh(one, two)
        await inject(await hostile.connect(two), grown)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await heard.__anext__() == (hostile.peer_id, b"data")
            assert await farther.__anext__() == (hostile.peer_id, b"data")
    (kept,) = two._library.gossip.mcache.msgs.values()
    assert kept.ByteSize() == fine.ByteSize()


async def test_ids_that_are_remembered_have_a_bound(autojump_clock: Any) -> None:
    seen = SeenMessages(120.0)
    for number in range(LIMITS.gossip_seen_max + 1):
        assert seen.add(number.to_bytes(8, "big"))
    assert len(seen) == LIMITS.gossip_seen_max
    assert not seen.has(bytes(8))
    assert seen.has((1).to_bytes(8, "big"))
