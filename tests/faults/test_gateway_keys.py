"""Keys and TLS on real nodes, with the clients that people use."""

import argparse
import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripts.bench.wrong_keys import Honest, one_round
from scripts.nodes import NodeFailedError, NodeProcess, wait_for
from scripts.offers import offers
from tests.node.gateway.signing import Draft
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.identity import Identity

pytestmark = pytest.mark.process
SIGNED_TO = "localhost:8080"  # the name that the client used; the port differs after a restart
HI: Any = [{"role": "user", "content": "hi there"}]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    made = NodeProcess(tmp_path_factory.mktemp("keys") / "node", "--no-keyless")
    try:
        made.start()
        fetch(made)
        yield made
    finally:
        made.stop()


def fetch(node: NodeProcess) -> None:
    """The echo model, until it is offered."""
    node.cli("models", "fetch", "echo")
    offered(node)


def offered(node: NodeProcess) -> None:
    wait_for(lambda: offers(node), timeout_seconds=PATIENCE_SECONDS, what="the offer")


def client(node: NodeProcess, key: str, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{node.gateway}/v1", api_key=key, max_retries=0, timeout=30, **more
    )


def ask(who: openai.OpenAI) -> str | None:
    answer = who.chat.completions.create(model="echo", messages=HI)
    return answer.choices[0].message.content


def test_what_the_node_makes_is_for_its_owner_alone(node: NodeProcess) -> None:
    """Also what is made later, such as the next log: the directory may be open to others."""
    assert "Umask:\t0077\n" in Path(f"/proc/{node.pid}/status").read_text()
    made = [path for path in node.data_dir.rglob("*") if path.is_file()]
    assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_the_sdk_with_a_key_with_none_and_with_a_revoked_one(node: NodeProcess) -> None:
    made = node.cli("key", "create", "alice")
    assert ask(client(node, made["key"])) == "hi there"
    for wrong in ("unused", made["key"][:-1] + "_"):
        with pytest.raises(openai.AuthenticationError) as refused:
            ask(client(node, wrong))
        assert refused.value.code == "unauthenticated"
    assert node.cli("key", "revoke", made["id"])["state"] == "revoked"
    with pytest.raises(openai.AuthenticationError):
        ask(client(node, made["key"]))
    assert node.cli("key", "list")["keys"] == []


def test_limits_outlive_a_restart_and_reach_the_sdk(node: NodeProcess) -> None:
    limits = ("--tokens-per-day", "6", "--model", "echo", "--expires", "1h")
    made = node.cli("key", "create", "bob", *limits)
    who = client(node, made["key"])
    assert ask(who) == "hi there"
    assert node.cli("key", "list")["keys"][0]["tokens_today"] == 4
    assert ask(who) == "hi there"
    node.restart()
    offered(node)
    who = client(node, made["key"])
    with pytest.raises(openai.RateLimitError) as over:
        ask(who)
    assert over.value.code == "over_budget"
    assert int(over.value.response.headers["retry-after"]) > 0
    (shown,) = node.cli("key", "list")["keys"]
    assert (shown["state"], shown["tokens_today"]) == ("live", 8)
    with pytest.raises(openai.PermissionDeniedError):
        who.chat.completions.create(model="another", messages=HI)


def test_a_flood_of_wrong_keys_keeps_nobody_honest_out(node: NodeProcess) -> None:
    """The figures are those of `scripts/bench/wrong_keys.py`."""
    honest = Honest(node.gateway, node.cli("key", "create", "honest")["key"])
    some = argparse.Namespace(rounds=1, wrong=200, at_once=32, slow=50)
    took, flood = one_round(node, honest, some)
    assert flood == {"refused": 200, "other": 0, "reconnects": 0}
    assert len(took) > 20
    assert honest.refused == 0
    assert node.cli("status")["gateway"]["counters"]["unauthenticated"] >= 200


def test_a_signed_request_is_served_once_also_by_a_node_that_was_killed(node: NodeProcess) -> None:
    identity = Identity(os.urandom(32))
    node.cli("key", "create", "signer", "--did", identity.did)

    def ask_signed(nonce: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str]]:
        draft = Draft(identity, SIGNED_TO, parameters={"nonce": nonce, "created": now})
        headers = {**draft.signed(), "host": SIGNED_TO} if headers is None else headers
        return httpx.get(f"{node.gateway}/v1/models", headers=headers).status_code, headers

    now = int(datetime.now(UTC).timestamp())
    status, first = ask_signed("one")
    assert status == 200
    assert ask_signed("one", first)[0] == 401
    node.kill9()
    node.start()
    assert ask_signed("one", first)[0] == 401
    assert ask_signed("two")[0] == 200
    node.cli("key", "revoke", "signer")
    assert ask_signed("three")[0] == 401


def test_what_the_command_line_refuses(node: NodeProcess) -> None:
    node.cli("key", "create", "carol")
    for arguments in (
        ("create", "carol"),
        ("create", "operator"),
        ("create", "dave", "--did", "did:key:nonsense"),
        ("create", "dave", "--expires", "soon"),
        ("create", "dave", "--requests-per-minute", "-1"),
        ("create", "dave", "--capability", "no-such-capability"),
        ("revoke", "dave"),
    ):
        with pytest.raises(NodeFailedError) as failed:
            node.cli("key", *arguments)
        assert failed.value.status in (1, 2), arguments
        assert failed.value.code in ("usage", "not_found"), arguments


def test_tls_with_a_certificate_of_the_nodes_own(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node", "--tls", "self-signed", "--gateway-name", "localhost")
    try:
        ready = node.start()
        assert ready["gateway"].startswith("https://127.0.0.1:")
        told = node.cli("status")["gateway"]
        assert told["tls_fingerprint"] == ready["tls_fingerprint"]
        assert told["keyless"] is True
        fetch(node)
        trust = ssl.create_default_context(cafile=str(node.data_dir / "gateway.pem"))
        with httpx.Client(verify=trust) as http:
            assert ask(client(node, "unused", http_client=http)) == "hi there"
        with pytest.raises(openai.APIConnectionError):
            ask(client(node, "unused"))
        before = ready["tls_fingerprint"]
        assert node.restart()["tls_fingerprint"] == before
    finally:
        node.stop()


def test_other_interfaces_need_tls_and_keys(tmp_path: Path) -> None:
    everywhere = ("--gateway", "0.0.0.0:0")
    with pytest.raises(NodeFailedError) as failed:
        NodeProcess(tmp_path / "plain", *everywhere).start()
    assert failed.value.status == 2
    assert "needs TLS" in str(failed.value)
    node = NodeProcess(tmp_path / "tls", *everywhere, "--tls", "self-signed", "--keyless")
    try:
        node.start()
        assert node.cli("status")["gateway"]["keyless"] is False
        trust = ssl.create_default_context(cafile=str(node.data_dir / "gateway.pem"))
        with httpx.Client(verify=trust) as http:
            base = node.gateway.replace("0.0.0.0", "127.0.0.1")
            assert http.get(f"{base}/v1/models").status_code == 401
            assert http.get(f"{base}/healthz").status_code == 200
            key = node.cli("key", "create", "alice")["key"]
            good = {"x-api-key": key}
            assert http.get(f"{base}/v1/models", headers=good).status_code == 200
    finally:
        node.stop()
