"""What an attack fails at, each to be switched off from outside: then the attack has to succeed.

A switch takes one thing out of the node and leaves all else as it is, so that a run without it
shows what that one thing is for. `tests/simulation/test_attacks.py` makes each run both ways.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from scripts.simulation.plants import Swap, merge_forgets, nothing_is_compared, swapped

import aigrid.metagraph.graph as graph_module
import aigrid.node.learning.names as names_module
import aigrid.node.mesh.routing.attempts as attempts_module
import aigrid.node.mesh.shelf.models as models_module
import aigrid.node.policy.receipts as receipts_module
import aigrid.protocol.presentation as presentation_module
from aigrid.metagraph.accounts import Accounts
from aigrid.metagraph.naming import Claim
from aigrid.metagraph.revocations import Revocations
from aigrid.metagraph.selection import Observation
from aigrid.metagraph.store import Store
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.learning.learning import Learning
from aigrid.node.mesh.routing.beginning import Allowed
from aigrid.node.mesh.routing.candidates import Candidates
from aigrid.node.mesh.shelf.copying import read_all
from aigrid.node.mesh.weights.faults import HolderFaults
from aigrid.node.policy.nonces import Nonces
from aigrid.protocol.chunks import FileChunks
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, verify_form_and_signature

SEEN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Defence:
    """`what` the node does, and the swaps that take it out, or what makes them once needed."""

    what: str
    swaps: tuple[Swap, ...] | Callable[[], tuple[Swap, ...]]

    def made(self) -> tuple[Swap, ...]:
        return self.swaps() if callable(self.swaps) else self.swaps


def _nothing(*_arguments: Any, **_more: Any) -> None:
    pass


def _for_ever(*_arguments: Any, **_more: Any) -> Allowed:
    return Allowed(math.inf, math.inf)


def _stranger(_candidates: Candidates, _node: str, _capability: str = "") -> Observation:
    return Observation()


def _whatever_is(code: Code) -> tuple[Swap, ...]:
    """A record is taken in though its time is wrong in this way."""
    check_time = vars(graph_module)["check_time"]

    def check(record: Record, now_ms: int) -> None:
        try:
            check_time(record, now_ms)
        except VerificationError as error:
            if error.code is not code:
                raise

    return ((graph_module, "check_time", check),)


def _never(*_arguments: Any, **_more: Any) -> bool:
    return False


def _always_new(*_arguments: Any, **_more: Any) -> bool:
    return True


def _as_it_is(sent: bytes | Record, *_arguments: Any, **_more: Any) -> Record:
    return sent if isinstance(sent, Record) else verify_form_and_signature(sent)


def _whatever_is_called_so(claims: Iterable[Claim], *_: Any, **_more: Any) -> tuple[str, ...]:
    return tuple(claim.model for claim in claims)


def _right_length(chunks: FileChunks, number: int, data: bytes | bytearray) -> bool:
    return len(data) == chunks.length(number)


class _Whatever(str):
    """A hash that is equal to any other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False


async def _unread(reader: Any, run_blocking: Any, progress: Any, what: str) -> str:
    return _Whatever(await read_all(reader, run_blocking, progress, what))


def _nothing_is_told_of() -> tuple[Swap, ...]:
    from libp2p.pubsub.gossipsub import GossipSub  # a second of imports

    def nobody(_gossip: Any) -> dict[Any, Any]:
        return defaultdict(dict)

    return ((GossipSub, "gossip_heartbeat", nobody),)


def _soon_forgotten() -> tuple[Swap, ...]:
    """What came is known for a second: for ever unknown, each message would go round for ever."""
    from aigrid.node.network.forgetting import SeenMessages

    def has(seen: Any, message_id: bytes) -> bool:
        end = vars(seen)["_ends"].get(message_id)
        since = trio.current_time() - SEEN_SECONDS + vars(seen)["_ttl_seconds"]
        return end is not None and end > since

    return ((SeenMessages, "has", has),)


DEFENCES: dict[str, Defence] = {
    "audits": Defence("a wrong answer counts against its node", ((Learning, "audited", _nothing),)),
    "beginning": Defence(
        "a node has so long to begin its answer", ((attempts_module, "allowed", _for_ever),)
    ),
    "experience": Defence(
        "candidates are ordered by what came of requests to them",
        ((Candidates, "_observation", _stranger),),
    ),
    "unproven": Defence(
        "a stranger that fails at once costs a request none of its tries",
        ((LIMITS, "unproven_max", 0),),
    ),
    "quotas": Defence(
        "an issuer has so much room",
        ((Accounts, "check_member", _nothing),),
    ),
    "rates": Defence("an issuer may say so much a second", ((Store, "_check_rate", _nothing),)),
    "clock": Defence("what is from the future is refused", partial(_whatever_is, Code.FROM_FUTURE)),
    "expiry": Defence("what has ended is refused", partial(_whatever_is, Code.EXPIRED)),
    "freshness": Defence(
        "of a key only what is newer is taken", ((Store, "_remembered", merge_forgets),)
    ),
    "revocations": Defence(
        "what is revoked in a status list stays revoked", ((Revocations, "revoked", _never),)
    ),
    "nonces": Defence("a signed request serves once", ((Nonces, "use", _always_new),)),
    "binding": Defence(
        "a signed request is for one node, one peer and one moment",
        ((presentation_module, "check", _nothing),),
    ),
    "receipts": Defence(
        "a receipt has to be for what was asked", ((receipts_module, "check_received", _as_it_is),)
    ),
    "repair": Defence(
        "nodes compare what they hold with others at random",
        ((RecordSync, "sync", nothing_is_compared),),
    ),
    "chunks": Defence(
        "a chunk is hashed before it is written", ((FileChunks, "holds", _right_length),)
    ),
    "files": Defence(
        "a file is hashed before it is loaded", ((models_module, "read_all", _unread),)
    ),
    "faults": Defence(
        "who sent other weights is asked after everybody else", ((HolderFaults, "counts", _never),)
    ),
    "names": Defence(
        "a name means what standing, use and time have made of it",
        ((names_module, "meant", _whatever_is_called_so),),
    ),
    "ihave": Defence(
        "GossipSub tells peers outside the mesh each second what it has", _nothing_is_told_of
    ),
    "seen": Defence("a gossip message that came before is let go", _soon_forgotten),
    "unhinted": Defence(
        "a typed query keeps some of its questions for members that no hint names",
        ((LIMITS, "find_unhinted_max", 0),),
    ),
    "regained": Defence(
        "who was lost is sought though others have taken its place",
        ((LIMITS, "connections_regained", 0),),
    ),
    "silence": Defence(
        "a node that sends nothing is given up",
        (
            (LIMITS, "fetch_silence_seconds", 1e6),
            (LIMITS, "fetch_list_seconds", 1e6),
            (LIMITS, "fetch_chunk_seconds", 1e6),
        ),
    ),
}


@contextmanager
def without(names: str) -> Iterator[Counter[str]]:
    """These defences, with commas between them, are missing meanwhile; "" are none."""
    with swapped(swap for name in listed(names) for swap in DEFENCES[name].made()) as ran:
        yield ran


def listed(names: str) -> list[str]:
    """Raises ValueError where one is none."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in DEFENCES:
            raise ValueError(f"there is no defence {name!r}; there are {', '.join(DEFENCES)}")
    return found
