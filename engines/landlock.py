"""Landlock, the kernel's own rules for one process and its children, by its three system calls.

Source of numbers and structures: the kernel's documentation, "Landlock: unprivileged access
control" (linux/landlock.h). A right that the running kernel does not know is left out, so the same
rules hold as far as each kernel can hold them. Nothing here can be undone, and it binds only the
thread that calls and those it starts: call it while there is one.
"""

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture but alpha
_VERSION: Final = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_SCOPES: Final = 3  # abstract Unix sockets, and signals to processes outside

READ_FILE, READ_DIR = 1 << 2, 1 << 3
READ: Final = READ_FILE | READ_DIR
WRITE: Final = (
    1 << 1  # write to a file
    | 1 << 4  # remove a directory
    | 1 << 5  # remove a file
    | 1 << 7  # make a directory
    | 1 << 8  # make a file
    | 1 << 13  # move between directories, since version 2
    | 1 << 14  # truncate, since version 3
)
"""To have files and directories; sockets, pipes, links and devices are made by nobody."""

DEVICE: Final = READ | 1 << 1 | 1 << 15  # read, write, and since version 5 control
_OF_FILES: Final = 1 << 0 | 1 << 1 | READ_FILE | 1 << 14 | 1 << 15

BIND, CONNECT = 1 << 0, 1 << 1
NETWORK_VERSION: Final = 4
"""The first that knows TCP."""


def version() -> int:
    """What the running kernel offers; 0 for nothing."""
    if sys.platform != "linux":
        return 0
    try:
        return max(0, _call(_CREATE_RULESET, None, 0, _VERSION))
    except OSError:
        return 0


def known_rights(abi: int) -> int:
    """Every right to files that a version knows, as bits."""
    if abi >= 5:
        return (1 << 16) - 1
    return (1 << {1: 13, 2: 14}.get(abi, 15)) - 1


def restrict(
    rules: Iterable[tuple[Path, int]], *, abi: int, connect: Collection[int] | None = ()
) -> None:
    """From now on nothing but `rules` (path -> rights): no other file, no program, no TCP.

    What does not exist is left out. `connect` names the ports that TCP may go out to, anywhere;
    None is all of them. The caller has given up new privileges before.

    Raises:
        OSError: the kernel refuses; nothing is restricted then.
    """
    known = known_rights(abi)
    network = BIND | (0 if connect is None else CONNECT)
    attributes = struct.pack("=Q", known)
    if abi >= NETWORK_VERSION:
        attributes += struct.pack("=Q", network)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & known)
        for port in (connect or ()) if abi >= NETWORK_VERSION else ():
            _call(_ADD_RULE, ruleset, _NET_PORT, struct.pack("=QQ", CONNECT, port), 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return
        raise
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
