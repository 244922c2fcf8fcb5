"""The walk-through of docs/policy.md on real nodes, and what a credential survives."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.nodes import NodeFailedError, NodeProcess, run_cli, stop_all, wait_for
from scripts.offers import offers
from tests.engines.gguf_writer import tiny_llama, write
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
POLICY = Path(__file__).parents[2] / "docs" / "policy.md"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """The owner, who founded the grid, and another member."""
    folder = tmp_path_factory.mktemp("credentials")
    owner, other = NodeProcess(folder / "owner"), NodeProcess(folder / "other")
    try:
        for node in (owner, other):
            node.start()
        other.cli("join", owner.cli("invite", other.ready["did"])["invitation"])
        yield owner, other
    finally:
        stop_all([owner, other])


def walk_through() -> tuple[str, list[tuple[str, str, str]]]:
    """The policy file, and the lines: who runs what, and what is said of the outcome."""
    section = POLICY.read_text().split("## Policy and credentials")[1].split("\n## ")[0]
    policy = section.split("```toml\n")[1].split("```")[0]
    lines = re.findall(r"^(owner|other)\$ aigrid (.*?)(?: +# (.*))?$", section, re.MULTILINE)
    return policy, lines


def test_the_walk_through_of_the_docs(
    grid: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    owner, other = grid
    nodes = {"owner": owner, "other": other}
    policy, lines = walk_through()
    assert len(lines) == 8
    (tmp_path / "policy.toml").write_text(policy)
    small = tiny_llama()  # fewer tokens than `ask` would have
    write(tmp_path, small).rename(tmp_path / "tiny.gguf")
    paths = {name: str(tmp_path / name) for name in ("policy.toml", "tiny.gguf")}
    words = {**paths, "DID": str(other.ready["did"])}
    for who, command, outcome in lines:
        arguments = [words.get(word, word) for word in shlex.split(command)]
        node = nodes[who]
        if arguments[0] == "ask":
            _asked(node, arguments, outcome)
        elif arguments[0] == "policy":
            with pytest.raises(NodeFailedError) as caught:
                node.cli(*arguments)
            assert (caught.value.status, caught.value.code) == (3, "no_grant")
        else:
            body = node.cli(*arguments)
            if arguments[1] == "issue":
                assert body["delivered"]
                words["ID"] = body["credential"]
            elif arguments[1] == "list":
                (listed,) = body["credentials"]
                assert listed["id"] == words["ID"]
                _soon_good(other, words["ID"])
        if arguments[0] == "publish":
            wait_for(
                lambda: [m for m in offers(other) if m["name"] == "tiny"],
                timeout_seconds=PATIENCE_SECONDS,
                what="the model at the other node",
            )


def _asked(node: NodeProcess, arguments: list[str], outcome: str) -> None:
    """Until what is said comes true: a list of what is revoked has a second to get there."""

    def as_said() -> bool:
        try:
            node.cli(*arguments)
        except NodeFailedError as error:
            return f"denied: {error.code}" == outcome and error.status == 3
        return outcome == "works"

    wait_for(as_said, timeout_seconds=PATIENCE_SECONDS, what=outcome)


def _soon_good(node: NodeProcess, credential: str) -> None:
    def standing() -> bool:
        listed = node.cli("credential", "list")["credentials"]
        return [one["standing"] for one in listed if one["id"] == credential] == ["good"]

    wait_for(standing, timeout_seconds=PATIENCE_SECONDS, what="a good grant")


def test_a_credential_is_carried_verified_and_survives_a_restart(
    grid: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    owner, other = grid
    file, did = tmp_path / "grant", str(other.ready["did"])
    issued = owner.cli("credential", "issue", "--to", did, "--everything", "--out", str(file))
    assert file.read_text().splitlines() == issued["chain"]
    verified = owner.cli("credential", "verify", str(file))
    assert (verified["ok"], verified["holder"]) == (True, did)
    alone = run_cli(tmp_path / "nobody", "credential", "verify", str(file))
    assert alone["ok"]
    assert alone["links"][0]["standing"] == ""
    imported = other.cli("credential", "import", str(file))
    assert imported["credentials"][0]["id"] == issued["credential"]
    other.restart()
    held = other.cli("credential", "list", "--held")["credentials"]
    assert issued["credential"] in {one["id"] for one in held}
    changed = file.read_text().replace('"invoke"', '"publish"')
    file.write_text(changed)
    with pytest.raises(NodeFailedError) as caught:
        other.cli("credential", "import", str(file))
    assert caught.value.code == "bad_signature"


def test_a_policy_that_says_something_unknown_publishes_nothing(
    grid: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    owner, _ = grid
    model = write(tmp_path, tiny_llama())
    policy = tmp_path / "policy.json"
    rule = {"actions": ["invoke"], "assignees": ["members"], "unless": ["sunday"]}
    policy.write_text(json.dumps({"rules": [rule]}))
    before = offers(owner)
    with pytest.raises(NodeFailedError, match=r"rules\[0\]: there is no 'unless'") as caught:
        owner.cli("publish", str(model), "--name", "odd", "--policy", str(policy))
    assert caught.value.status == 2
    assert offers(owner) == before
