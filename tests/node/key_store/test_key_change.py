"""Protecting and rotating the keys of a directory; broken off anywhere, a readable key is there."""

import os
import stat
from pathlib import Path

import pytest
from tests.node.key_store.test_keys import mode

from aigrid.node.key_store import key_change, key_file, keys
from aigrid.node.key_store.former_keys import FORMER_KEYS_FILE, delegated_to
from aigrid.node.key_store.key_change import pending_rotation, protect, rotate, unprotect
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.rotation import RotationBody

NOW_MS = 1_790_000_000_000


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guess costs is beside the point here."""
    cheap = key_file.Cost(operations=1, memory_bytes=8192)
    monkeypatch.setattr(key_file, "Cost", lambda *given: key_file_cost(*given) if given else cheap)


key_file_cost = key_file.Cost


class PowerFailureError(BaseException):
    """Nothing after this happens."""


def never() -> str:
    raise AssertionError("nobody was to be asked")


def code_of(call, *arguments, **named) -> Code:
    with pytest.raises(UsageError) as caught:
        call(*arguments, **named)
    return caught.value.code


def test_all_keys_are_protected_and_freed_again(tmp_path: Path) -> None:
    node, authority = keys.load_or_create_identity(tmp_path), keys.create_authority(tmp_path)
    (tmp_path / "retired-x.key").write_bytes(key_file.encode_key(Identity(bytes(32))))
    (tmp_path / "retired-x.key").chmod(0o600)
    names = ["node.key", "authority.key", "retired-x.key"]
    assert protect(tmp_path, "one", never).written == names
    for name in names:
        assert mode(tmp_path / name) == 0o600
        assert b"secretKeyMultibase" not in (tmp_path / name).read_bytes()
    assert keys.own_did(tmp_path) == node.did
    assert code_of(keys.load_or_create_identity, tmp_path) is Code.PASSPHRASE_REQUIRED
    assert code_of(keys.load_authority, tmp_path) is Code.PASSPHRASE_REQUIRED
    assert code_of(keys.load_authority, tmp_path, lambda: "two") is Code.PASSPHRASE_WRONG
    assert keys.load_or_create_identity(tmp_path, lambda: "one").seed == node.seed
    loaded = keys.load_authority(tmp_path, lambda: "one")
    assert loaded is not None
    assert loaded.seed == authority.seed
    assert unprotect(tmp_path, lambda: "one").written == names
    assert keys.load_or_create_identity(tmp_path).seed == node.seed
    assert unprotect(tmp_path, never).written == []


def test_the_key_of_a_rotation_that_was_broken_off_is_protected_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.load_or_create_identity(tmp_path)

    def fails(*_: object) -> None:
        raise PowerFailureError

    with monkeypatch.context() as patch:
        patch.setattr(key_change, "_keep_as", fails)
        with pytest.raises(PowerFailureError):
            rotate(tmp_path, never, now_ms=NOW_MS)
    assert pending_rotation(tmp_path) is not None
    assert protect(tmp_path, "one", never).written == ["node.key", "next.key"]
    assert not [p for p in tmp_path.iterdir() if b"secretKeyMultibase" in p.read_bytes()]
    assert unprotect(tmp_path, lambda: "one").written == ["node.key", "next.key"]
    _, new, _ = rotate(tmp_path, never, now_ms=NOW_MS)
    assert keys.own_did(tmp_path) == new


def test_a_key_behind_a_link_is_protected_where_it_lies(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    node = keys.load_or_create_identity(tmp_path)
    (tmp_path / "node.key").rename(elsewhere / "mine.key")
    (tmp_path / "node.key").symlink_to(elsewhere / "mine.key")
    protect(tmp_path, "one", never)
    assert (tmp_path / "node.key").is_symlink()
    assert b"secretKeyMultibase" not in (elsewhere / "mine.key").read_bytes()
    assert keys.load_or_create_identity(tmp_path, lambda: "one").seed == node.seed


def test_a_passphrase_is_changed_by_who_knows_it(tmp_path: Path) -> None:
    node = keys.load_or_create_identity(tmp_path)
    protect(tmp_path, "one", never)
    before = (tmp_path / "node.key").read_bytes()
    assert code_of(protect, tmp_path, "two", lambda: "three") is Code.PASSPHRASE_WRONG
    assert code_of(unprotect, tmp_path, lambda: "three") is Code.PASSPHRASE_WRONG
    assert (tmp_path / "node.key").read_bytes() == before
    assert protect(tmp_path, "one", never).written == []
    assert protect(tmp_path, "two", lambda: "one").written == ["node.key"]
    assert keys.load_or_create_identity(tmp_path, lambda: "two").seed == node.seed


def test_a_key_that_is_made_later_is_protected_like_the_node_s(tmp_path: Path) -> None:
    assert (
        protect(tmp_path, "one", never).written == []
    )  # made protected: never on the disk without
    assert b"secretKeyMultibase" not in (tmp_path / "node.key").read_bytes()
    authority = keys.create_authority(tmp_path, lambda: "one")
    found = keys.read_key(tmp_path / "authority.key")
    assert found is not None
    assert found.protected
    assert keys.create_authority(tmp_path, lambda: "one").did == authority.did
    assert keys.retire_authority(tmp_path) is not None  # nobody is asked for that


@pytest.mark.parametrize("writes", range(3))
def test_protection_broken_off_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    node, authority = keys.load_or_create_identity(tmp_path), keys.create_authority(tmp_path)
    with monkeypatch.context() as patched:
        fail_after(patched, writes)
        try:
            protect(tmp_path, "one", never)
        except PowerFailureError:
            assert writes < 2
    for name, identity in (("node.key", node), ("authority.key", authority)):
        found = keys.read_key(tmp_path / name)
        assert found is not None
        assert found.open("one").seed == identity.seed
    protect(tmp_path, "one", never)
    found = keys.read_key(tmp_path / "authority.key")
    assert found is not None
    assert found.protected


def fail_after(patched: pytest.MonkeyPatch, writes: int) -> None:
    left = [writes]

    def counted(function):
        def call(*arguments, **named):
            if not left[0]:
                raise PowerFailureError
            left[0] -= 1
            return function(*arguments, **named)

        return call

    for where, name in ((Path, "replace"), (os, "link")):
        patched.setattr(where, name, counted(getattr(where, name)))


@pytest.mark.parametrize("passphrase", [None, "one"])
def test_a_node_gets_a_new_key_and_keeps_the_old_one(
    tmp_path: Path, passphrase: str | None
) -> None:
    old = keys.create_identity(tmp_path, passphrase)
    before = (tmp_path / "node.key").read_bytes()
    source = never if passphrase is None else lambda: passphrase
    retired, new, _ = rotate(tmp_path, source, now_ms=NOW_MS)
    assert retired == old.did
    loaded = keys.load_or_create_identity(tmp_path, source)
    assert loaded.did == new != old.did
    found = keys.read_key(tmp_path / "node.key")
    assert found is not None
    assert found.protected is (passphrase is not None)
    kept = tmp_path / keys.retired_name(old.did)
    assert kept.read_bytes() == before
    assert mode(kept) == stat.S_IMODE(0o600)
    rotation = pending_rotation(tmp_path)
    assert rotation is not None
    assert (rotation.issuer, rotation.valid_from_ms) == (old.did, NOW_MS)
    assert isinstance(rotation.body, RotationBody)
    assert rotation.body.successor == new
    assert not (tmp_path / key_change.NEXT_KEY_FILE).exists()
    assert code_of(rotate, tmp_path, source, now_ms=NOW_MS) is Code.USAGE  # it waits
    keys.clear_pending_rotation(tmp_path)
    later_ms = NOW_MS + LIMITS.rotation_interval_seconds * 1000
    assert code_of(rotate, tmp_path, source, now_ms=later_ms - 1) is Code.RATE_LIMITED
    assert rotate(tmp_path, source, now_ms=later_ms)[0] == new


def test_on_the_founder_s_node_a_key_may_be_changed_at_once(tmp_path: Path) -> None:
    keys.load_or_create_identity(tmp_path)
    keys.create_authority(tmp_path)
    for _ in range(2):
        rotate(tmp_path, never, now_ms=NOW_MS)
        keys.clear_pending_rotation(tmp_path)


@pytest.mark.parametrize("passphrase", [None, "one"])
def test_every_key_that_was_retired_lets_the_one_in_use_sign_its_status_list(
    tmp_path: Path, passphrase: str | None
) -> None:
    first = keys.create_identity(tmp_path, passphrase)
    source = never if passphrase is None else lambda: passphrase
    times = [NOW_MS + n * LIMITS.rotation_interval_seconds * 1000 for n in range(3)]
    retired = []
    for now_ms in times:
        old, new, _ = rotate(tmp_path, source, now_ms=now_ms)
        keys.clear_pending_rotation(tmp_path)
        retired.append(old)
        assert {one.issuer for one in delegated_to(tmp_path, new)} == set(retired)
    ends = {one.issuer: one.valid_until_ms for one in delegated_to(tmp_path, new)}
    assert ends[first.did] == NOW_MS + LIMITS.status_delegation_ttl_seconds * 1000
    assert delegated_to(tmp_path, first.did) == []
    (tmp_path / keys.retired_name(first.did)).unlink()  # what is not kept has no say
    last, new, _ = rotate(tmp_path, source, now_ms=times[-1] + 3_600_000)
    assert {one.issuer for one in delegated_to(tmp_path, new)} == {*retired[1:], last}


def test_a_retired_key_changes_its_passphrase_with_the_one_in_use(tmp_path: Path) -> None:
    first = keys.create_identity(tmp_path, "one")
    hour_ms = LIMITS.rotation_interval_seconds * 1000
    second = rotate(tmp_path, lambda: "one", now_ms=NOW_MS).new
    keys.clear_pending_rotation(tmp_path)
    retired = keys.retired_name(first.did)
    assert protect(tmp_path, "two", lambda: "one") == (["node.key", retired], [])
    _, third, left = rotate(tmp_path, lambda: "two", now_ms=NOW_MS + hour_ms)
    keys.clear_pending_rotation(tmp_path)
    assert left == []
    assert {one.issuer for one in delegated_to(tmp_path, third)} == {first.did, second}
    freed = ["node.key", *sorted([retired, keys.retired_name(second)])]
    assert unprotect(tmp_path, lambda: "two") == (freed, [])
    assert not rotate(tmp_path, never, now_ms=NOW_MS + 2 * hour_ms).left


def test_a_retired_key_under_another_passphrase_is_named(tmp_path: Path) -> None:
    first = keys.create_identity(tmp_path, "one")
    rotate(tmp_path, lambda: "one", now_ms=NOW_MS)
    keys.clear_pending_rotation(tmp_path)
    retired = keys.retired_name(first.did)
    (tmp_path / retired).write_bytes(key_file.encode_protected(first, "forgotten", bytes))
    before = (tmp_path / retired).read_bytes()
    assert protect(tmp_path, "two", lambda: "one") == (["node.key"], [retired])
    assert protect(tmp_path, "two", lambda: "one") == ([], [retired])
    assert unprotect(tmp_path, lambda: "two") == (["node.key"], [retired])
    assert (tmp_path / retired).read_bytes() == before
    later_ms = NOW_MS + LIMITS.rotation_interval_seconds * 1000
    assert rotate(tmp_path, never, now_ms=later_ms).left == [first.did]
    assert protect(tmp_path, "two", lambda: "forgotten").left == []


@pytest.mark.parametrize("writes", range(6))
def test_a_rotation_broken_off_leaves_one_key_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    old = keys.load_or_create_identity(tmp_path)
    with monkeypatch.context() as patched:
        fail_after(patched, writes)
        try:
            rotate(tmp_path, never, now_ms=NOW_MS)
        except PowerFailureError:
            assert writes < 5
    now = keys.load_or_create_identity(tmp_path)
    if writes < 5:
        assert now.did == old.did
        retired, new, _ = rotate(tmp_path, never, now_ms=NOW_MS + 1)
        assert (retired, keys.own_did(tmp_path)) == (old.did, new)
    rotation = pending_rotation(tmp_path)
    assert rotation is not None
    assert isinstance(rotation.body, RotationBody)
    assert rotation.body.successor == keys.own_did(tmp_path)
    kept = key_file.decode_key((tmp_path / keys.retired_name(old.did)).read_bytes())
    assert kept is not None
    assert kept.seed == old.seed


def test_there_has_to_be_a_key(tmp_path: Path) -> None:
    assert code_of(rotate, tmp_path, never, now_ms=NOW_MS) is Code.USAGE


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100_000])
def test_whatever_else_is_in_the_file_is_no_rotation(tmp_path: Path, content: bytes) -> None:
    keys.write_private(tmp_path / keys.ROTATION_FILE, content)
    keys.write_private(tmp_path / FORMER_KEYS_FILE, content)
    assert pending_rotation(tmp_path) is None
    keys.load_or_create_identity(tmp_path)
    assert rotate(tmp_path, never, now_ms=NOW_MS)
