"""Unpacked weights are those of the format, as the public package reads it."""

from pathlib import Path

import gguf as public
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.gguf_writer import TYPES, Gguf, Tensor, pack, tiny_llama, unpack, write
from tests.engines.texts import source

from aigrid.engines import gguf, gguf_quant
from aigrid.engines.gguf_quant import Bytes
from aigrid.engines.llama import read_config
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.protocol.errors import Code, EngineError

ROWS, COLUMNS = 3, 512
QUANTISED = [kind for kind in TYPES if kind.startswith("Q")]
REFUSED = {
    number: kind for number, kind in gguf.TENSOR_TYPES.items() if number not in TYPES.values()
}
# Of the quantised types, how far from a weight of a normal distribution the next code may be.
FURTHEST = {"Q2_K": 1.2, "Q3_K": 1.0, "Q4_0": 0.4, "Q4_1": 0.3, "Q4_K": 0.4}


def rows_of(kind: str, data: bytes) -> Bytes:
    """The rows of a tensor that was written to a file and found again."""
    model = Gguf(tensors=[Tensor("w", (COLUMNS, ROWS), TYPES[kind], data)]).build()
    return gguf_quant.raw_rows(model, gguf.parse(model).tensors["w"])


def weights() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (ROWS, COLUMNS))


@pytest.mark.parametrize("kind", TYPES)
def test_unpacking_gives_the_stored_weights(kind: str) -> None:
    data = pack(weights(), kind)
    got = gguf_quant.dense(rows_of(kind, data), kind)
    np.testing.assert_allclose(got, unpack(data, kind, COLUMNS), rtol=1e-6, atol=1e-6)
    assert np.abs(got - weights()).max() < FURTHEST.get(kind, 0.2)


@pytest.mark.parametrize("kind", QUANTISED)
@given(data=st.data())
@settings(max_examples=30)
def test_any_block_agrees_with_the_public_package(kind: str, data: st.DataObject) -> None:
    form = gguf.TENSOR_TYPES[TYPES[kind]]
    size = ROWS * COLUMNS // form.elements * form.size_bytes
    raw = rows_of(kind, data.draw(st.binary(min_size=size, max_size=size)))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = public.quants.dequantize(raw, public.GGMLQuantizationType(TYPES[kind]))
        np.testing.assert_array_equal(gguf_quant.dense(raw, kind), expected)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_types_agree_with_the_public_package(kind: str) -> None:
    raw = rows_of(kind, pack(weights(), kind))
    theirs = raw if kind == "BF16" else raw.view("<f4" if kind == "F32" else "<f2")
    expected = public.quants.dequantize(theirs, public.GGMLQuantizationType(TYPES[kind]))
    np.testing.assert_array_equal(gguf_quant.dense(raw, kind), expected)


@pytest.mark.parametrize("kind", QUANTISED)
def test_codes_are_what_the_runtime_multiplies(kind: str) -> None:
    raw = rows_of(kind, pack(weights(), kind))
    blocks = gguf_quant.unpack(raw, kind)
    assert blocks.bits in {4, 8}
    assert blocks.codes.shape[-1] in {16, 32}
    assert int(blocks.codes.max()) < 1 << blocks.bits
    arrays = (blocks.scales, blocks.minimum)
    floats = sum(array.nbytes for array in arrays if array is not None)
    tensor = gguf.GgufTensor("w", (COLUMNS, ROWS), gguf.TENSOR_TYPES[TYPES[kind]], 0, raw.nbytes)
    assert gguf_quant.unpacked_bytes(tensor) == blocks.codes.size * blocks.bits // 8 + floats


def test_sizes_of_types_agree_with_the_public_package() -> None:
    for number, kind in gguf.TENSOR_TYPES.items():
        theirs = public.GGMLQuantizationType(number)
        assert theirs.name == kind.name
        assert public.GGML_QUANT_SIZES[theirs] == (kind.elements, kind.size_bytes)


@pytest.mark.parametrize("number", REFUSED)
def test_another_type_is_refused_by_name(number: int, tmp_path: Path) -> None:
    model, kind = tiny_llama("F32", kinds={"blk.0.ffn_up": "Q4_K"}), REFUSED[number]
    tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_down.weight")
    # As many blocks as a writer of that type would make.
    tensor.kind, tensor.data = number, bytes(256 * 512 // kind.elements * kind.size_bytes)
    with pytest.raises(EngineError, match=rf"ffn_down.*{kind.name}\b.*llama_cpp") as caught:
        OnnxTextEngine().estimate(source(write(tmp_path, model)))
    assert caught.value.code == Code.UNSUPPORTED_QUANTISATION


def test_a_type_of_unknown_size_is_for_no_engine() -> None:
    model = tiny_llama("F32")
    model.tensors[0].kind = 99
    with pytest.raises(EngineError, match=r"type 99.*update") as caught:
        gguf.parse(model.build())
    assert caught.value.code == Code.UNSUPPORTED_QUANTISATION


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_tensor_that_ends_too_early_is_unsafe(kind: str) -> None:
    model = tiny_llama(kind, head=kind)
    whole = model.build()
    read_config(gguf.parse(whole))
    model.tensors[-1].data = model.tensors[-1].data[: -model.alignment]
    with pytest.raises(EngineError, match=r"output\.weight.*within the file") as caught:
        gguf.parse(model.build())
    assert caught.value.code == Code.UNSAFE_FILE


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_row_of_part_of_a_block_is_unsafe(kind: str) -> None:
    form = gguf.TENSOR_TYPES[TYPES[kind]]
    for columns in (form.elements - 1, form.elements + form.elements // 2):
        broken = Tensor("w", (columns, form.elements), TYPES[kind], bytes(4 * form.elements**2))
        with pytest.raises(EngineError, match="cannot have the shape") as caught:
            gguf.parse(Gguf(tensors=[broken]).build())
        assert caught.value.code == Code.UNSAFE_FILE


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_tensor_of_all_memory_allocates_none(kind: str) -> None:
    model = tiny_llama(kind)
    model.tensors[0].dims = (model.tensors[0].dims[0], 1 << 40)
    with pytest.raises(EngineError, match="within the file") as caught:
        gguf.parse(model.build())
    assert caught.value.code == Code.UNSAFE_FILE
