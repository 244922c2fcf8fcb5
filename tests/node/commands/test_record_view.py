"""`record show`: what a node says of a record it holds."""

from types import SimpleNamespace
from typing import Any

import pytest
from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    MINUTE_MS,
    NOW,
    OWN,
    STRANGER,
    manifest,
    membership,
    node_record,
    with_members,
    withdrawal,
)

from aigrid.metagraph.graph import Metagraph
from aigrid.node.commands.commands import NodeCommands
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.record import Record, verify
from aigrid.protocol.timestamp import format_ms


async def ignore(_event: dict[str, Any]) -> None:
    pass


async def shown(graph: Metagraph, content_id: str, now: int = NOW) -> dict[str, Any]:
    node: Any = SimpleNamespace(graph=graph, now_ms=lambda: now)
    return await NodeCommands(node).call("record_show", {"id": content_id}, ignore)


def taken(graph: Metagraph, record: Record, *, peer: str | None = ANN.peer_id) -> Record:
    graph.ingest(record.raw, now_ms=NOW, received_from=peer)
    return record


async def test_a_believed_record_says_who_signed_it_who_brought_it_and_when():
    graph = with_members(ANN)
    record = taken(graph, manifest(ANN))
    body = await shown(graph, record.content_id, NOW + 7)
    assert body["record"]["credentialSubject"]["name"] == "echo"
    del body["record"]
    assert body == {
        "id": record.content_id,
        "signer": ANN.did,
        "verified": {"ok": True, "code": "", "message": ""},
        "state": "believed",
        "because": f"its issuer is a member until {format_ms(membership(ANN).valid_until_ms)}",
        "valid_from": format_ms(record.valid_from_ms),
        "valid_until": format_ms(record.valid_until_ms),
        "received_from": ANN.peer_id,
        "received": format_ms(NOW),
    }


async def test_why_an_issuer_is_believed():
    graph = with_members(ANN, open_to_strangers=True)
    own = graph.issue(Kind.NODE, node_record(OWN).body, OWN, now_ms=NOW, ttl_ms=MINUTE_MS)
    for record, because in (
        (own, "this node signed it"),
        (taken(graph, node_record(STRANGER)), "the grid is open to strangers"),
        (membership(ANN), "the grid's authority signed it"),
    ):
        body = await shown(graph, record.content_id)
        assert (body["state"], body["because"]) == ("believed", because)
    assert (await shown(graph, own.content_id))["received_from"] is None


async def test_a_superseded_record_is_gone_and_its_successor_is_named():
    graph = with_members(ANN)
    oldest, old = taken(graph, manifest(ANN)), taken(graph, manifest(ANN, start=NOW + 1))
    gone = taken(graph, withdrawal(Kind.MODEL, old.subject, ANN, NOW + 2, 200 * MINUTE_MS))
    for record in (oldest, old):
        with pytest.raises(InvalidRequestError, match=gone.content_id) as caught:
            await shown(graph, record.content_id)
        assert caught.value.code is Code.SUPERSEDED
    with pytest.raises(InvalidRequestError) as caught:
        await shown(graph, "bnothing")
    assert caught.value.code is Code.NOT_FOUND
    body = await shown(graph, gone.content_id)
    assert (body["state"], body["verified"]["ok"]) == ("withdrawn", True)


async def test_what_is_not_believed_any_more_says_why():
    graph = with_members(ANN)
    record = taken(graph, node_record(ANN))
    taken(graph, withdrawal(Kind.MEMBERSHIP, ANN.did, AUTHORITY, NOW + 1, 31 * 86_400_000))
    for now, state in (
        (NOW + 2, "not_member"),
        (record.valid_until_ms, "expired"),
        (NOW - 10 * MINUTE_MS, "from_future"),
    ):
        body = await shown(graph, record.content_id, now)
        assert (body["state"], body["verified"]["ok"]) == (state, True)
        assert body["because"]


async def test_the_signature_is_verified_when_it_is_shown():
    """Whoever can write to the database can change a record; nobody can sign it."""
    graph = with_members(ANN)
    record = taken(graph, manifest(ANN))
    for change, code in (
        (record.raw.replace(b'"name":"echo"', b'"name":"evil"'), "bad_signature"),
        (manifest(ANN, name="other").raw, "hash_mismatch"),
    ):
        graph.store.database.execute(
            "UPDATE records SET raw = ? WHERE content_id = ?", (change, record.content_id)
        )
        body = await shown(graph, record.content_id)
        assert body["verified"]["ok"] is False
        assert (body["verified"]["code"], body["state"]) == (code, code)
        assert body["verified"]["message"]
    verify(record.raw, now_ms=NOW)


async def test_a_record_is_shown_by_the_name_that_queries_give_it():
    graph = with_members(ANN)
    record = taken(graph, node_record(ANN))
    assert await shown(graph, f"urn:aigrid:record:{record.content_id}") == await shown(
        graph, record.content_id
    )
