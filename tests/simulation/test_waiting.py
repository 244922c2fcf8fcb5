"""Requests that wait for a model to be loaded: whole nodes in virtual time."""

import json
import math
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from tests.node.gateway.double import authenticator, tokens
from tests.simulation.harness import Simulation, eventually

from aigrid.node.commands.ask import Ask, ask
from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.http.errors import error_answer
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.openai.answers import error_body
from aigrid.node.gateway.patience import Wish
from aigrid.node.mesh.pool.budget import Budget
from aigrid.node.mesh.routing.summoning import Summon
from aigrid.node.mesh.routing.waiting import IN_LINE, SOUGHT, NotReadyError, Waiting
from aigrid.node.policy.caller import LOOPBACK, OPERATOR, Caller
from aigrid.node.policy.metering import Visit
from aigrid.node.policy.receipt_queries import Filters, newest
from aigrid.node.settings.placement import PlacementConfig
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Chunks, Loading, encode

HELLO = TextRequest(prompt="hello there you")
SLOW_SECONDS = 60.0
CHAT = {"model": "parrot", "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(12, tmp_path, nursery)
        nursery.cancel_scope.cancel()


def slow(node, *, words=11):
    """Its loads take a minute from now on, and say now and then how far they are."""
    spawner = node._world.spawner
    spawner.start_seconds, spawner.start_words = SLOW_SECONDS, words
    return spawner


async def alone(sim, **options):
    """One node that has a model which takes long to load: the node, its gateway, its spawner."""
    node = (await sim.start("one")).node
    await sim.publish_echo("one", "parrot", **options)
    await eventually(node.router.models, seconds=30)
    return node, core_of(node), slow(node)


async def pair(sim, **options):
    """An asker, and a holder of a model which takes long to load."""
    asker = (await sim.start("asker")).node
    holder = (await sim.start("holder")).node
    await sim.join("holder", "asker")
    await sim.publish_echo("holder", "parrot", **options)
    await eventually(asker.router.models, seconds=30)
    return asker, holder, slow(holder)


def core_of(node):
    return GatewayCore(
        node.router, status=dict, now_ms=node.now_ms, token=tokens(), whereabouts=dict
    )


def app_of(core):
    return Gateway(core, host="127.0.0.1", port=0, auth=authenticator())._app()


async def chat(core, patience_seconds=600.0, keep_alive_seconds=None, caller=LOOPBACK):
    """The text of an answer."""
    generation = core.generate(
        TextCall(("parrot",), HELLO),
        request_id=core._token(),
        visit=Visit(caller),
        wish=Wish(patience_seconds, keep_alive_seconds),
    )
    async with generation:
        return "".join([step.text async for step in generation])


async def impatient(core, patience_seconds=5.0):
    with pytest.raises(NotReadyError) as caught:
        await chat(core, patience_seconds)
    return caught.value


class Exchange:
    """A client that stays: what it is sent, as (seconds, message)."""

    def __init__(self, body):
        self.parts, self.sent = [b"", body], []

    async def receive(self):
        return self.parts.pop()

    async def unless_gone(self, work):
        return await work

    def begin(self, status, headers):
        self.sent.append((trio.current_time(), {"status": status, "headers": headers}))

    async def write(self, data, *, last):
        self.sent.append((trio.current_time(), {"body": data, "more_body": not last}))
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def http(app, body, headers=()):
    """Pieces of the answer as they are sent: (seconds, message)."""
    fields = {"host": "localhost", "content-type": "application/json", **dict(headers)}
    exchange = Exchange(json.dumps(body).encode())
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, Request(exchange, b"POST", b"/v1/chat/completions", encoded))
        yield exchange.sent


def text_of(sent):
    return b"".join(message.get("body", b"") for _, message in sent).decode()


async def test_ten_waiters_share_one_load(sim, autojump_clock):
    _, core, spawner = await alone(sim)
    before, answers = len(spawner.spawned), []

    async def one():
        answers.append(await chat(core))

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)
    assert answers == ["hello there you"] * 10
    assert len(spawner.spawned) - before == 1
    assert SLOW_SECONDS <= trio.current_time() - started < SLOW_SECONDS + 10


async def test_patience_ends_with_progress_and_the_load_goes_on(sim, autojump_clock):
    node, core, spawner = await alone(sim)
    before = len(spawner.spawned)
    error = await impatient(core, 23.0)
    assert error.code is Code.LOADING
    assert error.progress == {"node": node.identity.peer_id, "text": "loading: 33 %", "percent": 33}
    assert "33 %" in error.message
    answer = error_answer(error, error_body, retry_after_seconds=LIMITS.retry_after_seconds)
    assert answer.status == 503
    wait = float(answer.headers["retry-after"])
    assert 35 <= wait <= 52  # it has done a third of a minute's work in 23 s, as of its last word
    assert json.loads(answer.body)["error"]["progress"]["percent"] == 33
    await trio.sleep(wait)
    assert await chat(core, 5.0) == "hello there you"
    assert len(spawner.spawned) - before == 1


async def test_whoever_leaves_stops_no_load(sim, autojump_clock):
    node, core, spawner = await alone(sim)
    before = len(spawner.spawned)
    for seconds in (0.5, 3.0, 5.0):
        with trio.move_on_after(seconds):
            await chat(core)
    assert node.serving.running == node.serving.waiting == 0
    await trio.sleep(SLOW_SECONDS)
    started = trio.current_time()
    assert await chat(core) == "hello there you"
    assert trio.current_time() - started < 1
    assert len(spawner.spawned) - before == 1


async def test_another_node_tells_how_far_it_is(sim, autojump_clock):
    asker, holder, _ = await pair(sim)
    error = await impatient(core_of(asker), 32.0)
    assert error.code is Code.LOADING
    assert error.progress["node"] == holder.identity.peer_id
    assert error.progress["percent"] in (41, 50)
    assert holder.identity.peer_id in error.message
    assert asker.peers.observation(holder.identity.peer_id).failures_in_row == 0
    for node in (asker, holder):  # nothing has begun, so there is nothing to account for
        assert await newest(node.policy.receipts.database, Filters(), limit=1) == ([], False)
    await trio.sleep(SLOW_SECONDS)  # its load goes on, though the only asker has left
    assert [use.state for use in holder.pool.view().values()] == ["warm"]
    started = trio.current_time()
    assert await chat(core_of(asker), 5.0) == "hello there you"
    assert trio.current_time() - started < 5


async def test_a_cold_start_over_there_takes_as_long_as_it_takes(sim, autojump_clock):
    asker, holder, spawner = await pair(sim)
    spawner.start_seconds, spawner.start_words = 200.0, 0  # longer than silence may last
    started = trio.current_time()
    assert await chat(core_of(asker)) == "hello there you"
    assert trio.current_time() - started >= 200
    seen = asker.peers.observation(holder.identity.peer_id)
    assert (seen.ttft_ms, seen.models) == (None, {})  # the next one finds it loaded


async def test_a_stream_shows_comments_and_then_tokens(sim, autojump_clock):
    asker, _, _ = await pair(sim)
    async with http(app_of(core_of(asker)), {**CHAT, "stream": True}) as sent:
        await trio.sleep(LIMITS.first_chunk_seconds + 3)
        assert sent[0][1]["status"] == 200
        assert ": loading: loading: " in text_of(sent)
        await trio.sleep(SLOW_SECONDS)
    told = text_of(sent)
    comments, _, events = told.partition("data: ")
    assert comments.count(": loading: loading: ") >= 10
    assert all(f"loading: {100 * n // 12} %" in comments for n in range(3, 12))
    assert told.endswith("data: [DONE]\n\n")
    assert "hello" in events
    times = [at for at, _ in sent if at > sent[1][0]]
    assert all(b - a <= LIMITS.sse_comment_seconds + 0.01 for a, b in pairwise(times))


async def test_the_patience_of_a_stream_ends_in_an_error_event(sim, autojump_clock):
    asker, _, _ = await pair(sim)
    headers = {"x-aigrid-patience": "30"}
    started = trio.current_time()
    async with http(app_of(core_of(asker)), {**CHAT, "stream": True}, headers) as sent:
        await trio.sleep(40)
    last = json.loads(text_of(sent).rstrip().rpartition("data: ")[2])
    assert last["error"]["code"] == "loading"
    assert last["error"]["progress"]["percent"] in (41, 50)
    assert sent[-1][0] - started == pytest.approx(30, abs=0.1)
    assert not sent[-1][1]["more_body"]


async def test_a_plain_request_hears_503_from_http(sim, autojump_clock):
    asker, _, _ = await pair(sim)
    async with http(app_of(core_of(asker)), CHAT, {"x-aigrid-patience": "13"}) as sent:
        await trio.sleep(14)
    head = {name.decode(): value.decode() for name, value in sent[0][1]["headers"]}
    assert sent[0][1]["status"] == 503
    assert 1 <= float(head["retry-after"]) <= LIMITS.loading_retry_max_seconds
    assert json.loads(text_of(sent))["error"]["progress"]["percent"] in (8, 16)


async def test_who_waits_for_a_slot_hears_busy(sim, autojump_clock):
    node, core, spawner = await alone(sim, slots=1, delay_ms=10_000)
    spawner.start_seconds = 0.1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chat, core)
        await trio.sleep(5)
        error = await impatient(core)
        assert (error.code, error.progress["text"]) == (Code.BUSY, IN_LINE)
        assert node.serving.waiting == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("remote", [False, True])
async def test_who_has_no_patience_at_all_hears_so_at_once(sim, autojump_clock, remote):
    asker = (await pair(sim))[0] if remote else (await alone(sim))[0]
    began = trio.current_time()
    error = await impatient(core_of(asker), 0.0)
    assert error.code is Code.LOADING
    assert trio.current_time() - began < 0.25
    await trio.sleep(SLOW_SECONDS + 1)
    assert await chat(core_of(asker)) == "hello there you"
    await trio.sleep(5)  # until the asker has heard that it is loaded
    assert await chat(core_of(asker), 0.0) == "hello there you", "a loaded one is not waited for"


async def test_what_is_no_load_has_no_patience(sim, autojump_clock):
    _, core, spawner = await alone(sim, delay_ms=20_000)
    spawner.start_seconds = 0.1
    started = trio.current_time()
    assert await chat(core, 1.0) == "hello there you"
    assert trio.current_time() - started > 20


async def test_ask_shows_how_far_it_is(sim, autojump_clock):
    asker, _, _ = await pair(sim)
    events = []

    async def emit(event):
        events.append(event)
        await trio.lowlevel.checkpoint()

    body = await ask(asker, Ask(text="hello you", keep_alive="2m"), emit)
    assert body["text"] == "hello you"
    told = [event["progress"] for event in events if "progress" in event]
    assert len(set(told)) >= 10
    assert events.index({"progress": told[-1]}) < events.index({"text": "hello"})


class Sought(Summon):
    """Somebody answers, too late."""

    async def __call__(self, unmet, place, *, deadline):
        await trio.sleep_until(deadline)
        return False


async def test_who_waits_for_a_node_that_loads_it_hears_loading(sim, autojump_clock):
    node, core, _ = await alone(sim)
    await node.hosting.withdraw("parrot")
    other = (await sim.start("other")).node
    await sim.join("other", "one")
    await sim.publish_echo("other", "parrot")
    await eventually(node.router.models, seconds=30)
    other.serving.refusing = True
    node.router._summon = Sought()
    error = await impatient(core)
    assert (error.code, error.progress) == (Code.LOADING, {"node": "", "text": SOUGHT})
    assert error.message == f"the model is not ready yet: {SOUGHT}"


async def test_who_summons_a_node_hears_how_far_that_is(sim, autojump_clock):
    trusted = [sim.identity_of("publisher").did]
    hosts = PlacementConfig(host="trusted")
    for name in ("publisher", "asker", "x", "y"):
        await sim.start(name, trusted_publishers=trusted, placement=hosts)
        slow(sim.nodes[name].node)
    for name in ("asker", "x", "y"):
        await sim.join(name, "publisher")
    await sim.publish_echo("publisher", "parrot")
    asker = sim.nodes["asker"].node
    await eventually(asker.router.models, seconds=30)
    await trio.sleep(5)
    sim.kill("publisher")
    await trio.sleep(1)
    events = []

    async def emit(event):
        events.append(event)
        await trio.lowlevel.checkpoint()

    body = await ask(asker, Ask(text="hello you", model="parrot"), emit)
    assert body["text"] == "hello you"
    told = [event["progress"] for event in events if "progress" in event]
    assert told[0] == SOUGHT
    assert any(text.startswith("loading: ") for text in told)


# -- keep-alive


def expiry(node):
    (use,) = node.pool.view().values()
    return use.expires_in_seconds


@pytest.mark.parametrize(
    ("caller", "wish", "expected"),
    [
        (OPERATOR, 7200.0, 7200.0),
        (OPERATOR, math.inf, None),
        (Caller("key-1", "key"), 7200.0, LIMITS.keep_alive_max_seconds),
        (Caller("key-1", "key"), 20.0, LIMITS.model_idle_seconds),
        (OPERATOR, None, LIMITS.model_idle_seconds),
    ],
)
async def test_a_model_is_kept_here_for_as_long_as_its_operator_wants(
    sim, autojump_clock, caller, wish, expected
):
    node, core, spawner = await alone(sim)
    spawner.start_seconds = 0.1
    await chat(core, keep_alive_seconds=wish, caller=caller)
    kept = expiry(node)
    assert kept == (None if expected is None else pytest.approx(expected, abs=1))


@pytest.mark.parametrize(
    ("wish", "expected"),
    [(20.0, LIMITS.model_idle_seconds), (600.0, 600.0), (math.inf, 3600.0), (7200.0, 3600.0)],
)
async def test_another_node_keeps_a_model_longer_within_its_bounds_and_never_shorter(
    sim, autojump_clock, wish, expected
):
    asker, holder, spawner = await pair(sim)
    spawner.start_seconds = 0.1
    await chat(core_of(asker), keep_alive_seconds=wish)
    assert expiry(holder) == pytest.approx(expected, abs=1)
    await chat(core_of(asker))  # and the next one that says nothing: as usual
    assert expiry(holder) == pytest.approx(LIMITS.model_idle_seconds, abs=1)


async def test_others_take_nothing_from_what_the_operator_wants(sim, autojump_clock):
    asker, holder, spawner = await pair(sim)
    spawner.start_seconds = 0.1
    await chat(core_of(holder), keep_alive_seconds=math.inf)
    await chat(core_of(asker), keep_alive_seconds=0.0)
    assert expiry(holder) is None


async def test_keep_alive_of_nothing_unloads_at_once(sim, autojump_clock):
    node, core, spawner = await alone(sim)
    spawner.start_seconds = 0.1
    await chat(core, keep_alive_seconds=0.0)
    await trio.sleep(1)
    assert [use.state for use in node.pool.view().values()] == ["on_disk"]
    await chat(core)  # who says nothing pays nothing for it
    assert expiry(node) == pytest.approx(LIMITS.model_idle_seconds, abs=1)


# -- members that are anything but honest


def saying(*messages, every_seconds=0.0):
    """A node's answer to `Infer`: these bodies over and over, the last one never."""

    async def serve(_peer_id, _message, send):
        for message in messages:
            await send(message)
            await trio.sleep(every_seconds)

    return serve


async def hostile(sim, serve):
    asker, holder, _ = await pair(sim)
    holder.serving.serve = serve
    return asker, holder


async def test_a_node_that_is_loading_for_ever_takes_no_longer_than_patience(sim, autojump_clock):
    word = encode(Loading("99 %"))
    asker, _ = await hostile(sim, saying(*[word] * 4000, every_seconds=1.0))
    started = trio.current_time()
    error = await impatient(core_of(asker), 33.0)
    assert error.progress["percent"] == 99
    assert trio.current_time() - started == pytest.approx(33, abs=1)
    assert error.retry_after_seconds <= LIMITS.loading_retry_max_seconds


@pytest.mark.parametrize(
    "bodies",
    [
        [encode(Loading("99 %"))] * (LIMITS.loading_words_max + 1),
        [encode(Loading("x" * (LIMITS.loading_text_max_chars + 1)))],
        [encode(Loading("a\r\ndata: evil"))],
        [encode(Loading("a\x1b[2J"))],
        [encode(Chunks((TextChunk(""),))), encode(Loading("late"))],
    ],
    ids=["flood", "huge", "lines", "escape", "late"],
)
async def test_what_no_node_says_is_a_violation(sim, autojump_clock, bodies):
    asker, holder = await hostile(sim, saying(*bodies))
    with pytest.raises(AigridError):
        await chat(core_of(asker))
    assert asker.peers.observation(holder.identity.peer_id).failures_in_row >= 1


async def test_a_word_within_an_answer_breaks_it_off(sim, autojump_clock):
    begun = encode(Chunks((TextChunk("a", (1,)),)))
    asker, _ = await hostile(sim, saying(begun, encode(Loading("late"))))
    with pytest.raises(RemoteError) as caught:
        await chat(core_of(asker))
    assert caught.value.code is Code.PROTOCOL_VIOLATION


async def test_odd_words_of_an_own_worker_are_cleaned(sim, autojump_clock):
    asker, holder, _ = await pair(sim)
    waiting = Waiting()
    entering = asker.router.infer("parrot", HELLO, request_id="request-1", waiting=waiting)
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.patiently, entering.__aenter__(), 100.0)
            await trio.sleep(0.5)
            (model,) = holder.pool.view()
            holder.loading.tell(model, "\x1b[2J\ud800" + "x" * 300 + "\n")
    assert waiting.said is not None
    assert waiting.said.text == "[2J?" + "x" * (LIMITS.loading_text_max_chars - 4)


async def test_a_model_that_never_fits_is_refused_at_once_and_not_offered(sim, autojump_clock):
    node = (await sim.start("one")).node
    huge = 2 << 30
    model = await sim.publish_echo("one", "parrot", memory_bytes=huge)
    assert "MiB" in node.hosting.problem(model)
    began = trio.current_time()
    with pytest.raises(AigridError, match="2048 MiB"):
        await chat(core_of(node))
    assert trio.current_time() - began < 1


async def test_one_that_is_found_out_never_to_fit_is_not_waited_for(sim, autojump_clock):
    node, core, spawner = await alone(sim, memory_bytes=1 << 25)
    spawner.start_seconds = 0.1
    node.pool._room.budget = Budget({"cpu": 1 << 24})
    began = trio.current_time()
    with pytest.raises(AigridError) as caught:
        await chat(core)
    assert caught.value.code is Code.OUT_OF_MEMORY
    assert trio.current_time() - began < 1
