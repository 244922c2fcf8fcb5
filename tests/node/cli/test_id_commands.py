"""What commands about keys say of retired ones that do not open."""

from pathlib import Path

import pytest

from aigrid.node.cli import id_commands
from aigrid.node.cli.entry import run
from aigrid.node.cli.session import now_ms
from aigrid.node.key_store import key_file, keys
from aigrid.protocol.limits import LIMITS

CHEAP = key_file.Cost(operations=1, memory_bytes=8192)


def test_retired_keys_that_do_not_open_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = key_file.Cost
    monkeypatch.setattr(key_file, "Cost", lambda *given: cost(*given) if given else CHEAP)
    here, one, two = tmp_path / "d", tmp_path / "one", tmp_path / "two"
    one.write_text("one\n")
    two.write_text("two\n")

    def told(*words: str) -> str:
        assert run(["--data-dir", str(here), "id", *words]) == 0
        return capsys.readouterr().err

    first = keys.create_identity(here, "one").did
    told("rotate", "--passphrase-file", str(one))
    keys.clear_pending_rotation(here)
    retired = here / keys.retired_name(first)
    before = retired.read_bytes()
    changed = ("protect", "--passphrase-file", str(two), "--old-passphrase-file", str(one))
    assert retired.name not in told(*changed)
    retired.write_bytes(before)
    assert retired.name in told("unprotect", "--passphrase-file", str(two))
    assert retired.read_bytes() == before
    monkeypatch.setattr(
        id_commands, "now_ms", lambda: now_ms() + LIMITS.rotation_interval_seconds * 1000
    )
    assert f"cannot revoke what {first} issued: {retired.name}" in told("rotate")
