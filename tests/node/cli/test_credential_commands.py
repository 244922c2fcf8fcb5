"""`aigrid credential` and `aigrid policy`: what they ask of the node, print, and end with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode
from tests.node.policy.lists import Lists

from aigrid.metagraph.database import Database
from aigrid.node.cli.durations import seconds_of
from aigrid.node.cli.session import now_ms
from aigrid.node.policy.wallet import Terms, Wallet
from aigrid.protocol.credential_kinds import Permission
from aigrid.protocol.errors import CODES, Code, PolicyDeniedError, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

OWNER, HOLDER, OTHER = (Identity(bytes([i]) * 32) for i in (1, 2, 3))
ISSUED = {
    "credential": "b1",
    "to": HOLDER.did,
    "valid_until": "2027-01-01T00:00:00.000Z",
    "delivered": False,
    "because": "no node with that key is connected",
    "chain": ['{"a": 1}', '{"b": 2}'],
}
LINK = {
    "id": "b1",
    "kind": "Grant",
    "issuer": OWNER.did,
    "holder": HOLDER.did,
    "permission": {"actions": ["invoke"], "targets": ["*"], "requests_per_day": 5},
    "delegable": 0,
    "valid_until": "2027-01-01T00:00:00.000Z",
    "standing": "good",
    "record": {"type": ["VerifiableCredential", "Grant"]},
}
CHAIN = {
    "ok": True,
    "code": "",
    "message": "",
    "owner": OWNER.did,
    "holder": HOLDER.did,
    "links": [LINK],
}


def chain(ago_ms: int = 0, valid_ms: int = 60_000) -> list[str]:
    """A grant and a delegation of it, as they are printed."""
    began_ms = now_ms() - ago_ms
    lists = Lists(lambda: began_ms, [OWNER, HOLDER])
    invoke = Permission(("invoke",), ("*",))

    def wallet(identity: Identity) -> Wallet:
        return Wallet(
            Database(None),
            identity,
            entries=lists,
            now_ms=lambda: began_ms,
            random_bytes=lambda count: b"\1" * count,
        )

    grant = wallet(OWNER).issue(OWNER, HOLDER.did, invoke, Terms(valid_ms, delegable=1))
    holder = wallet(HOLDER)
    holder.take([grant.raw])
    links = holder.delegate(grant.content_id, OTHER.did, invoke, Terms(valid_ms))
    return [link.raw.decode() for link in links]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[str]], str]:
    def write(lines: list[str]) -> str:
        path = tmp_path / "chain"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return write


def test_a_grant_is_printed_to_be_carried(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    node.answers["credential_issue"] = ISSUED
    asked = ("credential", "issue", "--to", HOLDER.did, "--model", "m", "--capability", "text")
    limits = ("--requests-per-day", "5", "--valid", "2d", "--max-status-age", "90s")
    done = cli(*asked, *limits, "--purpose", "research", "--as-authority")
    assert (done.status, done.out.splitlines()) == (0, ISSUED["chain"])
    assert "not delivered: no node" in done.err
    (call,) = node.calls
    assert call == (
        "credential_issue",
        {
            "to": HOLDER.did,
            "models": ["m"],
            "capabilities": ["text"],
            "everything": False,
            "purposes": ["research"],
            "requests_per_day": 5,
            "delegable": 0,
            "valid_seconds": 2 * 86400,
            "status_age_seconds": 90,
            "as_authority": True,
        },
    )
    out = tmp_path / "out"
    node.answers["credential_issue"] = {**ISSUED, "delivered": True, "because": ""}
    done = cli(*asked, "--out", str(out))
    assert (done.out, out.read_text().splitlines()) == ("", ISSUED["chain"])
    assert "has it now" in done.err
    assert cli(*asked, "--json").body["credential"] == "b1"
    assert cli(*asked, "--out", str(tmp_path / "no" / "such")).status == 2


def test_a_delegation_says_what_it_narrows(cli: Cli, node: ScriptedNode) -> None:
    node.answers["credential_delegate"] = ISSUED
    done = cli("credential", "delegate", "b1", "--to", OTHER.did, "--on-behalf", "--region", "eu")
    assert done.status == 0
    said = {"id": "b1", "to": OTHER.did, "on_behalf": True, "regions": ["eu"], "delegable": 0}
    assert node.calls == [("credential_delegate", said)]


@pytest.mark.parametrize(
    ("arguments", "method", "params", "answer", "shown"),
    [
        (("revoke", "b1"), "credential_revoke", {"id": "b1"}, {"credential": "b1"}, "Revoked b1"),
        (("show", "b1"), "credential_show", {"id": "b1"}, CHAIN, "may invoke on everything 5 req"),
        (
            ("list", "--held"),
            "credential_list",
            {"held": True, "issued": False},
            {"credentials": [LINK]},
            "good",
        ),
        (
            ("list",),
            "credential_list",
            {"held": False, "issued": False},
            {"credentials": []},
            "No credentials yet",
        ),
        (("forget", "b1"), "credential_forget", {"id": "b1"}, {"credential": "b1"}, "Forgotten"),
    ],
)
def test_other_commands(  # noqa: PLR0917 - a row of the table
    cli: Cli,
    node: ScriptedNode,
    arguments: tuple[str, ...],
    method: str,
    params: dict[str, Any],
    answer: dict[str, Any],
    shown: str,
) -> None:
    node.answers[method] = answer
    assert shown in cli("credential", *arguments).out
    assert cli("credential", *arguments, "--json").body == answer
    assert node.calls == [(method, params)] * 2


def test_a_file_stands_for_its_last_credential(
    cli: Cli, node: ScriptedNode, written: Callable[[list[str]], str]
) -> None:
    lines = chain()
    node.answers["credential_revoke"] = {"credential": "b1"}
    node.answers["credential_verify"] = {**CHAIN, "ok": False, "code": "revoked", "message": "so"}
    node.answers["credential_import"] = {"credentials": [LINK], "notes": ["mind"]}
    path = written(lines)
    assert cli("credential", "revoke", path).status == 0
    assert "does not hold: revoked" in cli("credential", "show", path).out
    done = cli("credential", "import", path)
    assert ("holds b1 now" in done.out, done.err) == (True, "mind\n")
    assert [params for _, params in node.calls] == [
        {"raw": lines[-1]},
        {"credentials": lines},
        {"credentials": lines},
    ]


def test_a_chain_is_verified_without_a_node(cli: Cli, written: Callable[[list[str]], str]) -> None:
    grant, delegation = chain()
    done = cli("credential", "verify", written([delegation, grant]))
    assert done.status == 0
    assert "without a node" in done.out
    assert OTHER.did in done.out
    for lines, code in (
        ([delegation], Code.CHAIN_BROKEN),
        ([grant, delegation.replace('"invoke"', '"fetch"')], Code.BAD_SIGNATURE),
        (["{}"], Code.UNSIGNED),
        (chain(ago_ms=100_000), Code.EXPIRED),
    ):
        done = cli("credential", "verify", written(lines), "--json")
        assert (done.status, done.body["code"]) == (CODES[code].exit, code.value)
        assert "Refused" in cli("credential", "verify", written(lines)).out


def test_with_a_node_revocation_is_verified_too(
    cli: Cli, node: ScriptedNode, written: Callable[[list[str]], str]
) -> None:
    node.answers["credential_verify"] = CHAIN
    assert "nothing is revoked" in cli("credential", "verify", written(chain())).out
    node.answers["credential_verify"] = {**CHAIN, "ok": False, "code": "revoked", "message": "x"}
    assert cli("credential", "verify", written(chain())).status == 3
    node.answers["credential_verify"] = PolicyDeniedError("no chain", Code.CHAIN_BROKEN)
    done = cli("credential", "verify", written(chain()), "--json")
    assert (done.status, done.body["code"]) == (3, "chain_broken")


def test_files_that_are_none(cli: Cli, written: Callable[[list[str]], str]) -> None:
    for lines in ([""], ["{}"] * (LIMITS.chain_max + 1), ["x" * 300_000]):
        done = cli("credential", "verify", written(lines), "--json")
        assert (done.status, done.body["error"]["code"]) == (2, "usage")
    assert cli("credential", "import", "/nonexistent/file").status == 2


def test_durations() -> None:
    found = [seconds_of(text, "--valid") for text in ("90s", "10m", "24h", "30d")]
    assert found == [90, 600, 86400, 30 * 86400]
    assert seconds_of(None, "--valid") is None
    for text in ("", "10", "0s", "-1d", "1w", "1.5h", "9" * 40 + "d"):
        with pytest.raises(UsageError, match="--valid"):
            seconds_of(text, "--valid")


def test_a_decision_is_explained_and_is_the_exit_status(
    cli: Cli, node: ScriptedNode, written: Callable[[list[str]], str]
) -> None:
    decision = {
        "node": OWNER.did,
        "peer_id": "12D3",
        "own": False,
        "allowed": True,
        "code": "",
        "reasons": [{"text": "a member of the grid", "code": "", "record": "bm"}],
        "obligations": [
            {"key": "b1", "requests_per_day": 5, "tokens_per_day": 0, "concurrency": 2}
        ],
        "unknown": ["what that node's operator has configured"],
    }
    body = {"model": "bx", "action": "invoke", "holder": HOLDER.did, "allowed": True, "code": ""}
    node.answers["policy_explain"] = {**body, "offered": True, "decisions": [decision]}
    lines = chain()
    done = cli("policy", "explain", "m", "--credential", written(lines), "--accept", "MIT")
    assert done.status == 0
    assert "12D3: allowed" in done.out
    assert "a member of the grid  [bm]" in done.out
    assert "within 5 requests a day, 2 requests at once, counted for b1" in done.out
    assert node.calls[0][1] == {
        "model": "m",
        "action": "invoke",
        "holder": "",
        "on_behalf": "",
        "credentials": lines,
        "node": "",
        "purpose": "",
        "accepts": ["MIT"],
    }
    reason = {"text": "so", "code": "no_grant", "record": ""}
    no = {**decision, "allowed": False, "code": "no_grant", "reasons": [reason], "obligations": []}
    node.answers["policy_explain"] = {**body, "allowed": False, "decisions": [no]}
    done = cli("policy", "explain", "m")
    assert done.status == 3
    assert "denied, no_grant" in done.out
    assert "aigrid credential issue" in done.out
    done = cli("policy", "explain", "m", "--json")
    assert (done.status, json.loads(done.out)["allowed"]) == (3, False)


def test_what_nobody_offers_is_permitted_in_vain(cli: Cli, node: ScriptedNode) -> None:
    body = {"model": "bx", "action": "invoke", "holder": HOLDER.did, "allowed": True, "code": ""}
    node.answers["policy_explain"] = {**body, "offered": False, "decisions": []}
    done = cli("policy", "explain", "m", "--on-behalf", OTHER.did)
    assert (done.status, "Nobody offers it" in done.out) == (4, True)
    assert node.calls[0][1]["on_behalf"] == OTHER.did
    body = {**body, "action": "publish", "offered": False, "decisions": []}
    node.answers["policy_explain"] = body
    assert cli("policy", "explain", "m", "--action", "publish").status == 0


def test_a_listed_id_is_whole_on_a_line_however_narrow_the_terminal(
    cli: Cli, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "b" + "a" * 52
    node.answers["credential_list"] = {"credentials": [{**LINK, "id": name}]}
    assert name in cli("credential", "list").out.splitlines()
