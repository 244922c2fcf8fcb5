"""Keys are random, shown once, and only their hashes are kept."""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.database import Database
from aigrid.node.policy.api_keys import ApiKeys
from aigrid.node.policy.limits import ActorLimits, Usage
from aigrid.protocol.errors import AigridError, Code, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

NOW = 1_700_000_000_000
DID = Identity(bytes(32)).did


def keys_of(path: Path | None = None) -> ApiKeys:
    return ApiKeys(Database(path), random_bytes=os.urandom)


def test_a_key_is_256_random_bits_in_base64url() -> None:
    asked: list[int] = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return bytes([251]) * size

    _, key = ApiKeys(Database(None), random_bytes=random_bytes).create(
        "a", ActorLimits(), now_ms=NOW
    )
    assert 32 in asked
    assert key == "aigrid-" + "-_v7" * 10 + "-_s"


def test_only_the_hash_is_in_the_database(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    database = Database(path)
    _, key = ApiKeys(database, random_bytes=os.urandom).create("a", ActorLimits(), now_ms=NOW)
    (row,) = database.rows("SELECT * FROM actors")
    assert hashlib.sha256(key.encode()).digest() in row
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key.encode() not in files
    assert key.removeprefix("aigrid-").encode() not in files
    assert hashlib.sha256(key.encode()).digest() in files


def test_keys_outlive_the_process_and_their_limits_with_them(tmp_path: Path) -> None:
    limits = ActorLimits(requests_per_minute=3, models=("tiny",))
    made, key = keys_of(tmp_path / "db").create("a", limits, expires_ms=NOW + 5, now_ms=NOW)
    keys = keys_of(tmp_path / "db")
    assert keys.by_key(key, NOW) == made
    assert made.limits == limits
    assert keys.by_key(key, NOW + 5) is None
    keys.keep_usage(made, Usage(day=7, day_tokens=40))
    assert keys_of(tmp_path / "db").usage(made) == Usage(day=7, day_tokens=40)


def test_a_revoked_key_is_gone_at_once_and_for_good(tmp_path: Path) -> None:
    keys = keys_of(tmp_path / "db")
    made, key = keys.create("a", ActorLimits(), now_ms=NOW)
    other, others = keys.create("b", ActorLimits(), now_ms=NOW)
    assert keys.revoke(made.id) == made
    for again in (keys, keys_of(tmp_path / "db")):
        assert again.by_key(key, NOW) is None
        assert again.by_key(others, NOW) == other
        assert again.all() == (other,)
    assert not keys.holds(made)
    with pytest.raises(AigridError) as caught:
        keys.revoke(made.id)
    assert caught.value.code is Code.NOT_FOUND
    assert keys.revoke("b") == other
    keys.create("a", ActorLimits(), now_ms=NOW)


def test_a_revocation_outlives_a_power_failure(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    keys = ApiKeys(database, random_bytes=os.urandom)
    keys.create("a", ActorLimits(), now_ms=NOW)
    said: list[str] = []
    database._connection.set_trace_callback(said.append)
    keys.revoke("a")
    assert [line.split(" WHERE")[0] for line in said] == [
        "PRAGMA synchronous = FULL",
        "DELETE FROM actors",
        "PRAGMA synchronous = NORMAL",
    ]


def test_a_key_that_leaked_is_revoked_by_itself_and_never_repeated() -> None:
    keys = keys_of()
    made, key = keys.create("a", ActorLimits(), now_ms=NOW)
    assert keys.revoke(key) == made
    for wrong in (key, "aigrid-nonsense"):
        with pytest.raises(AigridError) as caught:
            keys.revoke(wrong)
        assert caught.value.code is Code.NOT_FOUND
        assert wrong not in caught.value.message


def test_a_did_stands_for_its_actor() -> None:
    keys = keys_of()
    made, key = keys.create("a", ActorLimits(), did=DID, expires_ms=NOW + 1, now_ms=NOW)
    assert key == ""
    assert keys.by_did(DID, NOW) == made
    assert keys.by_did(DID, NOW + 1) is None
    assert keys.by_did("", NOW) is None
    keys.revoke("a")
    assert keys.by_did(DID, NOW) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "aigrid-" + "A" * 43},
        {"name": "operator"},
        {"name": "loopback"},
        {"name": "x" * 65},
        {"name": "taken"},
        {"name": "new", "did": "did:web:example.org"},
        {"name": "new", "did": DID},
        {"name": "new", "expires_ms": NOW},
        {"name": "new", "expires_ms": 253_402_300_800_000},
        {"name": "new", "expires_ms": 2**70},
    ],
)
def test_what_cannot_be_is_a_sentence(wrong: dict[str, Any]) -> None:
    keys = keys_of()
    keys.create("taken", ActorLimits(), did=DID, now_ms=NOW)
    with pytest.raises(UsageError):
        keys.create(wrong.pop("name"), ActorLimits(), now_ms=NOW, **wrong)
    assert len(keys.all()) == 1


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = keys_of()
    for number in range(LIMITS.actors_max):
        keys.create(f"a{number}", ActorLimits(), now_ms=NOW)
    with pytest.raises(AigridError) as caught:
        keys.create("more", ActorLimits(), now_ms=NOW)
    assert caught.value.code is Code.OVER_QUOTA


KEYS = keys_of()
MADE, KEY = KEYS.create("a", ActorLimits(), now_ms=NOW)


@given(st.one_of(st.text(max_size=80), st.from_regex(r"aigrid-[A-Za-z0-9_-]{43}", fullmatch=True)))
def test_no_other_text_is_a_key(text: str) -> None:
    assert KEYS.by_key(text, NOW) is None or text == KEY


@given(st.integers(0, len(KEY) - 1), st.characters(codec="ascii"))
def test_no_changed_key_is_one(place: int, letter: str) -> None:
    changed = KEY[:place] + letter + KEY[place + 1 :]
    assert KEYS.by_key(changed, NOW) == (MADE if changed == KEY else None)


def test_equality_is_decided_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key of the right form goes through the one comparison, over digests of one length."""
    compared: list[tuple[int, int]] = []
    original = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return original(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert KEYS.by_key(KEY, NOW) == MADE
    assert KEYS.by_key("aigrid-" + "A" * 43, NOW) is None
    assert compared == [(32, 32), (32, 32)]
