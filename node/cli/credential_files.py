"""Credentials in files: one JSON object on each line, the grant first."""

import sys
from pathlib import Path

from aigrid.node.cli.session import read_limited
from aigrid.node.settings.setting import of_user
from aigrid.protocol.errors import UsageError
from aigrid.protocol.limits import LIMITS

_MAX_BYTES = LIMITS.chain_max * (LIMITS.record_max_bytes + 2)


def read_credentials(path: Path) -> list[str]:
    """The lines of a file, or of standard input for `-`. Raises UsageError."""
    if str(path) == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    else:
        data = read_limited(of_user(path), _MAX_BYTES)
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} is too large for a chain of {LIMITS.chain_max} credentials")
    try:
        lines = [line.strip() for line in data.decode("utf-8").split("\n")]
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None
    found = [line for line in lines if line]
    if not found:
        raise UsageError(f"{path} holds no credential: it has one JSON object on each line")
    if len(found) > LIMITS.chain_max:
        raise UsageError(
            f"{path} has more than {LIMITS.chain_max} lines: a chain is one credential on each line"
        )
    return found


def write_credentials(path: Path, chain: list[str]) -> None:
    """They are no secret: only the holder's key makes use of them. Raises UsageError."""
    try:
        of_user(path).write_text("".join(f"{one}\n" for one in chain), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
