"""What must hold: safety throughout, liveness once the faults have stopped.

Safety:
    never_back        no node replaces a record by an older one of its key
    genuine           no node holds what its issuer never signed
    kept              who starts again has at once what it had, but for what has ended
    in_time           no node takes in what is not valid yet, or not any more, by its own clock
    expired           what has ended is gone from stores and answers: see `ending`
    members_only      nobody is a member whom nobody admitted, nor admitted by the transport
    gone              who is killed or cut off is soon taken for alive nowhere: see `linked`
    bounded           nobody's records take more room than one issuer may have
    rated             nobody takes in more of one issuer than its rate lets through
    spread            what is said reaches all at once, not by repair alone: see `promptly`
    quick             requests are answered by who is asked first, and soon, as the options state
    answered          each request ends in time, with an answer or an error that has a code
    right             answers are what the model says, but for a share that the options allow
    once              no receipt counts for two requests
    heard             what the victim of censors says reaches everybody all the same
    weights, avoided  who fetches a model gets it, and asks nobody twice who gave wrong ones
    found             who looks in the DHT for a model that attackers hide finds it
    again             nobody is given a message of gossip twice
    clock             who is off in time knows how far, and what is from the future is refused
    attacked          the attack did something: else nothing is known of what it fails at
    no_crash          no node ends by itself
    checked           there was something by which what was to be looked at could have been broken
Liveness:
    comes_up          all join, and know each other and what is offered, in time: see `joining`
    converged         every node knows every member, where it is, is linked to as many as it seeks,
                      or to all: see `linked`. What live nodes say now
                      and have said for a while is known to all; an index follows from its store
    served            requests are answered again
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import trio
from scripts.simulation.checks.ending import Endings, is_brief
from scripts.simulation.checks.indexed import index_lags
from scripts.simulation.checks.kept import Kept
from scripts.simulation.checks.linked import Gone, link_lags
from scripts.simulation.checks.promptly import Promptly
from scripts.simulation.checks.propagation import Propagation
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.workload import ANSWER_SECONDS, Request
from scripts.simulation.world import SimNode, Simulation

from aigrid.metagraph.database import UNITS
from aigrid.node.app import Node
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, RecordKey

VIOLATIONS_MAX = 5  # that are told of one property
# How long ago something was said that all have to know by now, where nothing is lost.
GRACE_SECONDS = 5.0
# Of what ends so soon, nothing is asked.
ENDING_MS = 2000
# Until everybody has heard that a member was removed, and what one victim says, whoever hides it.
REMOVED_SECONDS = 5.0
HEARD_SECONDS = 30.0
_WITHDRAWAL = "withdrawal of a "
_STORED = "SELECT content_id FROM records"
_ROOM = f"SELECT COALESCE(SUM({UNITS}), 0) FROM records WHERE issuer = ?"


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that did not hold, and when."""

    name: str
    at_seconds: float
    what: str


class Watch:
    """Follows a simulation. `exempt` names nodes of which liveness and kindness are not asked."""

    def __init__(
        self,
        sim: Simulation,
        network: Conditions,
        *,
        patience_seconds: float,
        spread_seconds: float,
    ) -> None:
        self.violations: list[Violation] = []
        self.exempt: set[str] = set()
        self.flooders: dict[str, str] = {}
        self.admitted: set[str] = set()
        self.removed: dict[str, float] = {}
        self.attacked: set[str] = set()  # what an attack counts under `checks`, if it takes hold
        self.forged: set[str] = set()  # content ids of what nobody may hold
        self.victim = ""
        self.victim_since = 0.0
        self.propagation = Propagation()
        self.measured = self.afresh = False
        self.promptly = {after: Promptly(spread_seconds) for after in (False, True)}
        self.checks: Counter[str] = Counter()
        self._sim = sim
        self._patience_seconds = patience_seconds
        self._before: dict[RecordKey, tuple[int, str]] = {}
        self._held: dict[str, dict[RecordKey, tuple[int, str]]] = {}
        self._said_at: dict[str, float] = {}
        self._receipts: set[str] = set()
        self._taken: dict[tuple[str, str], tuple[float, int]] = {}  # since when, how many
        self._kept = Kept(self.checks, self.violated)
        self._endings = Endings(self.checks, self.violated)
        self._gone = Gone(network, self.checks, self.violated)
        sim.learned.append(self.learned)

    def violated(self, name: str, what: str) -> None:
        self._sim.note("violation", name)
        if sum(one.name == name for one in self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(name, trio.current_time(), what))

    def assume(self, records: Iterable[Record]) -> None:
        """Every node starts with these."""
        self._before = {record.key: record.rank for record in records}
        self._said_at = {record.content_id: trio.current_time() for record in records}

    @property
    def receipted(self) -> int:
        """Receipts that came with answers."""
        return len(self._receipts)

    def honest(self) -> list[SimNode]:
        """Live nodes that are not exempt, in order of their names."""
        return [one for name, one in sorted(self._sim.nodes.items()) if name not in self.exempt]

    # Safety

    def learned(self, name: str, record: Record) -> None:
        """A node has taken in a record, of its own or another's."""
        if name not in self._sim.nodes:
            return  # it is being killed
        node = self._sim.nodes[name].node
        held, rank = self._held.setdefault(name, {}), (record.valid_from_ms, record.content_id)
        before = held.get(record.key, self._before.get(record.key))
        self.checks["never_back"] += 1
        if before is not None and rank < before:
            self.violated("never_back", f"{name} replaced a newer {record.kind.value} by an older")
        held[record.key] = rank
        if record.content_id in self.forged and name not in self.exempt:
            self._forged(name)
        now_ms = node.now_ms()
        early_ms = record.valid_from_ms - now_ms - LIMITS.clock_skew_seconds * 1000
        own = record.issuer in _speaks_for(node) and name not in self.exempt
        if (early_ms > 0 and not own) or record.valid_until_ms <= now_ms:
            self.violated("in_time", f"{name} took in a {record.kind.value} that is not valid")
        if record.issuer in self.flooders.values() and not own:
            self._look_at_rate(name, record.issuer)
        if record.kind is Kind.MEMBERSHIP and record.subject in self.removed:
            self._look_for_removed(name, record.subject)
        self._spread(name, record, node.identity.did)

    def _look_at_rate(self, name: str, did: str) -> None:
        """A node has taken in one more record of a flood."""
        self.checks["rated"] += 1
        since, count = self._taken.get((name, did), (trio.current_time(), 0))
        self._taken[name, did] = since, count + 1
        seconds = trio.current_time() - since
        most = LIMITS.records_burst_per_issuer + seconds * LIMITS.records_per_second_per_issuer
        if count > most:
            what = f"{name} has taken in {count} records of one in {seconds:.0f} s"
            self.violated("rated", what)

    def _spread(self, name: str, record: Record, own_did: str) -> None:
        now = trio.current_time()
        if record.content_id not in self._said_at:
            self._said_at[record.content_id] = now
            self._endings.said(record)
            self.propagation.replaced(record.key)
            for one in self.promptly.values():
                one.replaced(record.key, now)
            own = record.issuer == own_did and name not in self.exempt
            if own and not is_brief(record):  # which may end before it is there
                self._says(name, record, now)
        self.propagation.learn(record.content_id, name, now)
        for one in self.promptly.values():
            one.learned(record.key, record.content_id, name, now)

    def _says(self, name: str, record: Record, now: float) -> None:
        others = {one.name for one in self.honest() if one.name != name}
        if self.measured:
            self.propagation.issue(record.key, record.content_id, now, others)
        early = self._early_seconds(record) > 0  # and rightly refused for now
        if (self.measured or self.afresh) and not early:
            self.promptly[self.afresh].issued(record.key, record.content_id, now, others)

    def killed(self, name: str) -> None:
        """It is about to be."""
        self._kept.ends(self._sim.nodes[name])
        self._gone.killed(self._sim.nodes[name])
        self.propagation.gone(name, trio.current_time())

    def started_again(self, name: str) -> None:
        self._kept.is_back(self._sim.nodes[name])
        self._gone.is_back(self._sim.nodes[name])

    def check(self) -> None:
        """What is looked at now and then."""
        for one in self.honest():
            self.checks["members_only"] += 1
            may_be = self._may_be_members(one)
            strange = one.node.grid.members() - may_be
            if strange:
                self.violated("members_only", f"{one.name} takes {min(strange)} for a member")
            admitted = one.node.transport.members - set(map(peer_id_of_did, may_be))
            if admitted:
                self.violated("members_only", f"{one.name} still admits {min(admitted)}")
            for flooder, did in self.flooders.items():
                self.checks["bounded"] += 1
                (units,) = one.node.graph.store.database.row(_ROOM, (did,))
                if units > LIMITS.records_per_issuer_max:
                    what = f"{one.name} has room of {units} records for {flooder}"
                    self.violated("bounded", what)
            self.checks["genuine"] += bool(self.forged)
            if self.forged and not self.forged.isdisjoint(_stored(one)):
                self._forged(one.name)
        for said in self.promptly.values():
            said.look(trio.current_time())
        every = [one for _, one in sorted(self._sim.nodes.items())]
        self._endings.look(every, self._sim.now_ms())
        self._gone.look([one for one in every if one.name not in self.exempt])
        if self.victim:
            self._look_for_victim()

    def _forged(self, name: str) -> None:
        self.violated("genuine", f"{name} took in a record that its issuer never signed")

    def _may_be_members(self, by: SimNode) -> set[str]:
        """All who were admitted; whoever was removed, only until this node, too, can know."""
        now = trio.current_time()
        heard = {did: max(at, by.up_since) for did, at in self.removed.items()}
        gone = {did for did, at in heard.items() if now - at > REMOVED_SECONDS}
        return self.admitted - gone

    def _look_for_removed(self, name: str, did: str) -> None:
        """A node has just taken in something about the membership of one that was removed."""
        one = self._sim.nodes[name]
        late = trio.current_time() - max(self.removed[did], one.up_since) > REMOVED_SECONDS
        if late and one.node.grid.membership_by_did(did) is not None:
            self.violated("members_only", f"{name} takes {did} for a member again")

    def _look_for_victim(self) -> None:
        """What it says has reached everybody in time, whoever kept quiet about it."""
        victim = self._sim.nodes.get(self.victim)
        if victim is None:
            return  # it was killed, and says nothing now
        for record in self._settled(victim, HEARD_SECONDS):
            if self._said_at.get(record.content_id, 0.0) < self.victim_since:
                continue  # before anybody kept quiet
            self.checks["heard"] += 1
            for one in self.honest():
                if not one.node.graph.store.has(record.content_id):
                    what = f"{one.name} lacks {record.kind.value} of {victim.name}"
                    self.violated("heard", f"after {HEARD_SECONDS:.0f} s {what}")

    def ended(self, request: Request) -> None:
        """A request is over."""
        self.checks["answered"] += 1
        self._sim.note("request", request.number, request.outcome, request.node, request.attempts)
        for receipt in request.receipts:
            if receipt in self._receipts:
                self.violated("once", f"a receipt counts again for request {request.number}")
            self._receipts.add(receipt)
        late = request.took_seconds > self._patience_seconds + ANSWER_SECONDS
        if late and request.outcome != "asker_killed":  # who has nobody to hear of it
            took = f"{request.took_seconds:.0f} s"
            self.violated("answered", f"request {request.number} of {request.asker} took {took}")

    def look_at_attack(self) -> None:
        """Once it is over."""
        for name in sorted(self.attacked):
            if not self.checks[name]:
                self.violated("attacked", f"the attack came to nothing: {name} 0 times")

    # Liveness

    def lags(self) -> Iterator[str]:
        """What is not as it should be in the end: nothing, once all is well."""
        honest = self.honest()
        members = [
            one
            for _, one in sorted(self._sim.nodes.items())
            if one.node.identity.did not in self.removed
        ]
        dids = {one.node.identity.did for one in members}
        for one in honest:
            if missing := len(dids - one.node.grid.members()):
                yield f"{one.name} does not know {missing} members"
            yield from link_lags(one, [other for other in members if other is not one])
        said = {
            record.content_id: f"{_named(record)} of {speaker.name}"
            for speaker in honest
            for record in self._settled(speaker)
        }
        self.checks["withdrawn"] += sum(what.startswith(_WITHDRAWAL) for what in said.values())
        for one in honest:  # of its store itself: what was taken in may be gone again
            for content_id in sorted(said.keys() - _stored(one)):
                yield f"{one.name} lacks {said[content_id]}"
            yield from index_lags(one)

    def _settled(self, speaker: SimNode, seconds: float = GRACE_SECONDS) -> Iterator[Record]:
        """What a node, and the authority through it, says now and has said for so long."""
        now = trio.current_time()
        for record in self._own(speaker):
            since = max(
                self._said_at.get(record.content_id, 0.0), now + self._early_seconds(record)
            )
            if record.kind is not Kind.RECEIPT and now - since >= seconds:
                yield record

    @staticmethod
    def _own(speaker: SimNode) -> Iterator[Record]:
        """What it, and the authority through it, says or withdraws and does not end at once."""
        node = speaker.node
        for issuer in _speaks_for(node):
            until_ms = node.now_ms() + ENDING_MS
            yield from node.graph.live_records(until_ms, issuer=issuer)
            if issuer in node.grid.members():
                yield from _withdrawn(node.graph.store.of_issuer(issuer), until_ms)

    def _early_seconds(self, record: Record) -> float:
        """Until others may take it in, as it is from the future."""
        early_ms = record.valid_from_ms - self._sim.now_ms()
        return early_ms / 1000 - LIMITS.clock_skew_seconds

    def early_seconds(self) -> float:
        """Until others may take in all that has been said; 0 where nothing is from the future."""
        said = (record for one in self.honest() for record in self._own(one))
        return max(0.0, *(self._early_seconds(record) for record in said), 0.0)

    async def look_on(self, seconds: float) -> None:
        """Let time pass, and look meanwhile."""
        deadline = trio.current_time() + seconds
        while trio.current_time() < deadline:
            self.check()
            await trio.sleep(min(1.0, deadline - trio.current_time()))

    async def until_well(self, seconds: float, progress: Callable[[float], None]) -> float | None:
        """Wait until nothing lags; how long it took, None where it did not come to that."""
        began = trio.current_time()
        while (passed := trio.current_time() - began) < seconds:
            self.check()
            progress(passed / seconds)
            if next(self.lags(), None) is None:
                return passed
            await trio.sleep(0.5)
        for what in list(self.lags())[:5]:
            self.violated("converged", f"after {seconds:.0f} s without faults {what}")
        return None


def _speaks_for(node: Node) -> tuple[str, ...]:
    """Whose records it signs: the grid's, which every node is in, only where its key is."""
    authority = node.grid.authority
    return (node.identity.did,) if authority is None else (node.identity.did, authority.did)


def _withdrawn(records: Iterable[Record], now_ms: int) -> Iterator[Record]:
    """What takes the place of what was withdrawn: who has that has nothing of it any more."""
    return (one for one in records if one.withdrawn and one.valid_until_ms > now_ms)


def _named(record: Record) -> str:
    return (_WITHDRAWAL if record.withdrawn else "") + record.kind.value


def _stored(one: SimNode) -> set[str]:
    """The content ids in its store: one query, where a look for each record would cost far more."""
    return {row[0] for row in one.node.graph.store.database.rows(_STORED)}
