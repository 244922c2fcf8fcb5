"""`aigrid capability`."""

import json
from pathlib import Path

from tests.node.cli.conftest import Cli, ScriptedNode

PUBLISH = ("capability", "publish", "legal", "--broader", "summarization", "--label", "Legal")


def test_a_capability_is_published(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "string"}')
    node.answers["capability_publish"] = {"capability": "did:key:z#legal", "record": "b"}
    done = cli(*PUBLISH, "--broader", "text", "--language", "de", "--input-schema", str(schema))
    assert "did:key:z#legal" in done.out
    assert node.calls == [
        (
            "capability_publish",
            {
                "name": "legal",
                "broader": ["summarization", "text"],
                "labels": {"de": "Legal"},
                "input_schema": {"type": "string"},
                "output_schema": {},
                "parameters_schema": {},
            },
        )
    ]
    assert cli(*PUBLISH, "--json").body["record"] == "b"


def test_a_schema_is_an_object(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    schema = tmp_path / "s.json"
    for text in ("[]", "{", "1"):
        schema.write_text(text)
        done = cli(*PUBLISH, "--output-schema", str(schema), "--json")
        assert (done.status, json.loads(done.out)["error"]["code"]) == (2, "usage")
    assert node.calls == []


def test_a_capability_is_withdrawn(cli: Cli, node: ScriptedNode) -> None:
    node.answers["capability_withdraw"] = {"capability": "did:key:z#legal", "record": "b"}
    assert cli("capability", "withdraw", "legal").status == 0
    assert node.calls == [("capability_withdraw", {"name": "legal"})]
