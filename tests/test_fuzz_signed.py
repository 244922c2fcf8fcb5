"""The fuzzer sees that something was accepted which nobody signed, or for too long."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from scripts.fuzzing import peers
from scripts.fuzzing.table import target_of
from scripts.fuzzing.target import execute, input_of

from aigrid.protocol import chain, membership, presentation, record, rotation
from aigrid.protocol.chunks import FileChunks, read_chunk_list
from aigrid.protocol.kinds import KINDS

SEED, EXECUTIONS, SOUND_EXECUTIONS = 7, 1000, 1500
RECORDS = ("signed-records", "joining-records", "presentations", "chains", "invitations")
Plant = Callable[[pytest.MonkeyPatch], None]


def _unsigned(patch: pytest.MonkeyPatch) -> None:
    for module in (record, presentation):
        patch.setattr(module, "verify_signature", lambda *_: True)


def _disagreed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rotation, "verify_signature", lambda *_: True)


def _long(patch: pytest.MonkeyPatch) -> None:
    for kind, rule in KINDS.items():
        patch.setitem(KINDS, kind, replace(rule, ttl_seconds=10**9))


def _whenever(patch: pytest.MonkeyPatch) -> None:
    for module in (chain, membership):
        patch.setattr(module, "check_time", lambda *_: None)


def _for_anything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(presentation, "check", lambda *_, **__: None)


def _any_list(raw: bytes, *, file_bytes: int, sha256: str) -> FileChunks:
    own = hashlib.sha256(raw).hexdigest()
    return read_chunk_list(raw, file_bytes=file_bytes, sha256=own if sha256 else "")


def _unhashed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(peers, "read_chunk_list", _any_list)


CASES: tuple[tuple[Plant, tuple[str, ...], str], ...] = (
    (_unsigned, ("records", *RECORDS), "accepted what nobody signed"),
    (_disagreed, ("signed-records", "joining-records"), "a rotation that nobody agreed to"),
    (_long, RECORDS, "valid for too long"),
    (_whenever, ("joining-records", "chains"), "accepted (before it is valid|after its end)"),
    (_for_anything, ("presentations",), "valid for too long|accepted (before|after)"),
    (_unhashed, ("chunk-lists",), "accepted a list that nobody named"),
)


def _found(name: str, executions: int) -> BaseException | None:
    target = target_of(name)
    make = partial(input_of, target, target.inputs(), SEED)
    wrong = (execute(target, make(index)) for index in range(executions))
    return next((one for one in wrong if one is not None), None)


@pytest.mark.parametrize(
    ("plant", "name", "said"),
    [
        pytest.param(plant, name, said, id=f"{plant.__name__[1:]}-{name}")
        for plant, names, said in CASES
        for name in names
    ],
)
def test_a_check_that_is_missing_is_found(
    plant: Plant, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_of(name).inputs()  # what the seeds say is noted by code that is sound
    membership._renewed.cache_clear()
    plant(monkeypatch)
    found = _found(name, EXECUTIONS)
    membership._renewed.cache_clear()
    with pytest.raises(AssertionError, match=said):
        raise found or LookupError("nothing was found")


@pytest.mark.parametrize("name", ["records", *RECORDS, "chunk-lists"])
def test_sound_code_accepts_nothing_that_nobody_signed(name: str) -> None:
    assert _found(name, SOUND_EXECUTIONS) is None
