"""Presentations: what holds for one request, and that nothing else does."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts import policy_world as world
from scripts.policy_cases import CHAIN, MEMBER
from scripts.policy_world import GATEWAY, NODE, NOW_MS, STRANGER, binding, present
from scripts.presentation_cases import RAW, SHORT, changed, signed
from tests.protocol.mutants import changed_documents, with_additions
from tests.protocol.strategies import forge

from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.kinds import Kind
from aigrid.protocol.policy import decide
from aigrid.protocol.presentation import Binding, Presentation, check, verify
from aigrid.protocol.record import (
    verification_method,
    verify_form_and_signature,
)
from aigrid.protocol.timestamp import format_ms


def code_of(raw: bytes, expected: Binding | None = None, **more: Any) -> Code | None:
    """Why a presentation is refused, by a node that is asked for `expected`."""
    said = {"node": NODE.did, "peer": GATEWAY.did, "now_ms": NOW_MS, **more}
    try:
        check(verify(raw), expected or binding(), **said)
    except AigridError as error:
        return error.code
    return None


def test_what_was_presented_is_read_back():
    found = verify(RAW)
    assert found.holder == GATEWAY.did
    assert (found.audience, found.nonce) == (NODE.did, world.NONCE)
    assert (found.created_ms, found.expires_ms) == (NOW_MS, NOW_MS + 120_000)
    assert found.binding == binding()
    assert found.credentials == (MEMBER, *CHAIN)
    assert code_of(RAW) is None


def test_it_is_an_ordinary_canonical_document_with_an_ordinary_proof():
    document = json.loads(RAW)
    assert canonical(document) == RAW
    assert signed(document) == RAW
    assert [canonical(one) for one in document["verifiableCredential"]] == [
        record.raw for record in (MEMBER, *CHAIN)
    ]


def test_none_at_all_may_be_presented():
    assert verify(present([])).credentials == ()


bindings = st.builds(
    Binding,
    action=st.sampled_from(["invoke", "fetch", "host", "publish"]),
    model=st.text(max_size=64),
    manifest=st.text(max_size=64),
    request_hash=st.binary(min_size=32, max_size=32).map(bytes.hex),
    prefix_hash=st.binary(min_size=32, max_size=32).map(bytes.hex),
    accepts=st.lists(st.from_regex(r"[A-Za-z0-9][ -~]{0,20}", fullmatch=True), max_size=3).map(
        tuple
    ),
    purpose=st.just("") | st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True),
    peer=st.sampled_from(["", NODE.did]),
)


@given(bindings, st.from_regex(r"[A-Za-z0-9_-]{22,64}", fullmatch=True))
def test_whatever_it_is_bound_to_it_is_canonical_and_read_back(bound: Binding, nonce: str):
    raw = present([MEMBER], bound, nonce=nonce)
    assert canonical(json.loads(raw)) == raw
    found = verify(raw)
    assert (found.binding, found.nonce) == (bound, nonce)
    peer = bound.peer or GATEWAY.did
    assert code_of(raw, bound, peer=peer) is None


# --- No change keeps it valid


def still_holds(raw: bytes) -> bool:
    return code_of(raw) is None


def test_no_field_change_keeps_it_valid():
    """With everything that is within it, the credentials too."""
    document = json.loads(RAW)
    mutants = {
        canonical(one) for one in changed_documents(document, (GATEWAY.did, STRANGER.did))
    } - {RAW}
    assert len(mutants) > 1000
    assert [raw for raw in mutants if still_holds(raw)] == []


OWN = {"purpose", "accepts", "challenge", "created", "expires"}


def test_no_field_change_that_the_holder_signs_holds_for_the_same_request():
    """But for what is the holder's to choose: what for, licences, times, nonce, what it shows."""
    document = json.loads(SHORT)
    for one in changed_documents(document, (GATEWAY.did, STRANGER.did)):
        if not isinstance(one.get("proof"), dict) or "proofValue" not in one["proof"]:
            continue
        said = {**one["request"], **one["proof"]} if isinstance(one.get("request"), dict) else {}
        before = {**document["request"], **document["proof"]}
        differ = {name for name in {**said, **before} if said.get(name) != before.get(name)}
        if still_holds(signed(one)):
            assert differ - {"proofValue"} <= OWN
            shown = one["verifiableCredential"]
            assert all(credential in document["verifiableCredential"] for credential in shown)
            rest = {name: one[name] for name in ("@context", "holder", "type")}
            assert rest == {name: document[name] for name in rest}


def test_every_flipped_bit_and_every_cut_is_refused():
    for place in range(len(SHORT)):
        for bit in range(8):
            flipped = SHORT[:place] + bytes((SHORT[place] ^ 1 << bit,)) + SHORT[place + 1 :]
            assert not still_holds(flipped)
        assert not still_holds(SHORT[:place])
        assert not still_holds(SHORT[:place] + b" " + SHORT[place:])
    assert not still_holds(SHORT + b"\n")
    assert not still_holds(SHORT + SHORT)


def test_credentials_cannot_be_reordered_removed_or_swapped():
    whole = json.loads(RAW)
    held = whole["verifiableCredential"]
    other = json.loads(world.membership(life_ms=1000).raw)
    for listed in (held[::-1], held[1:], held[:-1], [], [other, *held[1:]], [*held[:3], *held[:1]]):
        raw = canonical({**whole, "verifiableCredential": listed})
        assert code_of(raw) is Code.NOT_HOLDER


def test_an_attacker_cannot_put_itself_in_the_holders_place():
    """It can sign what it likes, but then the credentials are not its own."""

    def usurp(document: dict[str, Any]) -> None:
        document["holder"] = STRANGER.did

    method = verification_method(STRANGER.did)
    raw = changed(usurp, RAW, by=STRANGER, verificationMethod=method)
    found = verify(raw)
    for credentials in (found.credentials, found.credentials[:1], found.credentials[1:]):
        request = world.asked(found.holder)
        verdict = decide("invoke", request, credentials, world.policies(), world.statuses(), NOW_MS)
        assert verdict.code is Code.NOT_HOLDER


# --- What is not known is refused, though it is signed


@pytest.mark.parametrize("kind", ["presentation", Kind.GRANT, Kind.DELEGATION, Kind.MEMBERSHIP])
def test_an_unknown_member_anywhere_is_refused_though_its_signer_signs_it(kind: Any):
    if kind == "presentation":

        def ours(path: tuple[Any, ...]) -> bool:
            return path[0] != "verifiableCredential"

        found = [signed(one) for one in with_additions(json.loads(SHORT), ours)]
        assert len(found) == 3  # itself, its proof and its request
        assert {code_of(raw) for raw in found} == {Code.PRESENTATION_INVALID}
        return
    record = next(one for one in (MEMBER, *CHAIN) if one.kind is kind)
    signer = next(who for who in world.EVERYBODY if who.did == record.issuer)
    document = json.loads(record.raw)
    additions = with_additions(document)
    assert len(additions) == (5 if kind in (Kind.GRANT, Kind.DELEGATION) else 4)
    for one in additions:
        extra = one["proof"].get("unknown")
        more = {"unknown": extra} if extra else {}
        raw = forge(record, partial(becomes, one), proof=more, signer=signer)
        credentials = [one for one in (MEMBER, *CHAIN) if one is not record]
        with pytest.raises(AigridError) as caught:
            verify_form_and_signature(raw)
        assert caught.value.code is Code.UNKNOWN_FIELD
        shown = json.loads(present(credentials[:4]))
        shown["verifiableCredential"].append(json.loads(raw))
        assert code_of(signed(shown)) is Code.UNKNOWN_FIELD


def becomes(other: dict[str, Any], document: dict[str, Any]) -> None:
    document.clear()
    document.update(other)


# --- Whatever comes

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=200) | json_like.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_raise_nothing_but_a_refusal(raw: bytes):
    assert code_of(raw) is Code.PRESENTATION_INVALID


@given(st.data(), json_like)
def test_something_odd_anywhere_in_it_is_refused(data: st.DataObject, odd: Any):
    document = json.loads(SHORT)
    part = data.draw(st.sampled_from([document, document["request"], document["proof"]]))
    name = data.draw(st.sampled_from(sorted(part)))
    if part[name] == odd:
        return
    part[name] = odd
    assert not still_holds(json.dumps(document, separators=(",", ":"), sort_keys=True).encode())


def test_credentials_are_verified_by_whatever_remembers_them():
    asked: list[bytes] = []
    known = {record.raw: record for record in (MEMBER, *CHAIN)}

    def remembered(raw: bytes) -> Any:
        asked.append(raw)
        return known[raw]

    found = verify(RAW, verify_credential=remembered)
    assert isinstance(found, Presentation)
    assert asked == [record.raw for record in (MEMBER, *CHAIN)]


def test_times_are_those_that_records_have():
    document = json.loads(RAW)
    assert document["proof"]["created"] == format_ms(NOW_MS)


def test_a_signature_is_not_looked_at_where_the_holder_is_known_to_have_made_it():
    document = json.loads(RAW)
    value = document["proof"]["proofValue"]
    document["proof"]["proofValue"] = value[:-1] + ("1" if value[-1] != "1" else "2")
    forged = canonical(document)
    assert verify(forged, made_by=GATEWAY.did).holder == GATEWAY.did
    for other in (None, STRANGER.did):
        with pytest.raises(AigridError) as caught:
            verify(forged, made_by=other)
        assert caught.value.code is Code.NOT_HOLDER
