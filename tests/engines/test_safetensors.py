"""Safetensors from a stranger are read as the format's own library reads them, or refused."""

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aigrid.engines import safetensors
from aigrid.engines.formats import inspect
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape: Any = (2,), dtype: Any = "F32", offsets: Any = (0, 8), **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def made(data: bytes = bytes(8), **entries: Any) -> bytes:
    return raw(json.dumps(entries).encode(), data)


TWICE = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":%s}'
HOSTILE = {
    "empty": b"",
    "half a length": b"\x08\x00",
    "a header of all memory": raw(b"{}", length=2**64 - 1),
    "a header beyond the end": raw(b"{}", length=3),
    "a header that is too long": raw(b"{" + b" " * LIMITS.safetensors_header_max_bytes + b"}"),
    "no object": raw(b"[]"),
    "white space before the object": raw(b" {}"),
    "no JSON": raw(b"{,}"),
    "cut off": raw(b'{"w":'),
    "something after the object": raw(b"{}{}"),
    "no UTF-8": raw(b'{"\xff\xfe":0}'),
    "nesting": raw(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "objects in objects": raw(b'{"w":' * 5000 + b"0" + b"}" * 5000),
    "too many tensors": raw(
        b"{"
        + b",".join(
            b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n
            for n in range(LIMITS.safetensors_tensors_max + 2)
        )
        + b"}"
    ),
    "a tensor that is a number": made(w=1),
    "no shape": raw(b'{"w":{"dtype":"F32","data_offsets":[0,8]}}', bytes(8)),
    "an unknown field": made(w=entry(code="os.system")),
    "one offset": made(w=entry(offsets=[8])),
    "three offsets": made(w=entry(offsets=[0, 8, 8])),
    "a negative offset": made(w=entry(offsets=[-8, 0])),
    "offsets that are floats": made(w=entry(offsets=[0.0, 8.5])),
    "offsets the wrong way": made(w=entry(offsets=[8, 0])),
    "data beyond the end": made(w=entry(offsets=[0, 8]), data=bytes(7)),
    "an offset beyond any file": made(w=entry(shape=[2], offsets=[2**63 - 9, 2**63 - 1])),
    "an offset that is no int64": made(w=entry(offsets=[0, 2**64])),
    "a tensor of terabytes": made(w=entry(shape=[2**39])),
    "a product that overflows": made(w=entry(shape=[2**52] * 5)),
    "sizes that wrap to nothing": made(w=entry(shape=[2**32, 2**32], offsets=[0, 0]), data=b""),
    "a negative size": made(w=entry(shape=[-2])),
    "a boolean size": made(w=entry(shape=[True])),
    "too many dimensions": made(w=entry(shape=[1] * 99 + [2])),
    "a shape that does not fill its bytes": made(w=entry(shape=[1])),
    "a type of another size": made(w=entry(dtype="F64")),
    "bits that fill no byte": made(w=entry(dtype="F4", shape=[15])),
    "a gap before": made(w=entry(offsets=[4, 12]), data=bytes(12)),
    "a gap between": made(v=entry([1], "F32", [0, 4]), w=entry(offsets=[8, 16]), data=bytes(16)),
    "an overlap": made(v=entry(), w=entry(offsets=[4, 12]), data=bytes(12)),
    "an overlap that a gap makes up for": made(v=entry(), w=entry(offsets=[4, 12]), data=bytes(16)),
    "the same bytes twice": made(v=entry(), w=entry()),
    "bytes that belong to nobody": made(w=entry(), data=bytes(9)),
    "code hidden behind the data": made(w=entry(), data=bytes(8) + b"\x80\x04cos\nsystem\n."),
    "metadata that is no text": made(__metadata__={"format": 1}, w=entry()),
    "metadata that nests": made(__metadata__={"a": {"b": "c"}}, w=entry()),
    "a name twice": raw(TWICE % b'{"dtype":"I32","shape":[2],"data_offsets":[0,8]}', bytes(8)),
    "a field twice": raw(
        b'{"w":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', bytes(8)
    ),
}
HARD_TO_ALLOCATE = 64 << 20


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused_and_costs_little(what: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EngineError) as refused:
            safetensors.parse(HOSTILE[what])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.code is Code.UNSAFE_FILE
    assert len(refused.value.message) < 500
    assert peak < HARD_TO_ALLOCATE


def test_a_type_nobody_knows_is_named() -> None:
    with pytest.raises(EngineError, match="'Q9'") as refused:
        safetensors.parse(made(w=entry(dtype="Q9")))
    assert refused.value.code is Code.UNSUPPORTED_QUANTISATION


ARRAYS: dict[str, np.ndarray] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.c": np.array([1.5, -2.25], np.float16),
    "none": np.zeros((3, 0), np.float32),
    "one": np.array(7, np.int64),
    "flags": np.array([True, False, True]),
}


def test_what_the_library_writes_is_read_alike() -> None:
    data = save(ARRAYS, metadata={"format": "pt"})
    file = safetensors.parse(data)
    assert file.metadata == {"format": "pt"}
    assert file.precision == "float32"
    assert file.weight_bytes == sum(array.nbytes for array in ARRAYS.values())
    for name, array in ARRAYS.items():
        tensor = file.tensors[name]
        assert tensor.shape == array.shape
        assert data[tensor.offset : tensor.offset + tensor.size_bytes] == array.tobytes()
    assert np.array_equal(safetensors.array(data, file.tensors["a"]), ARRAYS["a"])
    assert np.array_equal(safetensors.array(data, file.tensors["b.c"]), ARRAYS["b.c"])
    with pytest.raises(EngineError) as refused:
        safetensors.array(data, file.tensors["one"])
    assert refused.value.code is Code.UNSUPPORTED_QUANTISATION


def test_brain_floats_are_the_upper_half_of_a_float() -> None:
    values = np.array([1.0, -2.5, 3e38, 1e-38], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    data = made(w=entry([4], "BF16"), data=halves.tobytes())
    file = safetensors.parse(data)
    assert file.precision == "bfloat16"
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(safetensors.array(data, file.tensors["w"]), expected)
    assert np.allclose(expected, values, rtol=0.01)


GOOD = save(ARRAYS, metadata={"format": "pt"})


@given(st.data())
def test_damage_is_refused_or_read_as_the_library_reads_it(data: st.DataObject) -> None:
    bad = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    cut = (
        bytes(bad[: data.draw(st.integers(0, len(bad)))])
        if data.draw(st.booleans())
        else bytes(bad)
    )
    try:
        file = safetensors.parse(cut)
    except EngineError:
        return
    try:
        theirs = load(cut)
    except (SafetensorError, KeyError):  # a type that numpy does not have
        return
    assert theirs.keys() == file.tensors.keys()
    for name, array in theirs.items():
        assert file.tensors[name].shape == array.shape
        assert file.tensors[name].size_bytes == array.nbytes


def test_a_file_is_inspected(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(GOOD)
    report = inspect(path)
    assert (report.format, report.precision, report.size_bytes) == (
        "safetensors",
        "float32",
        len(GOOD),
    )
    path.write_bytes(made(w=entry(), data=bytes(7)))
    with pytest.raises(EngineError) as refused:
        inspect(path)
    assert refused.value.code is Code.UNSAFE_FILE
