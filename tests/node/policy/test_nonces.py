"""Nonces serve once: over restarts, within bounds, and whatever the clock does."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.database import Database
from aigrid.node.policy.nonces import Nonces
from aigrid.protocol.errors import Code, LocalError, UsageError
from aigrid.protocol.limits import LIMITS

NOW = 1_800_000_000_000
FEW = replace(LIMITS, nonces_kept_max=5, nonces_of_one_max=3)


def use(nonces: Nonces, nonce: str, *, did: str = "a", now: int = NOW, life: int = 1000) -> bool:
    return nonces.use(did, nonce, until_ms=now + life, now_ms=now)


def test_a_nonce_serves_once_for_each_holder() -> None:
    nonces = Nonces(Database(None))
    assert use(nonces, "n")
    assert not use(nonces, "n")
    assert use(nonces, "n", did="b")


def test_what_was_used_stays_so_over_a_restart(tmp_path: Path) -> None:
    database = Database(tmp_path / "records.db")
    assert use(Nonces(database), "n")
    database.close()
    again = Nonces(Database(tmp_path / "records.db"))
    assert not use(again, "n")
    assert len(again) == 1


def test_a_full_one_refuses_and_says_when_there_is_room() -> None:
    nonces = Nonces(Database(None), limits=FEW)
    for number in range(3):
        assert use(nonces, f"n{number}")
    with pytest.raises(LocalError) as caught:
        use(nonces, "n3")
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.retry_after_seconds == 1.0
    assert use(nonces, "n", did="b")
    assert use(nonces, "m", did="b")
    with pytest.raises(LocalError):
        use(nonces, "n", did="c")
    assert use(nonces, "n", did="c", now=NOW + 1000)


def test_a_clock_that_steps_back_brings_nothing_back() -> None:
    nonces = Nonces(Database(None))
    assert use(nonces, "n")
    assert use(nonces, "later", now=NOW + 5000)  # "n" is forgotten
    assert not use(nonces, "n")
    assert use(nonces, "m", now=NOW + 1)


def test_a_clock_that_was_far_ahead_locks_nobody_out_for_long(tmp_path: Path) -> None:
    year, life = 365 * 86_400_000, LIMITS.presentation_ttl_seconds * 1000
    database = Database(tmp_path / "records.db")
    nonces = Nonces(database)
    assert use(nonces, "before", life=life)
    for number in range(300):  # enough for the disk to be swept
        assert use(nonces, f"n{number}", now=NOW + year + number * 1000)
    assert not use(nonces, "before", now=NOW + 1, life=life - 1)  # set right: it is valid yet
    assert not use(nonces, "m", now=NOW + 1, life=life)
    later = NOW + LIMITS.clock_skew_seconds * 1000 + 2
    database.close()
    again = Nonces(Database(tmp_path / "records.db"))
    assert not use(again, "before", now=later, life=NOW + life - later)
    assert use(again, "m", now=later, life=life)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 3000))))
def test_no_nonce_is_accepted_twice_while_it_is_valid(
    steps: list[tuple[str, int, int]],
) -> None:
    nonces = Nonces(Database(None))
    accepted: dict[tuple[str, int], int] = {}
    for did, nonce, offset in steps:  # the clock goes any way
        now = NOW + offset
        until = accepted.get((did, nonce))
        fixed = NOW + nonce * 600 + 1  # a signature's expiry does not change when it is sent again
        if fixed <= now:
            continue
        if nonces.use(did, str(nonce), until_ms=fixed, now_ms=now):
            assert until is None
            accepted[did, nonce] = fixed


def test_the_disk_is_swept(tmp_path: Path) -> None:
    database = Database(tmp_path / "records.db")
    nonces = Nonces(database)
    for number in range(300):
        assert use(nonces, f"n{number}", now=NOW + number * 2000)
    assert int(database.row("SELECT COUNT(*) FROM nonces")[0]) < 100
    assert not Nonces(database).use("a", "n0", until_ms=NOW + 1000, now_ms=NOW)


def test_on_a_full_disk_a_nonce_serves_once_all_the_same_and_is_written_down_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "records.db")
    nonces = Nonces(database, limits=replace(LIMITS, nonces_kept_max=20))

    def full(*_: object) -> None:
        raise UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    with monkeypatch.context() as patched:
        patched.setattr(database, "execute", full)
        for number in range(100):
            assert use(nonces, f"n{number}", now=NOW + 500 * number, life=2000)
            assert not use(nonces, f"n{number}", now=NOW + 500 * number, life=2000)
        assert len(nonces._unwritten) <= 41
    later = NOW + 500 * 99
    assert use(nonces, "again", now=later, life=2000)
    database.close()
    restarted = Nonces(Database(tmp_path / "records.db"))
    assert not use(restarted, "again", now=later, life=2000)
    assert not use(restarted, "n99", now=later, life=2000)
