"""A signed request is served once."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.database import Database
from aigrid.node.policy.nonces import Nonces
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS


def test_a_nonce_counts_once_per_did_until_it_expires(tmp_path: Path) -> None:
    nonces = Nonces(Database(tmp_path / "db"))
    assert nonces.use("a", "n", until_ms=100, now_ms=1)
    assert not nonces.use("a", "n", until_ms=100, now_ms=100)
    assert nonces.use("b", "n", until_ms=100, now_ms=1)
    restarted = Nonces(Database(tmp_path / "db"))
    assert not restarted.use("a", "n", until_ms=100, now_ms=2)
    assert restarted.use("a", "n", until_ms=300, now_ms=101)


@pytest.mark.parametrize("share", [True, False])
def test_a_full_memory_refuses_instead_of_forgetting(share: bool) -> None:
    few = {"nonces_per_actor_max": 3} if share else {"nonces_max": 3}
    nonces = Nonces(Database(None), limits=replace(LIMITS, **few))
    for number in range(3):
        assert nonces.use("a", str(number), until_ms=100, now_ms=1)
    with pytest.raises(AigridError) as caught:
        nonces.use("a", "3", until_ms=100, now_ms=1)
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.retry_after_seconds
    assert not nonces.use("a", "0", until_ms=100, now_ms=1)
    if share:
        assert nonces.use("b", "0", until_ms=100, now_ms=1)
    assert nonces.use("a", "3", until_ms=300, now_ms=101)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 9))))
def test_no_nonce_counts_twice_within_its_time(uses: list[tuple[str, str, int]]) -> None:
    nonces, now, live = Nonces(Database(None)), 0, dict[tuple[str, str], int]()
    for did, nonce, step in uses:
        now += step
        fresh = nonces.use(did, nonce, until_ms=now + 5, now_ms=now)
        assert fresh == (live.get((did, nonce), -1) < now)
        if fresh:
            live[did, nonce] = now + 5
