"""Requests signed with the caller's own key: what holds, and everything that does not."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import http_message_signatures as library
import httpx
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.node.gateway.double import NAME, NOW_MS, ScriptedMesh, gateway, open_access
from tests.node.gateway.signing import COVERED, Draft
from tests.patience import PATIENCE_SECONDS

from aigrid.node.gateway.auth.message_signatures import Headers, SignedRequest, verified, verify
from aigrid.node.policy.access import Access
from aigrid.node.policy.caller import Caller
from aigrid.node.policy.limits import ActorLimits
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

ALICE, MALLORY = Identity(bytes(32)), Identity(bytes(31) + b"m")
NOW = NOW_MS // 1000
BODY = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "hi"}]}).encode()
JSON = {"content-type": "application/json"}


@asynccontextmanager
async def signers(
    mesh: ScriptedMesh | None = None, access: Access | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A keyless gateway that lists Alice's DID: a bad signature may not fall back to keyless."""
    if access is None:
        access = open_access()
        access.keys.create("alice", ActorLimits(), did=ALICE.did, now_ms=NOW_MS)
    async with gateway(mesh or ScriptedMesh(), access=access) as (_, address):
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            with trio.fail_after(PATIENCE_SECONDS):
                yield client, address


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_signed_request_is_served_as_its_did() -> None:
    mesh = ScriptedMesh()
    async with signers(mesh) as (client, address):
        draft = Draft(ALICE, address, "/v1/chat/completions", "POST", BODY, headers=dict(JSON))
        draft.headers["x-aigrid-purpose"] = "research"
        draft.covered = (*COVERED, "x-aigrid-purpose")
        answer = await client.post(draft.path, content=BODY, headers=draft.signed())
        assert answer.status_code == 200, answer.text
        draft = Draft(ALICE, address, parameters={"nonce": "n-2"})
        assert (await client.get("/v1/models", headers=draft.signed())).status_code == 200
    assert mesh.callers == [Caller("alice", "signature", ALICE.did, purpose="research")]


async def test_the_verification_method_is_another_spelling_of_the_did() -> None:
    method = f"{ALICE.did}#{ALICE.did.removeprefix('did:key:')}"
    async with signers() as (client, address):
        draft = Draft(ALICE, address, parameters={"keyid": method})
        assert (await client.get("/v1/models", headers=draft.signed())).status_code == 200
        other = f"{ALICE.did}#{MALLORY.did.removeprefix('did:key:')}"
        draft = Draft(ALICE, address, parameters={"keyid": other, "nonce": "x"})
        assert code(await client.get("/v1/models", headers=draft.signed()))[0] == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"identity": MALLORY},
        {"identity": MALLORY, "parameters": {"keyid": ALICE.did}},
        {"parameters": {"keyid": "alice"}},
        {"parameters": {"keyid": None}},
        {"parameters": {"nonce": None}},
        {"parameters": {"nonce": ""}},
        {"parameters": {"nonce": "x" * (LIMITS.nonce_max_chars + 1)}},
        {"parameters": {"nonce": 7}},
        {"parameters": {"created": None}},
        {"parameters": {"created": "1"}},
        {"parameters": {"created": NOW - LIMITS.signature_age_seconds - 1}},
        {"parameters": {"created": NOW + LIMITS.signature_skew_seconds + 1}},
        {"parameters": {"created": 10**15 - 1}},
        {"parameters": {"expires": NOW - 1}},
        {"parameters": {"alg": "hmac-sha256"}},
        {"parameters": {"alg": "rsa-pss-sha512"}},
        {"parameters": {"surprise": "x"}},
        *({"covered": tuple(name for name in COVERED if name != left)} for left in COVERED),
        {"covered": ()},
        {"covered": (*COVERED, "@method")},
        {"headers": {"x-aigrid-purpose": "research"}},
        {"headers": {"x-aigrid-accept-license": "MIT"}},
        {"method": "POST"},
        {"path": "/v1/models/other"},
        {"path": "/v1/models?all=1"},
        {"authority": "localhost:1"},
        {"scheme": "https"},
        {"body": b"another"},
        {"headers": {"content-digest": "sha-512=:" + base64.b64encode(bytes(64)).decode() + ":"}},
        {"headers": {"content-digest": "none"}},
    ],
)
async def test_what_is_not_exactly_so_is_refused(wrong: dict[str, Any]) -> None:
    async with signers() as (client, address):
        # A GET of a route that reads its body: what is checked is the same for all.
        draft = Draft(**{"identity": ALICE, "authority": address, **wrong})
        headers = draft.signed()
        if "body" in wrong:
            answer = await client.post("/v1/chat/completions", content=BODY, headers=headers | JSON)
        else:
            answer = await client.get("/v1/models", headers=headers)
        assert code(answer) == (401, "unauthenticated"), wrong
        good = Draft(ALICE, address, parameters={"nonce": "good"})
        assert (await client.get("/v1/models", headers=good.signed())).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signature", ""),
        ("signature", "sig1=:AAAA:"),
        ("signature", "sig1=1"),
        ("signature", "sig2=:AAAA:"),
        ("signature", None),
        ("signature-input", None),
        ("signature-input", "sig1=1"),
        ("signature-input", "sig1=(;;"),
        ("signature-input", 'sig1=("@method"'),
        ("signature-input", "(" * 4000),
        ("authorization", "Bearer aigrid-" + "A" * 43),
    ],
)
async def test_malformed_headers_never_fall_back_to_keyless(name: str, value: str | None) -> None:
    async with signers() as (client, address):
        headers = Draft(ALICE, address).signed()
        headers.pop(name, None)
        if value is not None:
            headers[name] = value
        assert code(await client.get("/v1/models", headers=headers)) == (401, "unauthenticated")


async def test_two_signatures_are_one_too_many() -> None:
    async with signers() as (client, address):
        one = Draft(ALICE, address).signed()
        two = Draft(ALICE, address, label="sig2", parameters={"nonce": "n-2"}).signed()
        for name in ("signature", "signature-input"):
            one[name] += f", {two[name]}"
        assert code(await client.get("/v1/models", headers=one)) == (401, "unauthenticated")


async def test_a_request_is_served_once_also_after_a_restart() -> None:
    access = open_access()
    access.keys.create("alice", ActorLimits(), did=ALICE.did, now_ms=NOW_MS)
    async with signers(None, access) as (client, address):
        headers = Draft(ALICE, address).signed()
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        assert code(await client.get("/v1/models", headers=headers)) == (401, "unauthenticated")
        moved = Draft(ALICE, address, "/aigrid/v1/status").signed()
        assert code(await client.get("/aigrid/v1/status", headers=moved))[0] == 401


async def test_a_changed_body_is_never_parsed() -> None:
    mesh = ScriptedMesh()
    async with signers(mesh) as (client, address):
        draft = Draft(ALICE, address, "/v1/chat/completions", "POST", BODY)
        changed = BODY.replace(b"hi", b"ho")
        answer = await client.post(draft.path, content=changed, headers=draft.signed() | JSON)
        assert code(answer) == (401, "unauthenticated")
        draft.parameters["nonce"] = "n-2"
        longer = BODY + b" " * 200_000
        answer = await client.post(draft.path, content=longer, headers=draft.signed() | JSON)
        assert code(answer) == (401, "unauthenticated")
        draft.parameters["nonce"] = "n-3"
        answer = await client.post(draft.path, content=b"{", headers=draft.signed() | JSON)
        assert code(answer) == (401, "unauthenticated")  # and not: no JSON
    assert not mesh.asked


async def test_the_limits_of_an_actor_hold_for_its_signatures() -> None:
    access = open_access()
    limits = ActorLimits(requests_per_minute=1)
    access.keys.create("alice", limits, did=ALICE.did, now_ms=NOW_MS)
    async with signers(None, access) as (client, address):
        for nonce, expected in (("a", 200), ("b", 429)):
            headers = Draft(ALICE, address, parameters={"nonce": nonce}).signed()
            assert (await client.get("/v1/models", headers=headers)).status_code == expected
        access.keys.revoke("alice")
        headers = Draft(ALICE, address, parameters={"nonce": "c"}).signed()
        assert (await client.get("/v1/models", headers=headers)).status_code == 401


async def test_what_the_librarys_own_signer_signs_is_served() -> None:
    signer = library.HTTPMessageSigner(
        signature_algorithm=library.algorithms.ED25519,
        key_resolver=library.MappingKeyResolver(
            public_keys={},
            private_keys={ALICE.did: Ed25519PrivateKey.from_private_bytes(ALICE.seed)},
        ),
    )
    async with signers() as (client, address):
        url = f"http://{address}/v1/chat/completions"
        message = SimpleNamespace(method="POST", url=url, headers=dict(JSON))
        signer.sign(
            message,
            key_id=ALICE.did,
            created=datetime.fromtimestamp(NOW, UTC),
            nonce="library",
            covered_component_ids=COVERED[:3],
            body=BODY,
        )
        answer = await client.post(url, content=BODY, headers=message.headers)
        assert answer.status_code == 200, answer.text


VECTOR = SignedRequest(
    "POST",
    "https://example.com/foo?param=Value&Pet=dog",
    Headers(
        (
            ("Host", "example.com"),
            ("Date", "Tue, 20 Apr 2021 02:07:55 GMT"),
            ("Content-Type", "application/json"),
            ("Content-Length", "18"),
            (
                "Signature-Input",
                (
                    'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");'
                    'created=1618884473;keyid="test-key-ed25519"'
                ),
            ),
            (
                "Signature",
                (
                    "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6"
                    "vuQv5lIp5WPpBKRCw==:"
                ),
            ),
        )
    ),
)
VECTOR_KEY = base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")


def test_the_rfcs_own_vector_of_ed25519_verifies() -> None:
    """RFC 9421, appendix B.2.6."""
    keys = {"test-key-ed25519": VECTOR_KEY}
    parameters, covered = verified(VECTOR, keys.get, now_seconds=1618884473, required=("@method",))
    assert parameters == {"created": 1618884473, "keyid": "test-key-ed25519"}
    assert covered['"@path"'] == "/foo"
    for request, at, required in (
        (VECTOR, 1618884473 + 61, ()),
        (VECTOR, 1618884473, COVERED),
        (SignedRequest("PUT", VECTOR.url, VECTOR.headers), 1618884473, ()),
    ):
        with pytest.raises(AigridError) as caught:
            verified(request, keys.get, now_seconds=at, required=required)
        assert caught.value.code is Code.UNAUTHENTICATED


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_header_raises_anything_but_a_refusal(signature: str, given_input: str) -> None:
    headers = Headers((("signature", signature), ("signature-input", given_input)))
    with pytest.raises(AigridError) as caught:
        verify(SignedRequest("GET", "http://a/", headers), lambda _: None, now_seconds=NOW)
    assert caught.value.code is Code.UNAUTHENTICATED
    assert caught.value.message.isprintable()


@given(st.data())
def test_no_change_of_a_letter_keeps_a_signature_valid(data: st.DataObject) -> None:
    fields = Draft(ALICE, "a").signed()
    keys = {ALICE.did: ALICE.public_key}

    def check() -> None:
        headers = Headers(tuple(fields.items()))
        verify(SignedRequest("GET", "http://a/v1/models", headers), keys.get, now_seconds=NOW)

    check()
    name = data.draw(st.sampled_from(sorted(fields)))
    place = data.draw(st.integers(0, len(fields[name]) - 1))
    letter = data.draw(st.characters(codec="ascii"))
    changed = fields[name][:place] + letter + fields[name][place + 1 :]
    same = changed == fields[name] or (
        name == "signature" and _bits(changed) == _bits(fields[name])
    )
    fields[name] = changed
    if same:
        return
    with pytest.raises(AigridError) as caught:
        check()
    assert caught.value.code is Code.UNAUTHENTICATED


def _bits(signature: str) -> object:
    """Of base64, the bits beyond the last byte say nothing."""
    label, _, rest = signature.partition("=:")
    try:
        return label, base64.b64decode(rest.removesuffix(":"), validate=True)
    except ValueError:
        return signature
