"""`aigrid evaluate` and `aigrid evaluations` at a terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode
from tests.node.cli.test_model_cards import MODEL, OWN

from aigrid.node.control_client import ControlClient

DID = "did:key:z6Mk" + "x" * 44
MEASURED: dict[str, Any] = {
    "capability": "translation",
    "metric": "chrf",
    "dataset": "ab" * 32,
    "items": 40,
    "models": [
        {
            "model": "b1",
            "name": "opus",
            "node": OWN,
            "value": 0.6131,
            "low": 0.58,
            "high": 0.64,
            "unanswered": 2,
            "seconds_per_item": 0.31,
            "record": "b2",
        },
        {"model": "b3", "name": "tiny", "problem": "every node is busy"},
    ],
}
KNOWN: dict[str, Any] = {
    "model": "b1",
    "name": "opus",
    "capability": "translation",
    "parameters": {"source": "en", "target": "fr"},
    "metric": "chrf",
    "value": 0.6131,
    "low": 0.58,
    "high": 0.64,
    "items": 40,
    "dataset": "ab" * 32,
    "issuer": DID,
    "owner": True,
    "record": "b2",
    "valid_until": "2026-09-22T00:00:00.000Z",
}


def test_a_dataset_is_named_and_a_table_comes_back(
    cli: Cli, node: ScriptedNode, tmp_path: Path
) -> None:
    node.answers["evaluate"] = MEASURED
    path = tmp_path / "items.jsonl"
    words = ("--source", "en", "--target", "fr", "--param", "style=plain", "--model", "opus")
    done = cli("evaluate", "translation", "--dataset", str(path), *words)
    assert node.calls == [
        (
            "evaluate",
            {
                "capability": "translation",
                "path": str(path),
                "metric": "",
                "parameters": {"style": "plain", "source": "en", "target": "fr"},
                "models": ["opus"],
                "sign": True,
            },
        )
    ]
    shown = " ".join(done.out.split())
    assert "translation: chrf on 40 items" in shown
    assert "opus 0.613 (0.580 to 0.640) 2 0.31" in shown
    assert "tiny every node is busy" in shown
    assert "aigrid evaluations translation" in done.err
    done = cli("evaluate", "translation", "--dataset", str(path), "--dry-run", "--json")
    assert node.calls[-1][1]["sign"] is False
    assert done.body == MEASURED


def test_what_is_known_says_who_says_so(cli: Cli, node: ScriptedNode) -> None:
    node.answers["evaluations"] = {"evaluations": [KNOWN]}
    shown = cli("evaluations", "translation", "--model", "opus").out
    assert node.calls[-1] == ("evaluations", {"capability": "translation", "model": "opus"})
    assert all(len(line) <= 100 for line in shown.splitlines())
    joined = " ".join(shown.split())
    assert "translation:source=en,target=fr" in joined
    assert "chrf 0.613 (0.580 to 0.640) on 40 items" in joined
    assert f"by {DID} (its owner)" in joined
    node.answers["evaluations"] = {"evaluations": []}
    assert "Nobody has evaluated" in cli("evaluations").out


def test_the_card_of_a_model_shows_what_it_is_worth(cli: Cli, node: ScriptedNode) -> None:
    node.answers["models_show"] = {
        "model": {**MODEL, "evaluations": [KNOWN, {**KNOWN, "owner": False}]},
        "peer_id": OWN,
    }
    shown = cli("models", "show", "smollm2").out
    assert all(len(line) <= 100 for line in shown.splitlines())
    assert f"by {DID} (its owner)" in " ".join(shown.split())
    assert shown.count("chrf 0.613") == 2


def test_what_is_no_parameter_is_wrong_usage(cli: Cli, node: ScriptedNode) -> None:
    done = cli("evaluate", "translation", "--dataset", "x", "--param", "style")
    assert (done.status, node.calls) == (2, [])
    assert cli("evaluate", "translation").status == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_says_what_was_measured_and_what_is_published(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    def interrupted(events: list[dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def call(_self: ControlClient, _method: str, _params: Any, on_event: Any) -> dict[str, Any]:
            for event in events:
                on_event(event)
            raise KeyboardInterrupt

        return call

    def said(*events: dict[str, Any], dry_run: bool = False) -> str:
        monkeypatch.setattr(ControlClient, "call", interrupted(list(events)))
        options = [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])]
        done = cli("evaluate", "translation", "--dataset", "x", *options)
        assert done.status == 130
        return done.err

    assert "before anything was measured; nothing was published" in said()
    opus = {"measured": MEASURED["models"][0]}
    on = {"progress": "tiny: 3 of 40 items"}
    assert "broken off: tiny: 3 of 40 items; nothing of it was published" in said(on)
    whole = said({"progress": "opus: 40 of 40 items"}, opus, on)
    assert "measured and signed: opus 0.613 (0.580 to 0.640)" in whole
    assert "broken off: tiny: 3 of 40 items; nothing of it was published" in whole
    assert "measured and not signed: opus" in said(opus, dry_run=True)


def test_experience_fits_a_terminal(
    cli: Cli, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    one = {
        "node": OWN,
        "capability": "zero-shot-image-classification",
        "model": "bagaaiera" + "x" * 52,
        "served": 1234,
        "failed": 5,
        "latencyMs": 812,
        "audited": 3,
        "wrong": 1,
        "standing": 1.5,
    }
    node.answers["experience"] = {"experience": [one], "told": []}
    shown = cli("experience").out
    assert all(len(line) <= 80 for line in shown.splitlines())
    for whole in (OWN, one["capability"], one["model"], "3 checked, 1 wrong; standing 1.5"):
        assert str(whole) in shown
    assert "1234 served, 5 failed, 812 ms to the first chunk" in shown
