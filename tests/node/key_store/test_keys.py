import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aigrid.node.key_store import key_file, keys
from aigrid.protocol.errors import Code, UsageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "d"
    before = os.umask(0)
    try:
        made = keys.load_or_create_identity(data_dir)
    finally:
        os.umask(before)
    assert keys.load_or_create_identity(data_dir).did == made.did
    assert mode(data_dir) == 0o700
    assert mode(data_dir / "node.key") == 0o600
    assert [path.name for path in data_dir.iterdir()] == ["node.key"]


def test_racing_callers_get_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: keys.load_or_create_identity(tmp_path).did, range(16)))
    assert len(made) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"type": "Multikey"}', b"x" * 9999]
)
def test_a_damaged_key_file_is_reported_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    keys.write_private(path, content)
    with pytest.raises(UsageError) as caught:
        keys.load_or_create_identity(tmp_path)
    assert caught.value.code is Code.KEY_FILE_CORRUPT
    assert str(path) in caught.value.message
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys.load_or_create_identity(tmp_path)
    (tmp_path / "node.key").chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600") as caught:
        keys.load_or_create_identity(tmp_path)
    assert caught.value.info.exit == 2


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/aigrid"])
def test_an_unusable_directory_is_one_sentence(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    for use in (keys.load_or_create_identity, keys.open_data_directory, keys.create_authority):
        with pytest.raises(UsageError) as caught:
            use(tmp_path / where)
        assert caught.value.code is Code.DATA_DIRECTORY_UNUSABLE
        assert "\n" not in caught.value.message


def test_the_authority_is_apart_and_retired_without_loss(tmp_path: Path) -> None:
    assert keys.load_authority(tmp_path) is None
    assert keys.retire_authority(tmp_path) is None
    authority = keys.create_authority(tmp_path)
    assert keys.create_authority(tmp_path).did == authority.did
    assert keys.load_or_create_identity(tmp_path).did != authority.did
    retired = keys.retire_authority(tmp_path)
    assert retired is not None
    assert keys.load_authority(tmp_path) is None
    kept = key_file.decode_key(retired.read_bytes())
    assert kept is not None
    assert kept.seed == authority.seed
    assert keys.create_authority(tmp_path).did != authority.did


def test_one_node_at_a_time(tmp_path: Path) -> None:
    with keys.data_directory_lock(tmp_path):
        with pytest.raises(UsageError) as caught, keys.data_directory_lock(tmp_path):
            pass
        assert caught.value.code is Code.ALREADY_RUNNING
    with keys.data_directory_lock(tmp_path):
        pass


def test_the_lock_of_a_killed_node_is_free(tmp_path: Path) -> None:
    holding = (
        "import sys, pathlib; from aigrid.node.key_store.keys import data_directory_lock\n"
        "with data_directory_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-P", "-c", holding, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError), keys.data_directory_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with keys.data_directory_lock(tmp_path):
        pass


def test_a_pending_invitation_is_kept_and_cleared(tmp_path: Path) -> None:
    assert keys.load_pending_invitation(tmp_path) is None
    keys.store_pending_invitation(tmp_path, "first")
    keys.store_pending_invitation(tmp_path, "second")
    assert keys.load_pending_invitation(tmp_path) == "second"
    assert mode(tmp_path / "pending-invitation") == 0o600
    keys.clear_pending_invitation(tmp_path)
    keys.clear_pending_invitation(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []
