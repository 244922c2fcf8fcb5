"""Real processes, the real Kad-DHT, no gossip and no sync: what is found, the typed query finds."""

from collections.abc import Callable, Iterator, Sequence

import httpx
import pytest
from scripts.faulty_node import QUIET, QUIET_WITHOUT_HINTS
from scripts.nodes import NodeFailedError, NodeProcess, stop_all, wait_for
from scripts.offers import offers
from tests.faults.conftest import MODEL, ProcessGrid
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
NewGrid = Callable[[Sequence[str]], ProcessGrid]


@pytest.fixture
def new_grid(tmp_path) -> Iterator[NewGrid]:
    """A grid whose holder and asker know the authority, and not each other."""
    made = ProcessGrid(tmp_path)

    def start(holders_entry: Sequence[str]) -> ProcessGrid:
        for name, entry in (
            ("authority", QUIET),
            ("holder", holders_entry),
            ("asker", QUIET),
        ):
            node = NodeProcess(tmp_path / name, entry=entry)
            made.nodes.append(node)
            node.start()
        made.publish(made.holder)
        for node in (made.holder, made.asker):
            made.join(node)
        wait_for(
            lambda: alive(made.asker) == {made.authority.peer_id},
            timeout_seconds=PATIENCE_SECONDS,
            what="the asker to see the authority",
        )
        return made

    yield start
    stop_all(made.nodes)


def alive(node: NodeProcess) -> set[str]:
    return {peer["peer_id"] for peer in node.cli("peers")["peers"] if peer["alive"]}


def chat(node: NodeProcess, model: str) -> httpx.Response:
    url = f"{node.gateway}/v1/chat/completions"
    return httpx.post(url, json={"model": model, **ASK}, timeout=60)


def assert_never_met(made: ProcessGrid) -> None:
    known = str(made.asker.cli("peers")) + str(made.authority.cli("models"))
    assert made.holder.peer_id not in known
    assert offers(made.asker) == []


def test_a_chat_is_answered_by_hint_and_typed_query_alone(new_grid):
    made = new_grid(QUIET)
    assert_never_met(made)

    def attempt() -> httpx.Response | None:
        answer = chat(made.asker, MODEL)
        return answer if answer.status_code == 200 else None

    answer = wait_for(attempt, timeout_seconds=PATIENCE_SECONDS, what="the hint in the DHT")
    assert answer.headers["x-aigrid-node"] == made.holder.peer_id
    (candidate,) = made.asker.cli("find", "text")["candidates"]
    assert candidate["signer"] == made.holder.ready["did"]
    assert made.holder.cli("status")["typed_queries"]["served"] == 1
    assert offers(made.authority) == []


def test_without_the_hint_nobody_is_found(new_grid):
    made = new_grid(QUIET_WITHOUT_HINTS)
    answer = chat(made.asker, MODEL)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert made.asker.cli("find", "text-generation") == {"candidates": []}
    with pytest.raises(NodeFailedError) as caught:
        made.asker.cli("ask", "hello", "--capability", "text-generation")
    assert caught.value.code == "no_candidate"
    assert made.authority.cli("status")["typed_queries"]["served"] >= 2  # it was asked, in vain
    assert_never_met(made)
