"""Keys under a passphrase, changed and lost: real nodes, by the commands a person would use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.nodes import NodeFailedError, NodeProcess, stop_all, wait_for
from scripts.offers import offers

pytestmark = pytest.mark.process
PATIENCE_SECONDS = 60
PASSPHRASE = "correct horse canary staple"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Who founded the grid, and a member that offers a model."""
    founder, member = NodeProcess(tmp_path / "founder"), NodeProcess(tmp_path / "member")
    try:
        for node in (founder, member):
            node.start()
        member.cli("join", founder.cli("invite", member.ready["did"])["invitation"])
        member.cli("models", "fetch", "echo")
        until_offered_by(founder, str(member.ready["peer_id"]))
        yield founder, member
    finally:
        stop_all([founder, member])


def until_offered_by(node: NodeProcess, peer_id: str) -> None:
    """The echo model, by this node alone."""
    wait_for(
        lambda: [m["node"] for m in offers(node)] == [peer_id],
        timeout_seconds=PATIENCE_SECONDS,
        what=f"the offer of {peer_id}",
    )


def members(node: NodeProcess) -> set[str]:
    return {str(peer["did"]) for peer in node.cli("peers")["peers"]}


def refused(node: NodeProcess) -> str:
    with pytest.raises(NodeFailedError) as caught:
        node.start()
    said = node.stdout_path.read_text() + node.stderr_path.read_text()
    assert caught.value.status == 2
    assert "Traceback" not in said
    return said


def children_environment(node: NodeProcess) -> bytes:
    found = b""
    for folder in Path(f"/proc/{node.pid}/task").iterdir():
        for child in (folder / "children").read_text().split():
            found += Path(f"/proc/{child}/environ").read_bytes()
    return found


def test_protected_keys_serve_as_before_and_the_passphrase_is_nowhere(pair, tmp_path):
    founder, member = pair
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    for node in pair:  # one after the other: each start is on another port
        with pytest.raises(NodeFailedError) as running:
            node.cli("id", "protect", "--passphrase-file", str(file))
        assert running.value.code == "already_running"
        node.stop()
        did = node.cli("id")["did"]
        assert "node.key" in node.cli("id", "protect", "--passphrase-file", str(file))["protected"]
        assert node.cli("id")["did"] == did == node.ready["did"]
        assert "passphrase_required" in refused(node)
        node._environment |= {"AIGRID_PASSPHRASE": "wrong"}
        assert "passphrase_wrong" in refused(node)
        if node is founder:
            node._environment |= {"AIGRID_PASSPHRASE": PASSPHRASE}
        else:
            node.options = (*node.options, "--passphrase-file", str(file))
        node.start()
    assert b"secretKeyMultibase" not in (founder.data_dir / "authority.key").read_bytes()
    until_offered_by(founder, str(member.ready["peer_id"]))
    founder.cli("ask", "hello", "--model", "echo")  # starts a worker over there
    for node in pair:
        environment = children_environment(node)
        assert b"PATH=" in environment or environment == b""
        assert b"AIGRID_PASSPHRASE" not in environment
        node.stop()
        seen = [node.stdout_path, node.stderr_path]
        seen += [path for path in node.data_dir.rglob("*") if path.is_file()]
        assert [path for path in seen if PASSPHRASE.encode() in path.read_bytes()] == []

    del founder._environment["AIGRID_PASSPHRASE"]
    founder.cli("id", "unprotect", "--passphrase-file", str(file))
    founder.start()


def standing_of(node: NodeProcess, credential: str) -> str:
    listed = node.cli("credential", "list")["credentials"]
    return next(str(one["standing"]) for one in listed if one["id"] == credential)


def test_a_member_and_then_the_founder_change_their_keys(pair):
    founder, member = pair
    old = member.cli("id")["did"]
    to = founder.cli("id")["did"]
    grant = member.cli("credential", "issue", "--to", to, "--everything")["credential"]
    member.stop()
    changed = member.cli("id", "rotate")
    assert changed["retired"] == old
    assert (member.data_dir / f"retired-{old.removeprefix('did:key:')}.key").exists()
    member.start()
    assert member.ready["did"] == changed["did"] != old
    until_offered_by(founder, str(member.ready["peer_id"]))
    assert members(founder) == {changed["did"]}
    assert not (member.data_dir / "pending-rotation").exists()
    assert member.cli("credential", "revoke", grant)["state"] == "revoked"
    wait_for(
        lambda: standing_of(founder, grant) == "revoked",
        timeout_seconds=PATIENCE_SECONDS,
        what="the word on what the former key issued",
    )
    member.stop()
    with pytest.raises(NodeFailedError) as soon:
        member.cli("id", "rotate")
    assert soon.value.code == "rate_limited"
    member.start()
    with pytest.raises(NodeFailedError, match=f"aigrid remove {changed['did']}") as moved:
        founder.cli("remove", old)
    assert moved.value.status == 3

    founder.stop()
    founded = founder.cli("id", "rotate")
    founder.start()
    wait_for(
        lambda: members(member) == {founded["did"]},
        timeout_seconds=PATIENCE_SECONDS,
        what="the founder by its new key",
    )
    assert founder.cli("status")["rotation_pending"] is False
    with pytest.raises(NodeFailedError) as denied:
        founder.cli("remove", founded["did"])  # it is still the authority's own node
    assert denied.value.status == 3


def test_a_lost_key_is_replaced_by_the_authority(pair):
    founder, member = pair
    lost = member.cli("id")["did"]
    member.kill9()
    (member.data_dir / "node.key").unlink()
    founder.cli("remove", lost)
    new = member.cli("id")["did"]
    assert new != lost
    member.cli("join", founder.cli("invite", new)["invitation"])  # kept for `up`
    member.start()
    until_offered_by(founder, str(member.ready["peer_id"]))
    assert members(founder) == {new}
