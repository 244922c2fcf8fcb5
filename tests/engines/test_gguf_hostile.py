"""A GGUF from a stranger is read or refused with a type; it never makes the reader do more."""

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.gguf_writer import (
    ARRAY,
    BOOL,
    STRING,
    TYPES,
    U8,
    U64,
    Gguf,
    Tensor,
    text,
    tiny_llama,
)

from aigrid.engines import gguf
from aigrid.engines.llama import read_config
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

WHOLE = tiny_llama("Q4_1").build()
BODY = bytes(128)


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, count) + body


def one(
    dims: tuple[int, ...] = (32,),
    kind: int = TYPES["F32"],
    offset: int | None = None,
    data: bytes = BODY,
) -> Gguf:
    return Gguf(tensors=[Tensor("w", dims, kind, data, offset)])


HOSTILE = {
    "empty": b"",
    "another magic": Gguf(magic=b"GGML").build(),
    "only the magic": b"GGUF",
    "no counts": b"GGUF" + struct.pack("<I", 3),
    "huge tensor count": Gguf(tensor_count=2**63).build(),
    "huge key count": Gguf(key_count=2**64 - 1).build(),
    "more tensors than there are": Gguf(tensor_count=7).build(),
    "more keys than there are": Gguf(key_count=7).build(),
    "a string beyond the end": Gguf({"k": struct.pack("<IQ", STRING, 10**6)}).build(),
    "a string of all memory": Gguf({"k": struct.pack("<IQ", STRING, 2**64 - 1)}).build(),
    "a key beyond the end": Gguf(key_count=1, extra_keys=struct.pack("<Q", 2**40)).build(),
    "a long key": Gguf({"k" * 2000: 1}).build(),
    "a key that is no text": Gguf(
        key_count=1, extra_keys=text(b"\xff\xfe") + struct.pack("<IB", U8, 1)
    ).build(),
    "a value that is no text": Gguf({"k": struct.pack("<I", STRING) + text(b"\xc3")}).build(),
    "a key twice": Gguf(
        {"k": 1}, key_count=2, extra_keys=text("k") + struct.pack("<IB", U8, 1)
    ).build(),
    "an unknown type of value": Gguf({"k": struct.pack("<IQ", 13, 0)}).build(),
    "a boolean of 7": Gguf({"k": struct.pack("<IB", BOOL, 7)}).build(),
    "an array beyond the end": Gguf({"k": array(U64, 1000)}).build(),
    "an array of all memory": Gguf({"k": array(U64, 2**61)}).build(),
    "strings beyond the end": Gguf({"k": array(STRING, 10**6)}).build(),
    "an array of unknown type": Gguf({"k": array(99, 1, b"\0")}).build(),
    "an array of arrays": Gguf({"k": array(ARRAY, 1, array(U8, 0))}).build(),
    "arrays that add up": Gguf({f"k{i}": array(U8, 2**20, bytes(2**20)) for i in range(5)}).build(),
    "no dimensions, and a name of bytes that are no letters": Gguf(
        tensors=[Tensor("\1" * 1000, (), 0, b"", 0)]
    ).build(),
    "no dimensions": one(dims=()).build(),
    "many dimensions": one(dims=(1,) * 5).build(),
    "an unreadable rank": one(dims=(1,) * 2000).build(),
    "a dimension of 0": one(dims=(32, 0)).build(),
    "dimensions that overflow": one(dims=(2**62, 2**62)).build(),
    "a negative dimension": one(dims=(2**64 - 32,)).build(),
    "a broken block": one(dims=(33,), kind=TYPES["Q4_0"]).build(),
    "a body that is cut off": one().build()[:-1],
    "an offset beyond the end": one(offset=1 << 40).build(),
    "a negative offset": one(offset=2**64 - 32).build(),
    "an offset between": one(offset=1, data=bytes(256)).build(),
    "a tensor twice": Gguf(
        tensors=[Tensor("w", (32,), 0, BODY), Tensor("w", (32,), 0, BODY)]
    ).build(),
    "tensors that overlap": Gguf(
        tensors=[Tensor("a", (32,), 0, BODY), Tensor("b", (32,), 0, BODY, 96)]
    ).build(),
    "tensors in one place": Gguf(
        tensors=[Tensor("a", (32,), 0, BODY), Tensor("b", (32,), 0, BODY, 0)]
    ).build(),
    "an alignment of 0": Gguf({"general.alignment": 0}).build(),
    "an alignment of 12": Gguf({"general.alignment": 12}).build(),
    "a huge alignment": Gguf({"general.alignment": 1 << 31}).build(),
    "an alignment in words": Gguf({"general.alignment": "32"}).build(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_unsafe(name: str) -> None:
    with pytest.raises(EngineError) as caught:
        gguf.parse(HOSTILE[name])
    assert caught.value.code == Code.UNSAFE_FILE
    assert len(caught.value.message) <= LIMITS.error_message_max_chars


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Gguf(version=1).build(), Code.UNSUPPORTED_MODEL),
        (Gguf(version=0x03000000).build(), Code.UNSUPPORTED_MODEL),
        (one(kind=4).build(), Code.UNSUPPORTED_QUANTISATION),
        (one(kind=2**32 - 1).build(), Code.UNSUPPORTED_QUANTISATION),
    ],
)
def test_what_is_only_unknown_is_unsupported(data: bytes, code: Code) -> None:
    with pytest.raises(EngineError) as caught:
        gguf.parse(data)
    assert caught.value.code == code


def test_every_truncation_is_unsafe() -> None:
    header = len(WHOLE) - len(WHOLE.partition(b"output_norm.weight")[2])
    for size in [*range(0, header, 97), header, len(WHOLE) // 2, len(WHOLE) - 1]:
        with pytest.raises(EngineError) as caught:
            gguf.parse(WHOLE[:size])
        assert caught.value.code == Code.UNSAFE_FILE


def test_a_promise_of_all_memory_allocates_none() -> None:
    tracemalloc.start()
    try:
        for name in ("an array of all memory", "a string of all memory", "strings beyond the end"):
            with pytest.raises(EngineError):
                gguf.parse(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_raise_nothing_else(data: bytes, begun: bool) -> None:
    try:
        gguf.parse(b"GGUF" + struct.pack("<I", 3) + data if begun else data)
    except EngineError:
        pass


@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_changed_file_raises_nothing_else(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, byte in changes:
        data[place] = byte
    try:
        read_config(gguf.parse(data))
    except EngineError:
        pass


def test_an_honest_header_is_read() -> None:
    model = gguf.parse(WHOLE)
    assert model.text("general.architecture") == "llama"
    assert model.number("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    assert model.tensors["blk.0.ffn_down.weight"].dims == (96, 64)
    assert read_config(model).tied


def test_older_and_aligned_files_are_read() -> None:
    tensors = [Tensor("w", (4, 2), TYPES["F32"], struct.pack("<8f", *range(8)))]
    data = Gguf({"general.alignment": 64}, tensors, version=2, alignment=64).build()
    tensor = gguf.parse(data).tensors["w"]
    assert tensor.offset % 64 == 0
    assert struct.unpack_from("<8f", data, tensor.offset) == tuple(range(8))


def test_no_file_and_an_empty_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        gguf.map_file(tmp_path / "none.gguf")
    assert caught.value.code == Code.MODEL_FILE_MISSING
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(EngineError) as caught:
        gguf.map_file(tmp_path / "empty.gguf")
    assert caught.value.code == Code.UNSAFE_FILE
