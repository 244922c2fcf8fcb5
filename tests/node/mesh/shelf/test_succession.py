"""What a node said under its former key it says again under the one it has."""

import msgspec
import pytest
from tests.node.mesh.shelf.shelf import echo_model, empty_shelf

from aigrid.engines.base import Endpoint
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.mesh.shelf.succession import take_over
from aigrid.protocol.credential_kinds import Rule
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import CapabilityBody, Kind, ModelBody, Served
from aigrid.protocol.membership import issue_membership
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.upstream import Upstream

NOW_MS, DAY_MS = 1_790_000_000_000, 86_400_000
AUTHORITY, OLD, NEW = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
ENDPOINT = Endpoint("http://127.0.0.1:9/v1", "key")
BEHIND = ModelDescription("openai_api", "text-generation", (), upstream=Upstream(OLD.did, "parrot"))
PLAIN = echo_model(tag="parrot")


class World:
    """A data directory whose node had the key OLD, and now has NEW."""

    async def open(self, directory):
        self.store = Store(None)
        self.local = LocalState(self.store)
        self.models = await empty_shelf(directory)
        self.local.set("did", OLD.did)
        self.graph = self.opened_by(OLD)
        membership = issue_membership(AUTHORITY, OLD.did, now_ms=NOW_MS, valid_ms=DAY_MS)
        self.graph.ingest(membership.raw, now_ms=NOW_MS, received_from=None)
        return self

    def opened_by(self, identity):
        return Metagraph(
            self.store,
            Index(),
            grid=AUTHORITY.did,
            own_did=identity.did,
            open_to_strangers=False,
            now_ms=NOW_MS,
        )

    def say(self, kind, body, days=30):
        self.graph.issue(kind, body, OLD, now_ms=NOW_MS, ttl_ms=days * DAY_MS)

    async def publish(self, description, capability="text-generation", **more):
        model = await self.models.add(
            description, {}, endpoint=ENDPOINT if description is BEHIND else None, own=True
        )
        self.say(Kind.MODEL, manifest(description, capability, **more))
        return model

    async def change(self, now_ms=NOW_MS + 1):
        self.graph = self.opened_by(NEW)
        await take_over(self.local, self.graph, self.models, NEW, now_ms)

    def said(self, kind):
        return [r.body for r in self.store.of_issuer(NEW.did) if r.kind is kind]


def manifest(description, capability="text-generation", **more):
    return ModelBody(
        id=MODEL_URN + model_id(description),
        name="parrot",
        capabilities=(capability,),
        model=description,
        license="Apache-2.0",
        memory_bytes=7,
        **more,
    )


@pytest.fixture
async def world(tmp_path):
    return await World().open(tmp_path / "models")


async def test_manifests_of_models_that_are_here_are_signed_anew(world):
    await world.publish(PLAIN, languages=("en",))
    world.say(Kind.MODEL, manifest(echo_model(tag="gone")))
    await world.change()
    assert world.said(Kind.MODEL) == [manifest(PLAIN, languages=("en",))]
    assert world.local.get("did") == NEW.did


async def test_grants_of_the_new_key_count_where_those_of_the_former_did(world):
    def rules(owner):
        return (Rule(("invoke",), tuple(sorted((owner.did, AUTHORITY.did))), purposes=("x",)),)

    await world.publish(PLAIN, policy=rules(OLD))
    await world.change()
    assert world.said(Kind.MODEL) == [manifest(PLAIN, policy=rules(NEW))]


async def test_a_capability_moves_into_the_new_namespace_with_what_names_it(world):
    own = CapabilityBody(
        id=f"{OLD.did}#legal", broader=("text-generation",), labels={"en": "Legal"}
    )
    narrower = msgspec.structs.replace(own, id=f"{OLD.did}#tax", broader=(own.id,))
    for body in (own, narrower):
        world.say(Kind.CAPABILITY, body)
    serves = Served(own.id, {"source": ("en",)}), Served("text-generation", {"source": ("de",)})
    await world.publish(PLAIN, own.id, serves=serves)
    await world.change()
    moved = {body.id: body.broader for body in world.said(Kind.CAPABILITY)}
    assert moved == {
        f"{NEW.did}#legal": ("text-generation",),
        f"{NEW.did}#tax": (f"{NEW.did}#legal",),
    }
    (manifest_,) = world.said(Kind.MODEL)
    assert manifest_.capabilities == (f"{NEW.did}#legal",)
    assert [one.capability for one in manifest_.serves] == [f"{NEW.did}#legal", "text-generation"]


async def test_a_model_behind_a_server_gets_the_new_publisher_and_stays_where_it_is(world):
    old = await world.publish(BEHIND)
    await world.change()
    (body,) = world.said(Kind.MODEL)
    assert body.model.upstream.publisher == NEW.did
    new = body.id.removeprefix(MODEL_URN)
    assert list(world.models.list()) == [new] != [old]
    assert world.models.endpoint(new) == ENDPOINT
    assert world.models.source(new).upstream == body.model.upstream


async def test_broken_off_it_goes_on_and_once_done_it_says_nothing_again(world, monkeypatch):
    await world.publish(BEHIND)
    discard = world.models.discard

    async def full(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(world.models, "discard", full)
    with pytest.raises(KeyboardInterrupt):
        await world.change()
    monkeypatch.setattr(world.models, "discard", discard)
    await world.change()
    assert len(world.said(Kind.MODEL)) == len(world.models.list()) == 1
    newest = world.store.of_issuer(NEW.did)
    await world.change(NOW_MS + 2)
    assert world.store.of_issuer(NEW.did) == newest


async def test_one_that_cannot_be_taken_over_keeps_no_other(world, monkeypatch):
    await world.publish(BEHIND)
    await world.publish(PLAIN)

    async def full(*_, **__):
        raise LocalError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    monkeypatch.setattr(world.models, "add", full)
    await world.change()
    assert world.said(Kind.MODEL) == [manifest(PLAIN)]


async def test_what_was_withdrawn_or_has_ended_is_not_said_again(world):
    await world.publish(PLAIN)
    world.graph.withdraw(Kind.MODEL, manifest(PLAIN).id, OLD, now_ms=NOW_MS)
    world.say(
        Kind.CAPABILITY,
        CapabilityBody(id=f"{OLD.did}#x", broader=("text",), labels={"en": "X"}),
        days=1,
    )
    await world.change(NOW_MS + DAY_MS)
    assert world.store.of_issuer(NEW.did) == []


async def test_a_directory_that_is_new_only_remembers_its_key(world):
    world.local.remove("did")
    await world.publish(PLAIN)
    await world.change()
    assert world.store.of_issuer(NEW.did) == []
    assert world.local.get("did") == NEW.did
