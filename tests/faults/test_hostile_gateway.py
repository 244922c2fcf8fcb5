"""A member whose gateway lies, against a real node that serves a model to holders of its grants.

Each lie is denied by a code of its own, and the same request told honestly is served.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
import trio
from scripts.nodes import wait_for
from scripts.offers import offers
from tests.engines.gguf_writer import tiny_llama, write
from tests.faults.attackers import Attacker, new_identity
from tests.faults.conftest import ProcessGrid
from tests.faults.presenting import REQUEST, Said, now_ms
from tests.faults.test_hostile_member import say
from tests.faults.test_hostile_network import member_traffic
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.credential_kinds import DelegationBody, Permission
from aigrid.protocol.framing import FrameKind
from aigrid.protocol.framing import encode as frame
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.messages import Infer, encode
from aigrid.protocol.record import Record, build, verify_form_and_signature
from aigrid.protocol.record_status import StatusEntry

pytestmark = pytest.mark.process
SECRET = "secret-model"
DAY_MS = 86_400_000


@dataclass
class World:
    grid: ProcessGrid
    model: str
    manifest: str
    grant: Record
    mallory: Identity


@pytest.fixture(scope="module")
def world(grid: ProcessGrid, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The holder lets holders of its grants alone invoke SECRET; Mallory has one."""
    folder = tmp_path_factory.mktemp("secret")
    path = write(folder, tiny_llama(seed=77))
    policy = folder / "policy.json"
    policy.write_text(json.dumps({"rules": [{"actions": ["invoke"], "assignees": ["me"]}]}))
    published = grid.holder.cli(
        "publish",
        str(path),
        "--capability",
        "text-generation",
        "--name",
        SECRET,
        "--policy",
        str(policy),
    )
    mallory = new_identity()
    issued = grid.holder.cli(
        "credential", "issue", "--to", mallory.did, "--model", SECRET, "--delegable", "1"
    )
    raw = issued["chain"][-1].encode()
    return World(
        grid,
        str(published["model"]),
        str(published["record"]),
        verify_form_and_signature(raw),
        mallory,
    )


@dataclass
class Mallory:
    """A member with a grant, connected to the holder and to the asker."""

    attacker: Attacker
    honest: Said
    to_holder: Any
    to_asker: Any

    async def ask(self, said: Said | Infer, *, at: Any = None) -> str:
        message = said.message() if isinstance(said, Said) else said
        return await say(
            self.attacker, at or self.to_holder, frame(FrameKind.REQUEST, encode(message))
        )

    def sign(self, kind: Kind, body: Any, identity: Identity, *, index: int = 7) -> Record:
        return build(
            kind,
            body,
            identity,
            valid_from_ms=now_ms() - 1000,
            valid_until_ms=now_ms() + DAY_MS,
            status=StatusEntry(getattr(body, "grid", identity.did), index, 600),
        )


@pytest.fixture
async def mallory(world: World, nursery: trio.Nursery) -> Mallory:
    attacker = Attacker(nursery, identity=world.mallory)
    await attacker.become_member(world.grid.authority)
    membership = verify_form_and_signature(attacker.membership)
    honest = Said(
        holder=world.mallory,
        credentials=(membership, world.grant),
        audience=world.grid.holder.ready["did"],
        model=world.model,
        manifest=world.manifest,
    )
    to_holder = await attacker.meet(world.grid.holder)
    to_asker = await attacker.meet(world.grid.asker)
    return Mallory(attacker, honest, to_holder, to_asker)


async def test_honestly_told_it_is_served(mallory: Mallory) -> None:
    assert await mallory.ask(mallory.honest) == "END"


async def test_lies_about_who_asks(mallory: Mallory, world: World) -> None:
    honest, victim = mallory.honest, new_identity()
    grant = honest.credentials[1]
    # Signed by itself, with what was issued to somebody else.
    stolen = replace(honest, holder=victim)
    assert await mallory.ask(stolen) == "not_holder"
    # In the name of the victim, whose key it does not have.
    raw = honest.message().presentation.replace(
        world.mallory.did.removeprefix("did:key:").encode(),
        victim.did.removeprefix("did:key:").encode(),
    )
    message = msgspec.structs.replace(honest.message(), presentation=raw)
    assert await mallory.ask(message) in {"not_holder", "bad_signature", "issuer_not_key"}
    # A membership that it signed for itself.
    forged = mallory.sign(Kind.MEMBERSHIP, MembershipBody(id=victim.did, grid=victim.did), victim)
    assert await mallory.ask(replace(honest, holder=victim, credentials=(forged,))) == "not_holder"
    own = mallory.sign(
        Kind.MEMBERSHIP,
        MembershipBody(id=world.mallory.did, grid=world.mallory.did),
        world.mallory,
    )
    assert await mallory.ask(replace(honest, credentials=(own, grant))) == "not_member"


async def test_replays(mallory: Mallory) -> None:
    message = mallory.honest.message()
    assert await mallory.ask(message) == "END"
    assert await mallory.ask(message) == "replayed"
    other = msgspec.structs.replace(message, request_id="s" * 12)
    assert await mallory.ask(other) == "replayed"


async def test_redirects_to_another_node(mallory: Mallory, world: World) -> None:
    (offer,) = [
        m
        for m in offers(world.grid.holder)
        if m["name"] == "tiny" and m["node"] == world.grid.holder.peer_id
    ]
    elsewhere = replace(
        mallory.honest, audience=world.grid.asker.ready["did"], model=offer["model"]
    )
    assert await mallory.ask(elsewhere) == "wrong_audience"


async def test_widens_a_delegation(mallory: Mallory, world: World) -> None:
    honest, helper = mallory.honest, new_identity()
    granted: Permission = world.grant.body.permission  # type: ignore[union-attr]
    wider = Permission(actions=("fetch", "invoke"), targets=("*",))
    for permission in (wider, msgspec.structs.replace(granted, targets=("*",))):
        body = DelegationBody(
            id=world.mallory.did, parent=world.grant.content_id, permission=permission
        )
        link = mallory.sign(Kind.DELEGATION, body, world.mallory)
        chain = (*honest.credentials, link)
        assert await mallory.ask(replace(honest, credentials=chain)) == "delegation_widens"
    # What is not a delegation of what was granted: somebody else's, or of another grant.
    body = DelegationBody(id=world.mallory.did, parent=world.grant.content_id, permission=granted)
    foreign = mallory.sign(Kind.DELEGATION, body, helper)
    chain = (*honest.credentials, foreign)
    assert await mallory.ask(replace(honest, credentials=chain)) == "chain_broken"
    # Without the grant that it hangs on.
    link = mallory.sign(Kind.DELEGATION, body, world.mallory)
    chain = (honest.credentials[0], link)
    assert await mallory.ask(replace(honest, credentials=chain)) == "chain_broken"
    # And a second time, where it may be delegated once.
    second = DelegationBody(id=world.mallory.did, parent=link.content_id, permission=granted)
    chain = (*honest.credentials, link, mallory.sign(Kind.DELEGATION, second, world.mallory))
    assert await mallory.ask(replace(honest, credentials=chain)) == "not_delegable"


async def test_adds_a_term_to_a_grant(mallory: Mallory, world: World) -> None:
    """An unknown constraint is not read over; nor does the signature survive it."""
    message = mallory.honest.message()
    raw = message.presentation.replace(b'"actions":', b'"weekdays":["mon"],"actions":', 1)
    assert await mallory.ask(msgspec.structs.replace(message, presentation=raw)) in {
        "unknown_field",
        "presentation_invalid",
        "not_holder",
        "not_canonical",
    }


async def test_drops_or_swaps_the_policy(mallory: Mallory, world: World) -> None:
    honest = mallory.honest
    membership = honest.credentials[0]
    looser = "bagaaiera" + "a" * 52
    asked = replace(honest, credentials=(membership,), manifest=looser)
    assert await mallory.ask(asked) == "wrong_manifest"
    assert await mallory.ask(replace(honest, credentials=(membership,), manifest="")) == "no_grant"
    assert await mallory.ask(replace(honest, sent_manifest=looser)) == "wrong_manifest"
    assert await mallory.ask(replace(honest, credentials=(membership,))) == "no_grant"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: replace(s, request=TextRequest(prompt="something else")), "body_mismatch"),
        (
            lambda s: replace(s, request=msgspec.structs.replace(REQUEST, max_tokens=4000)),
            "body_mismatch",
        ),
        (lambda s: replace(s, action="fetch"), "body_mismatch"),
        (
            lambda s: replace(
                s,
                request=msgspec.structs.replace(
                    REQUEST, continued_ids=(5, 6), max_tokens=(REQUEST.max_tokens or 0) - 2
                ),
            ),
            "prefix_mismatch",
        ),
        (
            lambda s: replace(
                s,
                presented_for=msgspec.structs.replace(REQUEST, continued_ids=(5, 6)),
                request=msgspec.structs.replace(REQUEST, continued_ids=(5, 7)),
            ),
            "prefix_mismatch",
        ),
        (lambda s: replace(s, created_ms=now_ms() - 120_000), "presentation_expired"),
        (lambda s: replace(s, created_ms=now_ms() + 600_000), "presentation_expired"),
        (lambda s: replace(s, valid_ms=3_600_000), "presentation_invalid"),
    ],
)
async def test_alters_what_was_presented_for(
    mallory: Mallory, change: Callable[[Said], Said], code: str
) -> None:
    assert await mallory.ask(change(mallory.honest)) == code


async def test_shows_nothing_or_noise(mallory: Mallory) -> None:
    message = mallory.honest.message()
    for raw, code in (
        (b"", "unpresented"),
        (b"{}", "presentation_invalid"),
        (b"\xff" * 1000, "presentation_invalid"),
        (message.presentation + b" ", "presentation_invalid"),
        (b"[" * 60_000, "presentation_invalid"),
    ):
        assert await mallory.ask(msgspec.structs.replace(message, presentation=raw)) == code, raw[
            :20
        ]


async def test_all_of_it_at_once_and_members_are_served(mallory: Mallory, world: World) -> None:
    with member_traffic(world.grid):
        for _ in range(50):
            assert await mallory.ask(replace(mallory.honest, holder=new_identity())) == "not_holder"


async def test_a_revoked_grant_ends(mallory: Mallory, world: World) -> None:
    """Last: nothing works after it."""
    world.grid.holder.cli("credential", "revoke", world.grant.content_id)

    async def code() -> str:
        return await mallory.ask(mallory.honest)

    with trio.fail_after(PATIENCE_SECONDS):
        while (found := await code()) != "revoked":
            assert found == "END"
    wait_for(
        lambda: (
            world.grid.holder.cli("credential", "list", "--issued")["credentials"][0]["standing"]
            == "revoked"
        ),
        timeout_seconds=PATIENCE_SECONDS,
        what="the revocation to show",
    )
