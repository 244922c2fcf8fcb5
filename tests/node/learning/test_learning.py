"""What was learned, told to others: of a bounded number of nodes, and no longer than it is known."""

from dataclasses import dataclass

import pytest
import trio
from tests.metagraph.world import MODELS, NOW, OWN, with_members
from trio.testing import MockClock

from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.learning.learning import Learning
from aigrid.node.settings.trust import TrustConfig
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
HOUR_MS = 3_600_000


@dataclass
class Time:
    now_ms: int = NOW


def learning(time: Time, *, tells: bool = True) -> Learning:
    store = Store()
    return Learning(
        LocalState(store),
        with_members(OWN, store=store),
        identity=OWN,
        trust=TrustConfig(),
        tells=tells,
        now_ms=lambda: time.now_ms,
    )


def peer(number: int) -> str:
    return Identity(number.to_bytes(32, "big")).peer_id


def noted(made: Learning, numbers: range) -> None:
    for number in numbers:
        made.note(peer(number), MODELS[0], "text-generation", served=True)


def live(made: Learning, time: Time) -> set[str]:
    said = made._graph.live_records(time.now_ms, issuer=OWN.did)
    return {record.subject for record in said if record.kind is Kind.AUDIT}


async def test_a_node_tells_of_no_more_others_than_it_may_however_often(
    autojump_clock: MockClock,
) -> None:
    time = Time()
    made = learning(time)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        for hour in range(3):
            noted(made, range(1000 * hour + 1, 1000 * hour + 101))
            await trio.sleep(2 * LIMITS.learned_tell_seconds)
            time.now_ms += 2 * HOUR_MS
        nursery.cancel_scope.cancel()
    assert len(live(made, time)) == LIMITS.audits_own_max
    newest = peer(2050)
    with pytest.raises(LocalError) as refused:
        made.tell(newest)
    assert refused.value.code is Code.OVER_QUOTA
    assert made.tell(peer(50)) is not None  # what it has said of it before is replaced
    time.now_ms += LIMITS.audit_ttl_seconds * 1000
    noted(made, range(2050, 2051))
    assert made.tell(newest) is not None


async def test_what_is_not_told_and_who_is_forgotten_take_no_memory() -> None:
    time = Time()
    silent = learning(time, tells=False)
    noted(silent, range(1, 5))
    assert silent._untold == set()
    made = learning(time)
    noted(made, range(1, LIMITS.learned_nodes_max + 10))
    assert made._untold == set(made.ledger.peers())
