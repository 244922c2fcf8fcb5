"""Finding what this node holds no record of: DHT hints, then a bounded typed query to a few peers.

Neither a hint nor an answer is believed. What counts is that the records in an answer verify, that
they belong to what was asked, and that the metagraph takes them like any other.
"""

import random
from collections import Counter, OrderedDict
from collections.abc import Iterable
from functools import partial

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.quota import TokenBucket, TokenBuckets
from aigrid.metagraph.typed_query import Wanted, gather, givers, offers, related
from aigrid.node.discovery.batches import send_records, take_in
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.providers import ProviderHints, capability_key, model_key
from aigrid.node.network.streams import RpcClient, Send
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.errors import AigridError, Code, LocalError, RemoteError, VerificationError
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import (
    Find,
    Records,
    decode_rpc_answer,
    decode_rpc_request,
    encode,
)
from aigrid.protocol.record import Record, verify

log = structlog.get_logger()
_Key = tuple[Wanted, bool]  # the latter: whether everybody is asked


class _Question:
    """One that is being asked.

    `found` is set with the first offer that is not among the `known` ones, at the latest when it is
    `over`: when all have spoken, or the time is up.
    """

    def __init__(self, key: _Key, request: bytes, known: frozenset[str]) -> None:
        self.key = key
        self.wanted = key[0]
        self.request = request
        self.known = known
        self.asked: set[str] = set()
        self.answered = False
        self.found = trio.Event()
        self.over = trio.Event()


class TypedQueries:
    """Both sides: `serve` answers a peer's query, `ask` and `look_for` make ours.

    Attributes:
        counts: `asked` and `served` queries; `peers` asked, `records` and `bytes` they answered.
    """

    def __init__(
        self,
        graph: Metagraph,
        rpc: RpcClient,
        peers: Peers,
        hints: ProviderHints,
        *,
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        self.counts: Counter[str] = Counter(asked=0, served=0, peers=0, records=0, bytes=0)
        self._graph = graph
        self._rpc = rpc
        self._peers = peers
        self._hints = hints
        self._now_ms = now_ms
        self._rng = rng
        self._nursery: trio.Nursery | None = None
        self._served = TokenBuckets(burst=LIMITS.finds_burst, per_second=LIMITS.finds_per_second)
        self._own = TokenBucket(
            burst=LIMITS.finds_burst, per_second=LIMITS.finds_per_second, now_seconds=0.0
        )
        self._questions: dict[_Key, _Question] = {}
        self._unanswered: OrderedDict[_Key, float] = OrderedDict()  # until when

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Own the questions: one goes on for all who wait when the first of them has gone."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- answering

    async def serve(self, peer_id: str, message: Find, send: Send) -> None:
        """Send the records behind offers that we know, and behind those who give files away.

        Their nodes are not known to be dead.
        """
        wait_seconds = self._served.take(peer_id, trio.current_time())
        if wait_seconds:
            raise LocalError(
                "too many typed queries", Code.RATE_LIMITED, retry_after_seconds=wait_seconds
            )
        self.counts["served"] += 1
        wanted, now_ms = Wanted(message.by, message.name), self._now_ms()
        giving = givers(wanted, self._graph.index, now_ms)
        found = gather(
            wanted,
            (
                *self._live_offers(wanted),
                *(one for one in giving if self._peers.observation(one.node).alive),
            ),
            self._graph.index,
            partial(self._graph.membership_of, now_ms=now_ms),
            now_ms=now_ms,
            limit=message.limit,
        )
        await send_records(send, (record.raw for record in found))

    # --- asking

    async def look_for(self, wanted: Wanted, *, widely: bool = False) -> None:
        """Ask the grid, unless an offer is known here; `widely` asks in any case, and everybody."""
        if widely or not self._live_offers(wanted):
            await self.ask(wanted, widely=widely)

    async def ask(self, wanted: Wanted, *, widely: bool = False) -> bool:
        """Whether there is a new offer; returns with the first, or `widely` when all have spoken.

        Peers' failures are logged. What was answered by nobody is not asked again for a while, nor
        is anything beyond our own rate.
        """
        key = (wanted, widely)
        question = self._questions.get(key) or self._begin(key)
        if question is None:
            return False
        await (question.over if widely else question.found).wait()
        return question.answered

    def _begin(self, key: _Key) -> _Question | None:
        wanted, _ = key
        try:
            request = encode(Find(wanted.by, wanted.name, LIMITS.find_records_max))
            decode_rpc_request(request)
        except (RemoteError, UnicodeError):  # not a name that anything can have
            return None
        now_seconds = trio.current_time()
        again_seconds = self._unanswered.get(key, now_seconds)
        if self._nursery is None or now_seconds < again_seconds or not self._own.take(now_seconds):
            return None
        self.counts["asked"] += 1
        known = frozenset(candidate.node for candidate in self._live_offers(wanted))
        question = self._questions[key] = _Question(key, request, known)
        self._nursery.start_soon(self._pursue, question)
        return question

    async def _pursue(self, question: _Question) -> None:
        """Those whom the DHT names first; others that are there if these offer nothing in time."""
        _, widely = question.key
        try:
            with trio.move_on_after(LIMITS.find_seconds):
                async with trio.open_nursery() as nursery:
                    hinted = trio.Event()
                    nursery.start_soon(self._ask_hinted, question, hinted)
                    with trio.move_on_after(LIMITS.find_seconds / 2):
                        await hinted.wait()
                    if widely or not question.answered:
                        others = self._others(question)
                        await self._ask_all(question, others, LIMITS.find_peers_max)
        finally:
            del self._questions[question.key]
            self._unanswered.pop(question.key, None)
            if question.asked and not question.answered:
                self._unanswered[question.key] = trio.current_time() + LIMITS.find_again_seconds
                if len(self._unanswered) > LIMITS.finds_remembered_max:
                    self._unanswered.popitem(last=False)
            question.found.set()
            question.over.set()

    async def _ask_hinted(self, question: _Question, done: trio.Event) -> None:
        """Anybody may be named, or name others: some are left to be asked without a hint."""
        peers_max = LIMITS.find_peers_max - LIMITS.find_unhinted_max
        await self._ask_all(question, await self._hinted(question.wanted), peers_max)
        done.set()

    async def _hinted(self, wanted: Wanted) -> list[PeerAddress]:
        """Whom the DHT names: those that are there first, then those that are known members."""
        key_of = capability_key if wanted.by == "capability" else model_key
        peers = await self._hints.providers(key_of(self._graph.grid, wanted.name))
        self._rng.shuffle(peers)  # who answers the DHT's question first chooses nobody for us
        return sorted(
            peers,
            key=lambda at: (not self._peers.alive(at.peer_id), not self._is_member(at.peer_id)),
        )

    def _is_member(self, peer_id: str) -> bool:
        try:
            did = did_of_peer_id(peer_id)
        except VerificationError:
            return False
        return self._graph.membership_of(did, self._now_ms()) is not None

    def _others(self, question: _Question) -> list[PeerAddress]:
        alive = sorted(self._peers.alive_members() - question.asked)
        self._rng.shuffle(alive)
        return [PeerAddress(peer_id, ()) for peer_id in alive]

    async def _ask_all(
        self, question: _Question, peers: Iterable[PeerAddress], peers_max: int
    ) -> None:
        """Ask until `peers_max` have been asked this question; returns when these have spoken."""
        async with trio.open_nursery() as nursery:
            for peer in peers:
                if len(question.asked) < peers_max and peer.peer_id not in question.asked:
                    question.asked.add(peer.peer_id)
                    nursery.start_soon(self._ask_one, question, peer)

    async def _ask_one(self, question: _Question, peer: PeerAddress) -> None:
        wanted, peer_id = question.wanted, peer.peer_id
        try:
            if not self._peers.alive(peer_id) and not await self._peers.contact(peer):
                return
            self.counts["peers"] += 1
            raws = await self._answer(peer_id, question.request)
            self._take_in(wanted, raws, peer_id)
        except AigridError as error:
            log.info("typed_query_failed", peer=peer_id, code=error.code.value)
        if any(candidate.node not in question.known for candidate in self._live_offers(wanted)):
            question.answered = True
            question.found.set()

    async def _answer(self, peer_id: str, request: bytes) -> list[bytes]:
        raws: list[bytes] = []
        size = 0
        async with self._rpc.call(
            peer_id, request, silence_seconds=LIMITS.rpc_timeout_seconds
        ) as answers:
            async for body in answers:
                answer = decode_rpc_answer(body)
                if not isinstance(answer, Records) or not answer.records:
                    raise RemoteError("an answer that was not asked for", peer=peer_id)
                raws += answer.records
                size += sum(map(len, answer.records))
                if len(raws) > LIMITS.find_records_max or size > LIMITS.find_max_bytes:
                    raise RemoteError("more than was asked for", peer=peer_id)
        self.counts["records"] += len(raws)
        self.counts["bytes"] += size
        return raws

    def _take_in(self, wanted: Wanted, raws: list[bytes], peer_id: str) -> None:
        now_ms = self._now_ms()
        verified: list[Record] = []
        for raw in raws:
            try:
                verified.append(verify(raw, now_ms=now_ms))
            except VerificationError as error:
                log.info("record_refused", peer=peer_id, code=error.code.value)
        wanted_ones = related(wanted, verified, now_ms=now_ms)
        if len(wanted_ones) < len(verified):
            log.info("unrelated_records", peer=peer_id, count=len(verified) - len(wanted_ones))
        take_in(self._graph, [r.raw for r in wanted_ones], now_ms=now_ms, peer_id=peer_id)

    def _live_offers(self, wanted: Wanted) -> list[Candidate]:
        """Offers of nodes that are not known to be dead: one never met may be there."""
        found = offers(wanted, self._graph.index, self._now_ms())
        return [c for c in found if self._peers.observation(c.node).alive]
