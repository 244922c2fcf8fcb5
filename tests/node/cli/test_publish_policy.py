"""`aigrid publish --policy`, and what lists and proposals show of policies."""

from pathlib import Path

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

RULE = {"actions": ["invoke"], "assignees": ["members"], "accept_license": True}


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "m.onnx"
    path.touch()
    return str(path)


def test_the_file_is_sent_as_it_is(
    cli: Cli, node: ScriptedNode, tmp_path: Path, model: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("rules = []\n")
    node.answers["publish_hub"] = node.answers["publish"] = {"model": "b"}
    node.answers["publish_upstream"] = {"model": "b"}
    for source in (model, "hf:org/name", "oip+http://127.0.0.1:8000"):
        assert cli("publish", source, "--policy", str(policy), "--json").status == 0
        assert node.calls[-1][1]["policy"] == "rules = []\n"
    assert cli("publish", model, "--json").status == 0
    assert "policy" not in node.calls[-1][1]


def test_what_a_model_serves_is_sent_and_shown(cli: Cli, node: ScriptedNode, model: str) -> None:
    said = ["translation:source=en,target=fr", "summarization:language=de"]
    proposal = {"name": "m", "capability": "c", "format": "onnx", "proposal": "b", "serves": said}
    node.answers = {"propose": proposal, "publish": {"model": "b"}}
    done = cli("publish", model, "--yes", "--serves", said[0], "--serves", said[1])
    assert node.calls[0][1]["serves"] == said
    assert said[0] in done.out


def test_a_file_that_is_none(cli: Cli, node: ScriptedNode, tmp_path: Path, model: str) -> None:
    policy = tmp_path / "policy.toml"
    for content in (b"", b" \n", b"\xff", b"#" * 100_000):
        policy.write_bytes(content)
        assert cli("publish", model, "--policy", str(policy)).status == 2
    assert cli("publish", model, "--policy", str(tmp_path / "none")).status == 2
    assert node.calls == []


@pytest.mark.parametrize(
    ("rules", "shown"),
    [
        ([RULE], "actions: invoke; assignees: members; accept_license: yes"),
        ([], "nobody but its owner may do anything"),
    ],
)
def test_a_proposal_shows_the_policy(
    cli: Cli, node: ScriptedNode, model: str, rules: list[object], shown: str
) -> None:
    proposal = {"name": "m", "capability": "c", "format": "onnx", "proposal": "b"}
    node.answers = {"propose": {**proposal, "policy": rules}, "publish": {"model": "b"}}
    done = cli("publish", model, "--yes")
    assert shown in done.out
    node.answers["propose"] = {**proposal, "policy": None}
    node.answers["publish"] = {"model": "b", "policy": rules}
    proposed, published = cli("publish", model, "--yes").out.split("Published b")
    assert "as this node published it before" in " ".join(proposed.split())
    assert f"Policy: {shown}" in " ".join(published.split())


def test_models_are_listed_with_those_who_may_ask_them(cli: Cli, node: ScriptedNode) -> None:
    listed = {"model": "b", "name": "m", "node": "p", "state": "warm"}
    grant = {**RULE, "assignees": ["did:key:z1"]}
    for policy, shown in (
        ([RULE], "members"),
        ([{**RULE, "actions": ["fetch"]}], "its owner"),
        ([], "its owner"),
        ([RULE, grant], "members, a grant from did:key:z1"),
    ):
        node.answers["models"] = {"models": [{**listed, "policy": policy}]}
        assert shown in cli("models", "--long").out
