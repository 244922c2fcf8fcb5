"""To which branch a record belongs: the same for every node, and all that filters go by."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metagraph import world
from tests.protocol.strategies import ALICE, NOW_MS, example_bodies, records

from aigrid.metagraph.branches import (
    BRANCHES,
    EVERYBODYS,
    TOPICS,
    branches_of,
    joined,
    mask,
    scope_mask,
    topics_of,
)
from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.database import MIGRATIONS, Database
from aigrid.metagraph.store import Store
from aigrid.protocol.canonical import content_id
from aigrid.protocol.evidence import AuditBody, Finding
from aigrid.protocol.kinds import NO_BRANCH, AvailabilityBody, Kind, NodeBody, WithdrawnBody
from aigrid.protocol.messages import EVERYBODY
from aigrid.protocol.record import verify

CONCEPTS = default_taxonomy().concepts
shipped = st.sampled_from(sorted(CONCEPTS))
sets_of_branches = st.frozensets(st.sampled_from(BRANCHES))
OF_BRANCHES = {Kind.NODE, Kind.MODEL, Kind.AVAILABILITY, Kind.EVALUATION, Kind.AUDIT}
ALL = pytest.mark.parametrize("kind", list(Kind))


def top(name: str) -> set[str]:
    """Where climbing from a capability ends."""
    above = CONCEPTS[name].broader
    return {root for at in above for root in top(at)} if above else {name}


def node(named: tuple[str, ...]) -> NodeBody:
    body = example_bodies(ALICE)[Kind.NODE]
    assert isinstance(body, NodeBody)
    return NodeBody(
        id=body.id,
        protocol_version=1,
        software="",
        addresses=(),
        engines=(),
        devices=(),
        branches=named,
    )


def availability(named: tuple[str, ...]) -> AvailabilityBody:
    return AvailabilityBody(id=ALICE.did, offers=(), branches=named)


@ALL
@given(data=st.data())
def test_every_node_says_the_same_of_the_same_bytes(kind, data):
    record = data.draw(records(kind))
    found = branches_of(record.body)
    assert branches_of(verify(record.raw, now_ms=NOW_MS).body) == found
    assert found <= {*BRANCHES, NO_BRANCH}
    if kind not in OF_BRANCHES or record.withdrawn:
        assert found == EVERYBODYS


@given(st.lists(shipped, min_size=1, max_size=16))
def test_a_manifest_belongs_to_the_roots_of_its_capabilities(names):
    body = world.model_body(capabilities=tuple(names))
    assert branches_of(body) == {root for name in names for root in top(name)}


@given(st.lists(shipped, max_size=4), st.sampled_from(["conversational", f"{ALICE.did}#legal"]))
def test_what_the_shipped_taxonomy_does_not_name_is_everybodys(names, unknown):
    assert branches_of(world.model_body(capabilities=(*names, unknown))) == EVERYBODYS
    assert branches_of(availability((*names, unknown))) == EVERYBODYS
    assert branches_of(node((*names, unknown))) == EVERYBODYS


@given(st.lists(shipped, max_size=4, unique=True))
def test_evidence_belongs_where_the_capabilities_it_is_about_do(names):
    model = content_id(b"a model")
    found = tuple(Finding(model, name, 1, 0) for name in names)
    expected = {root for name in names for root in top(name)}
    assert branches_of(AuditBody(ALICE.did, found)) == expected
    evaluation = example_bodies()[Kind.EVALUATION]
    for name in names:
        body = msgspec.structs.replace(evaluation, capability=name)
        assert branches_of(body) == top(name)


@given(sets_of_branches)
def test_nodes_and_offers_belong_where_they_say(named):
    assert branches_of(availability(tuple(sorted(named)))) == named
    assert branches_of(node(tuple(sorted(named)))) == named


def test_a_node_that_takes_part_in_nothing_concerns_no_branch():
    assert branches_of(node((NO_BRANCH,))) == {NO_BRANCH}
    assert branches_of(node((NO_BRANCH, "text"))) == EVERYBODYS  # means nothing
    assert branches_of(availability((NO_BRANCH,))) == EVERYBODYS  # likewise
    assert topics_of({NO_BRANCH}) == ()


@given(sets_of_branches, st.sampled_from(BRANCHES))
def test_a_mask_falls_into_the_scopes_of_its_branches_and_no_others(named, branch):
    value = mask(named)
    assert bool(value & scope_mask(branch)) == (branch in named)
    assert bool(value & scope_mask(EVERYBODY)) == (not named)
    assert value & scope_mask(None)
    assert mask({NO_BRANCH}) & scope_mask(None)
    assert not mask({NO_BRANCH}) & (scope_mask(EVERYBODY) | scope_mask(branch))


@given(sets_of_branches)
def test_each_branch_has_a_topic_and_what_has_none_is_told_everybody(named):
    found = topics_of(named)
    assert set(found) <= TOPICS
    assert len(found) == max(1, len(named))
    assert ("records" in found) == (not named)


@given(st.lists(sets_of_branches, max_size=4))
def test_several_things_together_concern_all_that_any_of_them_does(parts):
    found = joined(parts)
    if all(parts):
        assert found == frozenset().union(*parts)
    else:
        assert found == EVERYBODYS


def test_branches_keep_their_places_on_the_disk():
    """A branch added to the taxonomy comes last, or every store would read its masks wrongly."""
    assert BRANCHES == ("text", "vision", "audio", "tabular", "multimodal", "utility")
    assert [mask({name}) for name in (NO_BRANCH, *BRANCHES)] == [2 << n for n in range(7)]
    assert mask(EVERYBODYS) == 1


def test_a_store_of_before_branches_learns_them_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as patch:
        patch.setattr("aigrid.metagraph.database.MIGRATIONS", MIGRATIONS[:1])
        old = Database(path)
        text, everybodys = world.manifest(world.ANN), world.membership(world.ANN)
        for record in (text, everybodys):
            old.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, 0, NULL, 0, NULL, ?)",
                (
                    record.content_id,
                    record.content_id.encode(),
                    *record.key,
                    record.valid_from_ms,
                    record.valid_until_ms,
                    record.raw,
                ),
            )
        old.close()
    store = Store(path)

    def held(branch: str | None) -> set[bytes]:
        return {row[0] for row in store.live_digests(world.NOW, branch=branch)}

    assert held("text") == {text.content_id.encode()}
    assert held(EVERYBODY) == {everybodys.content_id.encode()}
    assert held("vision") == set()
    assert len(held(None)) == 2


def test_a_withdrawal_reaches_whoever_heard_what_it_takes_back():
    body = WithdrawnBody(id=ALICE.did, withdrawn=True)
    assert topics_of(branches_of(body)) == ("records",)
