"""The main job on real parts: three node processes, libp2p between them, the real openai SDK."""

import json
from typing import Any

import httpx
import openai
import pytest
import rfc8785
from scripts.faults.frozen import LEFT_MAX_SECONDS, hold
from scripts.nodes import NodeFailedError, NodeProcess, wait_for
from tests.faults.conftest import MODEL, ProcessGrid, offered
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.process
MESSAGES = [{"role": "user", "content": "hello"}]
AT_ONCE = LIMITS.ping_interval_seconds + LIMITS.ping_timeout_seconds  # or a ping would tell


@pytest.fixture
def client(grid: ProcessGrid) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{grid.asker.gateway}/v1", api_key="none", max_retries=0)


def test_a_node_without_a_model_lists_it(grid, client):
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_node_without_a_model_answers_with_it(grid, client):
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=5, temperature=0
    )
    answer = raw.parse()
    assert raw.headers["x-aigrid-node"] == grid.holder.peer_id
    assert raw.headers["x-request-id"]
    (segment,) = answer.model_extra["aigrid"]["segments"]
    assert segment["node"] == grid.holder.peer_id
    assert segment["tokens"] == answer.usage.completion_tokens <= 5


def test_a_stream_is_the_same_answer_in_pieces(grid, client):
    ask = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    chunks = list(client.chat.completions.create(**ask, stream=True))
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole
    assert chunks[-1].model_extra["aigrid"]["segments"][0]["node"] == grid.holder.peer_id


def test_top_shows_all_members(grid, client):
    everybody = dict.fromkeys((node.peer_id for node in grid.nodes), "fresh")

    def shown() -> dict[str, Any] | None:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5)
        rows = {one["peer_id"]: one for one in grid.authority.cli("top", "--grid")["nodes"]}
        return rows if {peer: one["state"] for peer, one in rows.items()} == everybody else None

    # Who is slow to answer a ping is away for a moment.
    rows = wait_for(shown, timeout_seconds=PATIENCE_SECONDS, what="all members in the table")
    served = rows[grid.holder.peer_id]["vitals"]
    assert served["served"] >= 1
    assert served["completion_per_second"] > 0
    assert served["models"] == [MODEL]
    assert served["memory"]["cpu"]["used_bytes"] > 0


def test_completions_and_responses_say_the_same(grid, client):
    ask = {"model": MODEL, "temperature": 0}
    several = client.completions.create(**ask, prompt=["hello", "world"], max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1]
    (alone,) = client.completions.create(**ask, prompt="world", max_tokens=8, logprobs=2).choices
    assert several.choices[1].text == alone.text
    assert len(alone.logprobs.tokens) == len(alone.logprobs.top_logprobs) <= 8
    pieces = client.completions.create(**ask, prompt="world", max_tokens=8, stream=True)
    assert "".join(c.choices[0].text for c in pieces if c.choices) == alone.text

    chat = client.chat.completions.create(**ask, messages=MESSAGES, max_tokens=8)
    whole = client.responses.create(**ask, input="hello", max_output_tokens=8)
    with client.responses.stream(**ask, input="hello", max_output_tokens=8) as stream:
        last = list(stream)[-1]
    assert whole.output_text == last.response.output_text == chat.choices[0].message.content
    assert whole.usage.input_tokens == chat.usage.prompt_tokens
    ended = {"stop": "completed", "length": "incomplete"}[chat.choices[0].finish_reason]
    assert whole.status == last.response.status == ended
    assert last.response.model_extra["aigrid"]["segments"][0]["node"] == grid.holder.peer_id


def current_offer(grid):
    """The offer as found, and its record; asked again if it was replaced in between."""

    def attempt():
        (candidate,) = grid.asker.cli("find", "text-generation")["candidates"]
        try:
            return candidate, grid.asker.cli("record", "show", candidate["record"])
        except NodeFailedError as error:
            if error.code not in ("not_found", "superseded"):
                raise
            return None

    return wait_for(
        attempt, timeout_seconds=PATIENCE_SECONDS, what="an offer that stays for a moment"
    )


def test_find_names_the_serving_node_and_the_key_that_signed(grid):
    candidate, shown = current_offer(grid)
    assert candidate["node"] == grid.holder.peer_id
    assert candidate["signer"] == grid.holder.ready["did"]
    assert shown["issuer"] == grid.holder.ready["did"]


def test_a_record_verifies_offline_and_a_changed_one_does_not(grid, tmp_path):
    _, shown = current_offer(grid)
    path = tmp_path / "record.json"
    path.write_bytes(rfc8785.dumps(shown))
    assert grid.asker.cli("record", "verify", str(path)) == {"ok": True, "code": ""}
    changed = json.loads(path.read_bytes())
    changed["credentialSubject"]["offers"][0]["slots"] += 1
    path.write_bytes(rfc8785.dumps(changed))
    with pytest.raises(NodeFailedError, match="record") as caught:
        grid.asker.cli("record", "verify", str(path))
    assert (caught.value.status, caught.value.code) == (1, "bad_signature")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": MODEL, "messages": []}, 400, "invalid_request"),
        ({"model": "nobody-has-this", "messages": MESSAGES}, 404, "model_not_found"),
        (
            {"model": MODEL, "messages": [{"role": "user", "content": "x " * 5000}]},
            400,
            "context_length_exceeded",
        ),
    ],
)
def test_a_request_that_cannot_be_served_says_why(grid, body, status, code):
    answer = httpx.post(f"{grid.asker.gateway}/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def refused_joins(node):
    return node.cli("status")["refused"]["joins"]


def test_an_uninvited_node_learns_nothing(grid):
    listen = grid.authority.ready["listen"][0]
    before = grid.asker.cli("status")["records"]
    refused = refused_joins(grid.authority)
    stranger = grid.add("stranger", "--bootstrap", listen)
    try:
        wait_for(
            lambda: refused_joins(grid.authority) > refused,
            timeout_seconds=PATIENCE_SECONDS,
            what="the stranger to be turned away",
        )
        status = stranger.cli("status")
        assert (status["models"], status["peers"]) == ([], [])
        assert stranger.cli("find", "text-generation") == {"candidates": []}
        assert status["grid"] != grid.authority.ready["grid"]
        assert all(
            stranger.peer_id not in str(member.cli("peers"))
            for member in (grid.authority, grid.holder, grid.asker)
        )
        assert grid.asker.cli("status")["records"] == before
    finally:
        stranger.stop()
        grid.nodes.remove(stranger)


def test_a_killed_holder_leaves_routing_at_once_and_comes_back(grid, client):
    pids = grid.authority.pid, grid.asker.pid
    grid.holder.kill9()
    wait_for(lambda: offered(grid.asker) == [], timeout_seconds=AT_ONCE, what="the offer to go")
    answer = httpx.post(
        f"{grid.asker.gateway}/v1/chat/completions", json={"model": MODEL, "messages": MESSAGES}
    )
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_candidate"
    assert int(answer.headers["retry-after"]) >= 1

    old = grid.holder.ready["listen"]
    grid.holder.start()
    assert grid.holder.ready["listen"] != old
    wait_for(
        lambda: offered(grid.asker) == [grid.holder.peer_id],
        timeout_seconds=PATIENCE_SECONDS,
        what="the offer to come back",
    )
    text = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3)
    assert text.usage.completion_tokens >= 1
    assert (grid.authority.pid, grid.asker.pid) == pids
    assert all(node.alive for node in (grid.authority, grid.asker))


def test_a_frozen_holder_leaves_routing_and_comes_back(grid):
    held = hold(grid.asker, grid.holder, MODEL, 0.0)
    assert held.left < LEFT_MAX_SECONDS + 1  # the machine may be busy
    assert held.answers < 10


def test_a_second_holder_answers_when_the_first_is_killed(grid, client):
    second = grid.add("second")
    grid.join(second)
    grid.publish(second)
    wait_for(
        lambda: len(offered(grid.asker)) == 2, timeout_seconds=PATIENCE_SECONDS, what="two holders"
    )
    second.kill9()
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=3
    )
    assert raw.headers["x-aigrid-node"] == grid.holder.peer_id
    grid.nodes.remove(second)


def test_a_removed_member_is_cut_off(grid):
    gone = grid.add("gone")
    grid.join(gone)
    wait_for(
        lambda: offered(gone), timeout_seconds=PATIENCE_SECONDS, what="the offer at the newcomer"
    )
    grid.authority.cli("remove", gone.ready["did"])
    wait_for(
        lambda: not any(p["alive"] for p in gone.cli("peers")["peers"]),
        timeout_seconds=PATIENCE_SECONDS,
        what="everybody to hang up",
    )
    assert offered(gone) == []
    gone.stop()
    grid.nodes.remove(gone)


def test_an_invitation_may_wait_for_the_node_to_start(grid):
    late = NodeProcess(grid.directory / "late")
    did = late.cli("id")["did"]
    state = late.cli("join", grid.authority.cli("invite", did)["invitation"])
    assert state == {"grid": grid.authority.ready["grid"], "state": "pending"}
    late.start()
    wait_for(
        lambda: late.read_ready_file()["grid"] == grid.authority.ready["grid"],
        timeout_seconds=PATIENCE_SECONDS,
        what="the invitation to be redeemed",
    )
    assert late.stop() == 0


def test_only_the_authority_invites(grid):
    with pytest.raises(NodeFailedError, match="authority") as caught:
        grid.asker.cli("invite", grid.asker.ready["did"])
    assert (caught.value.status, caught.value.code) == (3, "not_authority")


def test_a_stopped_node_withdraws_its_offers(grid):
    wait_for(lambda: offered(grid.asker), timeout_seconds=PATIENCE_SECONDS, what="an offer")
    assert grid.holder.stop() == 0
    wait_for(lambda: offered(grid.asker) == [], timeout_seconds=AT_ONCE, what="the offer to go")
    grid.holder.start()
    wait_for(
        lambda: offered(grid.asker), timeout_seconds=PATIENCE_SECONDS, what="the offer to come back"
    )
