"""The two sides of a typed query against peers that lie, flood or never end."""

import random
from typing import Any

import pytest
import trio
from tests.metagraph.world import (
    ANN,
    BEN,
    MODELS,
    NOW,
    OWN,
    STRANGER,
    availability,
    graph,
    manifest,
    membership,
    node_record,
    offer,
    with_members,
)

from aigrid.metagraph.selection import Observation
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.discovery.typed_query import TypedQueries
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.errors import Code, LocalError, RemoteError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import (
    Find,
    Pushed,
    Records,
    decode_rpc_answer,
    decode_rpc_request,
    encode,
)

NOW_MS = NOW + 1
DESCRIBED = manifest(ANN)
OFFER = [availability(ANN, offer(DESCRIBED)), node_record(ANN), DESCRIBED]
ANSWER = [membership(ANN), *OFFER]
OTHER = manifest(BEN, 1, "other")
UNRELATED = [membership(BEN), OTHER, availability(BEN, offer(OTHER)), node_record(BEN)]
ECHO = Wanted("model", "echo")


class Grid:
    """Peers, hints and RPC in one: `answers[peer]` yields what that peer says to a query."""

    def __init__(self, *, hinted=(), alive=()):
        self.hinted = hinted
        self.living = set(alive)
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Find]] = []
        self.graph = graph()
        spare: Any = self
        self.queries = TypedQueries(
            self.graph, spare, spare, spare, now_ms=lambda: NOW_MS, rng=random.Random(0)
        )

    async def providers(self, key):
        await trio.sleep(0.1)
        return [PeerAddress(peer, ("/ip4/192.0.2.1/tcp/1",)) for peer in self.hinted]

    def alive(self, peer_id):
        return peer_id in self.living

    def alive_members(self):
        return frozenset(self.living)

    async def contact(self, peer):
        await trio.sleep(0.1)
        self.living.add(peer.peer_id)
        return True

    def observation(self, _peer_id):
        return Observation(alive=True)

    def call(self, peer_id, request, *, silence_seconds):
        message = decode_rpc_request(request)
        assert isinstance(message, Find)
        self.asked.append((peer_id, message))
        return _Answers(self.answers.get(peer_id, nothing)())


class _Answers:
    def __init__(self, messages):
        self.messages = messages

    async def __aenter__(self):
        async def bodies():
            async for message in self.messages:
                yield encode(message)

        return bodies()

    async def __aexit__(self, *_):
        pass


async def nothing():
    await trio.sleep(0.1)
    return
    yield


def says(*messages, after_seconds=0.1):
    async def answer():
        await trio.sleep(after_seconds)
        for message in messages:
            yield message

    return answer


def records(*said):
    return Records(tuple(one if isinstance(one, bytes) else one.raw for one in said))


@pytest.fixture
async def new_grid(nursery):
    async def start(**options):
        made = Grid(**options)
        await nursery.start(made.queries.run)
        return made

    return start


def held(grid):
    return {record.content_id for record in grid.graph.live_records(NOW_MS)}


def ids(said):
    return {record.content_id for record in said}


async def test_the_first_useful_answer_is_enough_and_the_others_are_taken_too(
    new_grid, autojump_clock
):
    grid = await new_grid(hinted=("quick", "slow"), alive=("idle",))
    other = manifest(BEN, 0, "echo")
    late = [membership(BEN), other, availability(BEN, offer(other)), node_record(BEN)]
    grid.answers = {"quick": says(records(*ANSWER)), "slow": says(records(*late), after_seconds=5)}
    start = trio.current_time()
    assert await grid.queries.ask(ECHO)
    assert trio.current_time() - start < 1
    assert held(grid) == ids(ANSWER)
    await trio.sleep(6)
    assert held(grid) == ids(ANSWER + late)
    assert {peer for peer, _ in grid.asked} == {"quick", "slow"}


async def test_members_that_are_there_are_asked_when_hints_lead_nowhere(new_grid, autojump_clock):
    grid = await new_grid(hinted=("empty",), alive=("knows",))
    grid.answers = {"knows": says(records(*ANSWER))}
    assert await grid.queries.ask(ECHO)
    assert [peer for peer, _ in grid.asked] == ["empty", "knows"]


async def test_any_number_of_false_hints_leaves_somebody_to_be_asked(new_grid, autojump_clock):
    """One node of the DHT may name as many providers as it likes."""
    grid = await new_grid(hinted=tuple(f"false{n}" for n in range(64)), alive=("knows",))
    grid.contact = unreachable
    grid.answers = {"knows": says(records(*ANSWER))}
    assert await grid.queries.ask(ECHO)
    assert [peer for peer, _ in grid.asked] == ["knows"]


async def unreachable(_peer):
    await trio.sleep(LIMITS.dial_timeout_seconds)
    return False


async def test_known_members_are_asked_before_whoever_else_is_hinted_at(new_grid, autojump_clock):
    false = tuple(f"false{n}" for n in range(64))
    grid = await new_grid(hinted=(*false, ANN.peer_id))
    grid.graph.ingest_batch([membership(ANN).raw], now_ms=NOW_MS, received_from=None)
    grid.answers = {ANN.peer_id: says(records(*ANSWER))}
    assert await grid.queries.ask(ECHO)
    assert ANN.peer_id in {peer for peer, _ in grid.asked}


async def test_hinted_peers_that_never_answer_do_not_keep_others_from_being_asked(
    new_grid, autojump_clock
):
    async def silent():
        await trio.sleep_forever()
        yield

    grid = await new_grid(hinted=("silent",), alive=("knows",))
    grid.answers = {"silent": silent, "knows": says(records(*ANSWER))}
    assert await grid.queries.ask(ECHO)


async def test_few_peers_are_asked_however_many_there_are(new_grid, autojump_clock):
    many = tuple(f"p{n}" for n in range(100))
    grid = await new_grid(hinted=many[:5], alive=many)
    assert not await grid.queries.ask(ECHO)
    assert len(grid.asked) == len({peer for peer, _ in grid.asked}) == LIMITS.find_peers_max
    assert {peer for peer, _ in grid.asked} >= set(many[:5])


async def test_asking_widely_waits_for_everybody_and_knows_no_enough(new_grid, autojump_clock):
    grid = await new_grid(hinted=("hinted",), alive=("slow",))
    grid.answers = {
        "hinted": says(records(*ANSWER)),
        "slow": says(records(*ANSWER), after_seconds=5),
    }
    await grid.queries.look_for(ECHO)
    await grid.queries.look_for(ECHO)
    assert [peer for peer, _ in grid.asked] == ["hinted"]
    start = trio.current_time()
    await grid.queries.look_for(ECHO, widely=True)
    assert trio.current_time() - start > 5
    assert sorted(peer for peer, _ in grid.asked) == ["hinted", "hinted", "slow"]


@pytest.mark.parametrize("gone", ["nobody", "somebody"])
async def test_who_waits_for_the_same_shares_one_question(new_grid, autojump_clock, gone):
    grid = await new_grid(hinted=("knows",))
    grid.answers = {"knows": says(records(*ANSWER), after_seconds=2)}
    seen = []

    async def wait(seconds):
        with trio.move_on_after(seconds):
            seen.append(await grid.queries.ask(ECHO))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 1 if gone == "somebody" else 60)
        for _ in range(5):
            await trio.sleep(0.1)
            nursery.start_soon(wait, 60)
    assert len(grid.asked) == 1
    assert seen == [True] * (5 if gone == "somebody" else 6)


def tampered(record):
    return record.raw.replace(b'"name":"echo"', b'"name":"ECHO"')


def foreign():
    """By somebody the authority has not admitted."""
    theirs = manifest(STRANGER, 0, "echo")
    return [theirs, availability(STRANGER, offer(theirs)), node_record(STRANGER)]


JUNK = {
    "tampered": says(records(ANSWER[0], OFFER[0], OFFER[1], tampered(DESCRIBED))),
    "not records": says(records(b"junk", b"{}", b"\xff" * 1000)),
    "foreign": says(records(*foreign())),
    "foreign membership": says(records(membership(STRANGER, by=BEN), *foreign())),
    "unrelated": says(records(*UNRELATED)),
    "expired": says(records(ANSWER[0], OFFER[2], availability(ANN, offer(DESCRIBED), life=1))),
    "another message": says(Pushed(1)),
    "too many": says(records(*[b"%d" % n for n in range(LIMITS.find_records_max + 1)])),
    "too many in all": says(*[records(*ANSWER)] * (LIMITS.find_records_max // 4 + 1)),
    "too large": says(*[records(bytes(LIMITS.record_max_bytes))] * 17),
    "an error": None,
}


async def failing():
    await trio.sleep(0.1)
    raise RemoteError("no", Code.INTERNAL, peer="liar")
    yield Records(())


@pytest.mark.parametrize("what", JUNK)
async def test_junk_counts_for_nothing_and_harms_nobody(new_grid, autojump_clock, what):
    grid = await new_grid(hinted=("liar", "honest"))
    grid.answers = {
        "liar": JUNK[what] or failing,
        "honest": says(records(*ANSWER), after_seconds=1),
    }
    start = trio.current_time()
    assert await grid.queries.ask(ECHO)
    assert trio.current_time() - start > 1
    assert held(grid) == ids(ANSWER)


async def test_what_is_related_in_an_answer_is_taken_beside_what_is_not(new_grid, autojump_clock):
    grid = await new_grid(hinted=("chatty",))
    grid.answers = {"chatty": says(records(*UNRELATED), records(*ANSWER))}
    assert await grid.queries.ask(ECHO)
    assert held(grid) == ids(ANSWER)


async def test_an_answer_that_never_ends_is_left_in_time(new_grid, autojump_clock):
    async def endless():
        for record in UNRELATED * 8:
            yield records(record)
            await trio.sleep(1)

    grid = await new_grid(hinted=("liar",), alive=("late",))
    grid.answers = {"liar": endless}
    start = trio.current_time()
    assert not await grid.queries.ask(ECHO)
    assert trio.current_time() - start == pytest.approx(LIMITS.find_seconds)
    assert held(grid) == set()


async def test_batches_without_records_are_not_waited_through(new_grid, autojump_clock):
    sent = 0

    async def empty():
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield Records(())

    grid = await new_grid(hinted=("liar",))
    grid.answers = {"liar": empty}
    assert not await grid.queries.ask(ECHO)
    assert sent == 1


@pytest.mark.parametrize("name", ["", "x" * 129, "line\nbreak", "\ud800"])
async def test_what_nothing_can_be_named_is_not_asked(new_grid, autojump_clock, name):
    grid = await new_grid(hinted=("peer",))
    assert not await grid.queries.ask(Wanted("model", name))
    assert grid.asked == []


async def test_our_own_questions_are_rated_and_the_memory_of_them_bounded(new_grid, autojump_clock):
    grid = await new_grid(hinted=("peer",))
    for n in range(LIMITS.finds_burst * 2):
        with trio.move_on_after(0.01):
            await grid.queries.ask(Wanted("model", f"m{n}"))
    await trio.sleep(1)
    assert LIMITS.finds_burst <= len(grid.asked) <= LIMITS.finds_burst * 1.2
    for n in range(LIMITS.finds_remembered_max + 10):
        await trio.sleep(1)
        await grid.queries.ask(Wanted("model", f"n{n}"))
    assert len(grid.queries._unanswered) == LIMITS.finds_remembered_max


# --- answering


class Sent:
    def __init__(self):
        self.batches = []

    async def __call__(self, body):
        answer = decode_rpc_answer(body)
        assert isinstance(answer, Records)
        assert len(body) <= LIMITS.gossip_max_bytes
        self.batches.append(answer.records)

    @property
    def raws(self):
        return [raw for batch in self.batches for raw in batch]


async def test_the_answer_is_what_was_asked_for_and_no_more(new_grid):
    grid = await new_grid()
    grid.graph.ingest_batch(
        [r.raw for r in (*ANSWER, *UNRELATED)], now_ms=NOW_MS, received_from=None
    )
    for message, expected in (
        (Find("model", MODELS[0], 64), ANSWER),
        (Find("model", "echo", 4), ANSWER),
        (Find("model", "echo", 3), []),
        (Find("capability", "text-to-image", 64), []),
        (Find("capability", "text", 4), ANSWER),
    ):
        sent = Sent()
        await grid.queries.serve("peer", message, sent)
        assert len(sent.raws) <= message.limit
        if message.name != "text":
            assert sorted(sent.raws) == sorted(r.raw for r in expected)


async def test_nodes_known_to_be_dead_are_not_named(new_grid):
    grid = await new_grid()
    grid.graph.ingest_batch([r.raw for r in ANSWER], now_ms=NOW_MS, received_from=None)
    grid.observation = lambda _: Observation(alive=False)
    sent = Sent()
    await grid.queries.serve("peer", Find("model", "echo", 64), sent)
    assert sent.raws == []


async def test_what_a_removed_member_said_is_not_passed_on(new_grid):
    grid = await new_grid()
    made = with_members(OWN, ANN)
    made.ingest_batch([r.raw for r in OFFER], now_ms=NOW_MS, received_from=None)
    grid.queries._graph = made
    for member, sends in ((True, 4), (False, 0)):
        if not member:
            gone = membership(ANN, start=NOW + 1, life=1)
            made.ingest(gone.raw, now_ms=NOW + 1, received_from=None)
            made.expire(NOW + 3)
        sent = Sent()
        await grid.queries.serve("peer", Find("model", "echo", 64), sent)
        assert len(sent.raws) == sends


async def test_a_flood_of_queries_is_refused_by_peer(new_grid, autojump_clock):
    grid = await new_grid()
    grid.graph.ingest_batch([r.raw for r in ANSWER], now_ms=NOW_MS, received_from=None)
    message = Find("model", "echo", 64)
    for _ in range(LIMITS.finds_burst):
        await grid.queries.serve("flood", message, Sent())
    with pytest.raises(LocalError) as caught:
        await grid.queries.serve("flood", message, Sent())
    assert caught.value.code is Code.RATE_LIMITED
    sent = Sent()
    await grid.queries.serve("other", message, sent)
    assert len(sent.raws) == len(ANSWER)
    await trio.sleep(1)
    await grid.queries.serve("flood", message, Sent())
