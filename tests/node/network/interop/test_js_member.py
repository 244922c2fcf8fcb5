"""A member that is none of our code: js-libp2p and @digitalbazaar/vc in a grid of real nodes.

All that it knows of us is SPEC.md and the JSON-LD context.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripts.nodes import NodeProcess, form_grid, stop_all, wait_for
from tests.node.network.interop.peers import HERE, JS_PACKAGES, STREAMS
from tests.patience import PATIENCE_SECONDS
from tests.protocol import judges, verifier

from aigrid.node.discovery.providers import capability_key, grid_key, model_key
from aigrid.protocol.canonical import canonical
from aigrid.protocol.identity import Identity
from aigrid.protocol.record import (
    CONTEXTS,
    sign_jcs,
    verification_method,
    verify_form_and_signature,
)

pytestmark = pytest.mark.process
PACKAGES = (*JS_PACKAGES, *verifier.PACKAGES, "@msgpack/msgpack@3.1.3")
SCRIPT = HERE / "js_member.mjs"
SOMEBODY = Identity(b"somebody else's key, of 32 bytes")


class Member:
    """The other implementation; `ask` has it do something."""

    def __init__(self, judge: judges.Judge) -> None:
        self.ask = judge.ask
        context = json.loads(verifier.CONTEXT.read_text())
        self.ask("context", url=CONTEXTS[1], document=context)
        self.who = self.ask("start")

    def refusals(self, *raws: bytes) -> list[str | None]:
        """For each record None if it verifies there, else why not."""
        texts = [raw.decode() for raw in raws]
        answers: list[str | None] = self.ask("verify", credentials=texts)
        return answers


class World:
    """Two nodes, of which the second offers a model, and the member, which the first let in."""

    def __init__(self, member: Member, first: NodeProcess, second: NodeProcess) -> None:
        self.member, self.first, self.second = member, first, second
        invitation = first.cli("invite", member.who["did"])["invitation"]
        self.invitation = str(invitation)
        self.joined = member.ask("join", invitation=invitation)
        member.ask("subscribe", topic="records")
        member.ask("subscribe", topic="records/text")


def until(probe: Callable[[], Any], what: str) -> Any:
    return wait_for(probe, timeout_seconds=PATIENCE_SECONDS, what=what)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with judges.judge(SCRIPT, PACKAGES, beside=[STREAMS, verifier.CREDENTIALS]) as judge:
        folder = tmp_path_factory.mktemp("grid")
        nodes = [NodeProcess(folder / name) for name in ("first", "second")]
        try:
            form_grid(nodes)
            yield World(Member(judge), *nodes)
        finally:
            stop_all(nodes)


@pytest.fixture(scope="module")
def heard(world: World) -> list[dict[str, Any]]:
    """What gossip brings it once the second node offers a model, until that is in it."""
    until(lambda: world.member.ask("mesh", topic="records/text"), "the mesh of the topic")
    world.second.cli("models", "fetch", "echo")
    said: list[dict[str, Any]] = []

    def offered() -> bool:
        records = map(json.loads, world.member.ask("heard"))
        # A node that has just left the grid of its own may have said so in gossip there.
        said.extend(one for one in records if _of_grid(one, world.joined["grid"]))
        return {"ModelManifest", "AvailabilityRecord"} <= {
            kind for one in said for kind in one["type"]
        }

    until(offered, "the offer in gossip")
    return said


def _of_grid(record: dict[str, Any], grid: str) -> bool:
    return bool(record["credentialSubject"].get("grid", grid) == grid)


def test_it_joins_by_invitation(world: World) -> None:
    assert world.joined["grid"] == world.first.ready["grid"]
    known = {one["peer_id"] for one in world.first.cli("peers")["peers"]}
    assert world.member.who["peer_id"] in known


def test_an_invitation_of_another_is_of_no_use_to_it(world: World) -> None:
    for_other = world.first.cli("invite", SOMEBODY.did)["invitation"]
    with pytest.raises(AssertionError, match="the invitation is not ours"):
        world.member.ask("join", invitation=for_other)


def test_it_hears_gossip_that_verifies(world: World, heard: list[dict[str, Any]]) -> None:
    assert world.second.ready["did"] in {one["issuer"] for one in heard}
    raws = [canonical(one) for one in heard]
    assert world.member.refusals(*raws) == [None] * len(raws)
    for raw in raws:
        verify_form_and_signature(raw)


def test_no_record_verifies_there_with_a_bit_changed_or_by_another_key(
    world: World, heard: list[dict[str, Any]]
) -> None:
    record = next(one for one in heard if "ModelManifest" in one["type"])
    assert record["issuer"] == world.second.ready["did"]
    raw = canonical(record)
    assert len(changed := list(with_a_bit_changed(raw))) > 100
    assert world.member.refusals(raw) == [None]
    assert None not in world.member.refusals(*changed)
    assert None not in world.member.refusals(*by_somebody(record))


def with_a_bit_changed(raw: bytes) -> Iterator[bytes]:
    """One bit here and there, its signature included, where that leaves JSON."""
    for at in range(0, len(raw), 5):
        changed = raw[:at] + bytes([raw[at] ^ 1 << at % 7]) + raw[at + 1 :]
        try:
            json.loads(changed)
        except ValueError:
            continue
        yield changed


def by_somebody(record: dict[str, Any]) -> Iterator[bytes]:
    """Signed by another key: in the issuer's name, and in its own without being the issuer."""
    unsigned = {name: value for name, value in record.items() if name != "proof"}
    options = {name: value for name, value in record["proof"].items() if name != "proofValue"}
    for method in (options["verificationMethod"], verification_method(SOMEBODY.did)):
        said = {**options, "verificationMethod": method}
        value = sign_jcs(unsigned, said, SOMEBODY)
        yield canonical({**unsigned, "proof": {**said, "proofValue": value}})


@pytest.mark.usefixtures("heard")  # so that there is one
def test_it_finds_a_provider_through_the_dht(world: World) -> None:
    """It is connected to the first node alone, and asks it who offers what the second one does."""
    grid = world.joined["grid"]
    for key in (capability_key(grid, "text-generation"), model_key(grid, "echo")):

        def found(key: str = key) -> Any:
            return world.member.ask("providers", key=key)

        assert world.second.peer_id in until(found, f"a provider of {key}")
    assert world.member.ask("providers", key=grid_key(SOMEBODY.did)) == []
