"""Chunks: one list for each file, however its bytes come, and nothing else passes for it."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.protocol.chunks import (
    DIGEST_BYTES,
    ChunkHasher,
    Part,
    chunk_bytes,
    chunk_count,
    part_hash,
    read_chunk_list,
)
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.limits import LIMITS, MIB

SIZES = st.integers(0, LIMITS.chunk_max_bytes * LIMITS.chunks_max)
SIZE = 2 * MIB + 12345
DATA = hashlib.shake_256(b"weights").digest(SIZE)


def list_of(data, cuts=()):
    hasher = ChunkHasher(len(data))
    for start, end in itertools.pairwise((0, *sorted(cuts), len(data))):
        hasher.add(data[start:end])
    return hasher.end()


@given(SIZES)
def test_the_size_of_chunks_is_the_smallest_that_gives_few_enough(size):
    each = chunk_bytes(size)
    assert LIMITS.chunk_min_bytes <= each <= LIMITS.chunk_max_bytes
    assert each.bit_count() == 1
    assert chunk_count(size) <= LIMITS.chunks_max
    if each < LIMITS.chunk_max_bytes:
        assert chunk_count(size) <= LIMITS.chunks_wanted
    if each > LIMITS.chunk_min_bytes:
        assert size > LIMITS.chunks_wanted * each // 2


@given(st.integers(min_value=1))
def test_a_file_of_too_many_chunks_is_not_given_away(more):
    with pytest.raises(VerificationError):
        chunk_bytes(LIMITS.chunk_max_bytes * LIMITS.chunks_max + more)


@given(st.lists(st.integers(0, SIZE), max_size=5))
def test_a_file_has_one_list_however_its_bytes_come(cuts):
    raw = list_of(DATA, cuts)
    chunks = [DATA[at : at + MIB] for at in range(0, SIZE, MIB)]
    assert raw == b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


def test_the_end_may_be_asked_for_twice():
    hasher = ChunkHasher(3)
    hasher.add(b"abc")
    assert hasher.end() == hasher.end() == hashlib.sha256(b"abc").digest()


def test_an_empty_file_has_an_empty_list():
    nothing = hashlib.sha256(b"").hexdigest()
    assert list_of(b"") == b""
    assert read_chunk_list(b"", file_bytes=0, sha256=nothing).digests == ()


def test_chunks_are_held_to_their_list():
    raw = list_of(DATA)
    chunks = read_chunk_list(raw, file_bytes=SIZE, sha256=hashlib.sha256(raw).hexdigest())
    assert chunks.raw == raw
    assert [chunks.length(number) for number in range(3)] == [MIB, MIB, 12345]
    for number in range(3):
        data = DATA[number * MIB :][: chunks.length(number)]
        assert chunks.holds(number, data)
        assert not chunks.holds(number, data[:-1])
        assert not chunks.holds(number, data + b"x")
        assert not chunks.holds((number + 1) % 3, data)
        assert not chunks.holds(number, bytes([data[0] ^ 1]) + data[1:])


@given(st.binary(max_size=4 * DIGEST_BYTES))
def test_another_list_is_refused(other):
    raw = list_of(DATA)
    with pytest.raises(VerificationError) as caught:
        read_chunk_list(other, file_bytes=SIZE, sha256=hashlib.sha256(raw).hexdigest())
    assert caught.value.code is Code.HASH_MISMATCH


PARTS = st.builds(
    Part,
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.integers(0, LIMITS.chunks_max),
    st.integers(0, LIMITS.chunks_asked_max),
)


@given(PARTS, PARTS, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_presentation_is_bound_to_one_part(one, other, salt, pepper):
    assert (part_hash(salt, one) == part_hash(salt, other)) == (one == other)
    assert (part_hash(salt, one) == part_hash(pepper, one)) == (salt == pepper)
