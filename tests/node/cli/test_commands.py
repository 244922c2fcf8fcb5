"""Every command: what it asks of the node, what it prints, with what status it ends."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

from aigrid.node.cli.session import now_ms
from aigrid.node.key_store.keys import load_pending_invitation
from aigrid.protocol.errors import CODES, AigridError, Code, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import AvailabilityBody, Kind
from aigrid.protocol.membership import invitation_text, issue_invitation
from aigrid.protocol.record import build

GRID = Identity(b"g" * 32)
CANDIDATE = {
    "model": "bm",
    "name": "m",
    "record": "br",
    "node": "12D3",
    "signer": "did:key:z1",
    "state": "warm",
    "valid_until": "2026-01-01T00:00:00.000Z",
}
PASSED_THROUGH: list[tuple[list[str], str, dict[str, Any], dict[str, Any]]] = [
    (["status"], "status", {}, {"peer_id": "12D3", "peers": [], "records": {"NodeRecord": 1}}),
    (["peers"], "peers", {}, {"peers": [{"peer_id": "p", "did": "d", "alive": True}]}),
    (["peers"], "peers", {}, {"peers": []}),
    (
        ["models"],
        "models",
        {},
        {"models": [{"model": "b", "name": "m", "warm": ["p"], "state": "warm"}]},
    ),
    (["models"], "models", {}, {"models": []}),
    (
        ["models", "fetch", "smollm2"],
        "models_fetch",
        {"name": "smollm2"},
        {"model": "b", "record": "r"},
    ),
    (["experience"], "experience", {}, {"experience": [], "told": []}),
    (
        ["experience", "--tell"],
        "experience",
        {"tell": True},
        {"experience": [{"node": "n", "served": 3}], "told": ["r"], "untold": 2},
    ),
    (["withdraw", "m"], "withdraw", {"model": "m"}, {"model": "b"}),
    (
        ["find", "text-generation", "--ask"],
        "find",
        {"capability": "text-generation", "ask": True},
        {"candidates": [CANDIDATE]},
    ),
    (
        [
            *("find", "text", "--language", "en", "--format", "gguf", "--precision", "q4_1"),
            *("--license", "MIT", "--region", "eu", "--warm", "--max-latency", "500"),
            *("--issuer", "did:key:z1", "--signer", "did:key:z2", "--max-size", "9"),
            *("--source", "en", "--target", "fr"),
        ],
        "find",
        {
            "capability": "text",
            "language": "en",
            "format": "gguf",
            "precision": "q4_1",
            "license": "MIT",
            "region": "eu",
            "warm": True,
            "latency_ms_max": 500,
            "issuer": "did:key:z1",
            "signer": "did:key:z2",
            "size_bytes_max": 9,
            "source": "en",
            "target": "fr",
        },
        {"candidates": [CANDIDATE]},
    ),
    (["invite", "did:key:z"], "invite", {"did": "did:key:z"}, {"invitation": "i", "expires": "t"}),
    (["join", "inv"], "join", {"invitation": "inv"}, {"grid": "g", "state": "member"}),
    (["join", "--grid", "g"], "join_request", {"grid": "g"}, {"grid": "g", "state": "member"}),
    (["requests"], "requests", {}, {"requests": [{"id": "1", "code": "123 456", "did": "d"}]}),
    (["approve", "1"], "approve", {"id": "1"}, {"did": "d", "state": "member"}),
    (["remove", "d"], "remove", {"did": "d"}, {"did": "d", "state": "removed"}),
    (
        ["ask", "hi", "--purpose", "research", "--accept-license", "MIT", "--max-tokens", "9"],
        "ask",
        {
            "text": "hi",
            "model": "",
            "capability": "",
            "purpose": "research",
            "accepts": ["MIT"],
            "max_tokens": 9,
        },
        {"text": "ho", "model": "m", "segments": []},
    ),
    (
        ["ask", "hi", "--model", "m"],
        "ask",
        {"text": "hi", "model": "m", "capability": ""},
        {"text": "ho", "model": "m", "segments": [{"node": "p", "model": "b", "tokens": 1}]},
    ),
]


@pytest.mark.parametrize("case", PASSED_THROUGH, ids=lambda case: " ".join(case[0]))
def test_a_command_prints_what_the_node_answers(
    cli: Cli,
    node: ScriptedNode,
    case: tuple[list[str], str, dict[str, Any], dict[str, Any]],
) -> None:
    arguments, method, params, result = case
    node.answers[method] = result
    done = cli(*arguments, "--json")
    assert (done.status, done.body) == (0, result)
    assert node.calls == [(method, params)]
    done = cli(*arguments)
    assert done.status == 0
    assert done.out.strip()


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_its_exit_status_and_one_sentence(
    cli: Cli, node: ScriptedNode, code: Code
) -> None:
    node.answers["status"] = AigridError("it\ndid not\x1b[31m work", code)
    done = cli("status", "--json")
    assert done.status == CODES[code].exit
    assert done.body["error"]["code"] == code.value
    done = cli("status")
    assert done.status == CODES[code].exit
    assert done.out == ""
    assert done.err.startswith("aigrid: it did not")
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        *(["status"], ["peers"], ["models"], ["models", "fetch", "x"], ["find", "x"], ["ask", "x"]),
        *(["invite", "x"], ["join"], ["requests"], ["approve", "1"], ["record", "show", "x"]),
    ],
)
def test_without_a_node_it_is_said_how_to_start_one(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments, "--json")
    assert (done.status, done.body["error"]["code"]) == (2, "not_running")
    done = cli(*arguments)
    assert done.status == 2
    assert "`aigrid up`" in done.err


def test_id_makes_a_key_once_without_a_node(cli: Cli) -> None:
    first = cli("id", "--json")
    assert first.status == 0
    assert set(first.body) == {"did", "peer_id"}
    assert cli("id").out.strip() == first.body["did"]


def test_a_path_is_made_absolute(
    cli: Cli, node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").touch()
    monkeypatch.chdir(tmp_path)
    node.answers["publish"] = {"model": "b", "record": "r"}
    done = cli(
        "publish", "m.onnx", "--capability", "image-classification", "--license", "MIT", "--json"
    )
    assert done.body == {"model": "b", "record": "r"}
    sent = {"path": str(tmp_path / "m.onnx"), "capability": "image-classification"}
    assert node.calls == [("publish", {**sent, "name": "", "license": "MIT"})]


@pytest.mark.parametrize("path", ["/nowhere/m.onnx", "/" + "x" * 600])
def test_a_missing_model_file_is_usage(cli: Cli, path: str) -> None:
    done = cli("publish", path, "--capability", "text-generation", "--json")
    assert (done.status, done.body["error"]["code"]) == (2, "model_file_missing")


def test_an_answer_streams_and_cannot_command_the_terminal(cli: Cli, node: ScriptedNode) -> None:
    node.events["ask"] = [{"text": "a\x1b]0;owned\x07"}, {"text": "b\n"}]
    node.answers["ask"] = {"text": "ab\n", "model": "m", "segments": []}
    done = cli("ask", "hi")
    assert done.out == "a]0;ownedb\n\n"


def test_progress_is_text_and_no_markup(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.touch()
    odd = [{"progress": "copying [/x] \x1b[2Jm[/bold].gguf"}]
    shown = {"name": "m", "capability": "c", "format": "gguf", "proposal": "bp"}
    node.answers = {
        "propose": shown,
        "publish": {"model": "b"},
        "models_fetch": {"model": "b"},
    }
    node.events = dict.fromkeys(node.answers, odd)
    done = cli("publish", str(path), "--yes")
    assert (done.status, done.err) == (0, "")
    assert node.calls[-1][1]["confirmed"] == "bp"
    assert cli("models", "fetch", "[/x]").status == 0


def test_a_question_may_come_from_stdin(
    cli: Cli, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["ask"] = {"text": "", "model": "m", "segments": []}
    monkeypatch.setattr("sys.stdin", io.StringIO("from stdin"))
    assert cli("ask", "-", "--json").status == 0
    assert node.calls[0][1]["text"] == "from stdin"


def test_an_empty_question_is_usage(cli: Cli) -> None:
    assert cli("ask", " ").status == 2


def invitation(
    cli: Cli, *, did: str | None = None, begins_ms: int = 0, lasts_ms: int = 60_000
) -> str:
    did = did or cli("id", "--json").body["did"]
    record = issue_invitation(
        GRID,
        did,
        peer_id=GRID.peer_id,
        addresses=("/ip4/127.0.0.1/tcp/1",),
        nonce="n" * 16,
        now_ms=now_ms() + begins_ms,
        valid_ms=lasts_ms,
    )
    return invitation_text(record)


def test_without_a_node_an_invitation_waits_for_up(cli: Cli, data_dir: Path) -> None:
    text = invitation(cli)
    done = cli("join", text, "--json")
    assert (done.status, done.body) == (0, {"grid": GRID.did, "state": "pending"})
    assert load_pending_invitation(data_dir) == text
    assert "`aigrid up`" in cli("join", f" {text[:40]}\n {text[40:]} ").out


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"did": GRID.did}, "invitation_not_yours"),
        ({"begins_ms": -120_000}, "invitation_expired"),
        ({"begins_ms": 600_000}, "invitation_invalid"),
    ],
)
def test_an_invitation_that_cannot_be_redeemed_is_not_kept(
    cli: Cli, data_dir: Path, given: dict[str, Any], code: str
) -> None:
    done = cli("join", invitation(cli, **given), "--json")
    assert (done.status, done.body["error"]["code"]) == (3, code)
    assert load_pending_invitation(data_dir) is None


@pytest.mark.parametrize("text", ["garbage", "aigrid-invitation-", "aigrid-invitation-AAAA"])
def test_garbage_is_no_invitation(cli: Cli, text: str) -> None:
    done = cli("join", text, "--json")
    assert (done.status, done.body["error"]["code"]) == (3, "invitation_invalid")


def test_join_alone_asks_the_one_grid_nearby_and_shows_the_code(
    cli: Cli, node: ScriptedNode
) -> None:
    node.answers["nearby"] = {"grids": [{"grid": "g1", "name": "n", "peers": ["p"]}]}
    node.answers["join_request"] = {"grid": "g1", "state": "member"}
    node.events["join_request"] = [{"state": "waiting", "code": "123 456"}]
    done = cli("join", "--json")
    assert done.body == {"grid": "g1", "state": "member"}
    assert "123 456" in done.err
    assert "123 456" in cli("join").out


def test_join_alone_does_not_guess_among_grids(cli: Cli, node: ScriptedNode) -> None:
    node.answers["nearby"] = {
        "grids": [{"grid": g, "name": "n", "peers": []} for g in ("g1", "g2")]
    }
    done = cli("join", "--json")
    assert done.status == 2
    assert "g1, g2" in done.body["error"]["message"]
    node.answers["nearby"] = {"grids": []}
    assert cli("join").status == 1


def signed(*, begins_ms: int = 0) -> bytes:
    now = now_ms() + begins_ms
    body = AvailabilityBody(id=GRID.did, offers=())
    return build(Kind.AVAILABILITY, body, GRID, valid_from_ms=now, valid_until_ms=now + 60_000).raw


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (signed, ""),
        (lambda: signed() + b"\n", ""),
        (lambda: signed(begins_ms=-90_000), "expired"),
        (lambda: signed(begins_ms=600_000), "from_future"),
        (lambda: signed().replace(b'"offers"', b'"0ffers"'), "unknown_field"),
        (lambda: b'{"a":1,"a":2}', "duplicate_key"),
        (lambda: b"{}", "unsigned"),
        (lambda: b"\xff", "malformed"),
        (lambda: b" " * 70_000, "record_too_large"),
    ],
)
def test_a_record_is_verified_without_a_node(
    cli: Cli, tmp_path: Path, make: Callable[[], bytes], code: str
) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(make())  # now: signed when collected, it would expire in a long run
    done = cli("record", "verify", str(file), "--json")
    assert done.body == {"ok": not code, "code": code}
    assert done.status == (CODES[Code(code)].exit if code else 0)
    assert cli("record", "verify", str(file)).status == done.status


def test_a_missing_record_file_is_usage(cli: Cli) -> None:
    assert cli("record", "verify", "/nowhere").status == 2


def described(**other: Any) -> dict[str, Any]:
    return {
        "record": json.loads(signed()),
        "id": "bafy",
        "signer": GRID.did,
        "verified": {"ok": True, "code": "", "message": ""},
        "state": "believed",
        "because": "the grid is open",
        "valid_from": "t1",
        "valid_until": "t2",
        "received_from": "12D3",
        "received": "t3",
        **other,
    }


def test_a_shown_record_verifies_when_saved(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    body = node.answers["record_show"] = described()
    shown = cli("record", "show", "b", "--json")
    (tmp_path / "r.json").write_text(shown.out)
    assert cli("record", "verify", str(tmp_path / "r.json")).status == 0
    assert cli("record", "show", "b", "--json", "--explain").body == body


def test_a_person_is_shown_the_record_its_check_and_its_origin(
    cli: Cli, node: ScriptedNode
) -> None:
    body = node.answers["record_show"] = described()
    done = cli("record", "show", "b")
    text, _, rest = done.out.partition("\n}\n")
    assert json.loads(text + "}") == body["record"]
    assert rest.splitlines() == [
        "Content id  bafy",
        f"Signed by   {GRID.did}",
        "Signature   good, verified just now",
        "Valid       t1 to t2",
        "State       believed: the grid is open",
        "Received    t3 from 12D3",
    ]
    node.answers["record_show"] = described(received_from=None)
    assert "Received    t3, signed or imported on this node" in cli("record", "show", "b").out


def test_a_record_that_does_not_verify_is_shown_and_is_a_failure(
    cli: Cli, node: ScriptedNode
) -> None:
    verified = {"ok": False, "code": "bad_signature", "message": "it\x1b[1m does not match"}
    node.answers["record_show"] = described(verified=verified, state="bad_signature")
    done = cli("record", "show", "b")
    assert done.status == 1
    assert "Signature   bad_signature: it[1m does not match, verified just now" in done.out
    assert cli("record", "show", "b", "--json").status == 1


def test_an_explanation_shows_each_offer_with_its_reasons(cli: Cli, node: ScriptedNode) -> None:
    kept = {**CANDIDATE, "reasons": ["translation is narrower than text", "warm"]}
    dropped = {**CANDIDATE, "name": "n\x1b[1m", "reason": "warm", "reasons": ["warm: on disk"]}
    answer = {"candidates": [kept], "dropped": [dropped], "removed": {"warm": 1}}
    node.answers["find"] = answer
    done = cli("find", "text", "--warm", "--explain")
    assert done.status == 0
    assert done.out.splitlines() == [
        "1. m on 12D3",
        "    model bm, offer signed by did:key:z1",
        "    translation is narrower than text",
        "    warm",
        "dropped (warm): n[1m on 12D3",
        "    model bm, offer signed by did:key:z1",
        "    warm: on disk",
    ]
    assert cli("find", "text", "--warm", "--explain", "--json").body == answer
    assert node.calls[0][1] == {"capability": "text", "warm": True, "explain": True}


def test_filters_that_leave_nothing_end_in_4(cli: Cli, node: ScriptedNode) -> None:
    dropped = {**CANDIDATE, "reason": "warm", "reasons": ["warm: on disk"]}
    answer = {"candidates": [], "dropped": [dropped], "removed": {"warm": 1}}
    node.answers["find"] = answer
    done = cli("find", "text", "--warm", "--explain", "--json")
    assert (done.status, done.body) == (4, answer)
    done = cli("find", "text", "--warm", "--explain")
    assert (done.status, done.out.splitlines()[-1]) == (4, "None is left.")
    node.answers["find"] = {**answer, "more": 7}
    done = cli("find", "text", "--warm", "--explain")
    assert done.status == 0
    assert "7 more fit" in done.err
    node.answers["find"] = {"candidates": [], "dropped": [], "removed": {}}
    done = cli("find", "text", "--warm", "--explain")
    assert (done.status, done.out) == (0, "Nobody offers this now.\n")


def test_languages_of_a_model_are_stated(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    node.answers["publish"] = {"model": "b", "record": "r"}
    path = str(tmp_path / "m.onnx")
    cli("publish", path, "--capability", "c", "--language", "en", "--language", "pt-BR")
    assert node.calls[0][1]["languages"] == ["en", "pt-BR"]


def test_a_message_that_says_what_to_do_gets_no_second_advice(cli: Cli, node: ScriptedNode) -> None:
    for message in ("a node offers at most 64 models; withdraw one first", "x: run `aigrid id`"):
        node.answers["status"] = AigridError(message, Code.OVER_QUOTA)
        assert cli("status").err == f"aigrid: {message}.\n"
    node.answers["status"] = AigridError("did you mean `this`?", Code.NO_CANDIDATE)
    assert cli("status").err == "aigrid: did you mean `this`?\n"
    node.answers["status"] = AigridError("no.", Code.OVER_QUOTA)
    assert cli("status").err == "aigrid: no; withdraw records of this issuer first.\n"


def test_importing_a_record(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(signed() + b"\n")
    node.answers["record_import"] = {"ok": True, "code": "", "record": "b"}
    assert cli("record", "import", str(file), "--json").body == {"ok": True, "code": ""}
    assert node.calls[0][1]["raw"].encode() == file.read_bytes()[:-1]
    node.answers["record_import"] = VerificationError("not signed by a member", Code.NOT_MEMBER)
    done = cli("record", "import", str(file), "--json")
    assert (done.status, done.body) == (3, {"ok": False, "code": "not_member"})
    file.write_bytes(b"\xff")
    assert cli("record", "import", str(file), "--json").body == {"ok": False, "code": "malformed"}


def test_what_is_behind_a_server_is_published_with_its_key(
    cli: Cli, node: ScriptedNode, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("k3y\n")
    (tmp_path / "mapping").write_text('{"output": {"top": 3}}')
    node.answers["publish_upstream"] = {"model": "b", "name": "parrot", "record": "r"}
    done = cli(
        *("publish", "oip+http://127.0.0.1:8000", "--upstream-model", "iris", "--name", "flowers"),
        *("--capability", "tabular-classification", "--license", "MIT"),
        *("--key-file", str(tmp_path / "key"), "--task-mapping", str(tmp_path / "mapping")),
        "--json",
    )
    assert done.body == node.answers["publish_upstream"]
    sent = {"url": "oip+http://127.0.0.1:8000", "model": "iris", "name": "flowers"}
    more = {"license": "MIT", "key": "k3y", "mapping": {"output": {"top": 3}}}
    asked = {**sent, "capability": "tabular-classification", **more}
    assert node.calls == [("publish_upstream", asked)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["m.onnx", "--capability", "fill-mask", "--upstream-model", "parrot"],
        ["m.onnx", "--capability", "fill-mask", "--key-file", "k"],
        ["openai+http://127.0.0.1:1/v1", "--key-file", "/nowhere/key"],
        ["oip+http://127.0.0.1:1", "--task-mapping", "/dev/null"],
        ["oip+http://127.0.0.1:1", "--key-file", "/dev/zero"],
    ],
)
def test_a_publication_that_makes_no_sense_is_usage(
    cli: Cli, node: ScriptedNode, arguments: list[str]
) -> None:
    done = cli("publish", *arguments, "--json")
    assert (done.status, done.body["error"]["code"]) == (2, "usage")
    assert node.calls == []
