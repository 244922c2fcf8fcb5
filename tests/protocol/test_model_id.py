"""A model id is the same for whoever describes the same model, and another for any other."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import descriptions

from aigrid.protocol.canonical import canonical, content_id, is_content_id
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.model import ModelDescription, ModelFile, model_id


@given(descriptions, st.integers(0, 2**32))
def test_the_order_of_files_is_no_part_of_a_model(description: ModelDescription, seed: int) -> None:
    files = list(description.files)
    random.Random(seed).shuffle(files)
    assert model_id(msgspec.structs.replace(description, files=tuple(files))) == model_id(
        description
    )


@given(descriptions)
def test_the_order_of_options_is_no_part_of_a_model(description: ModelDescription) -> None:
    options = dict(reversed(description.options.items()))
    assert model_id(msgspec.structs.replace(description, options=options)) == model_id(description)


@given(descriptions, descriptions)
def test_different_descriptions_have_different_ids(
    a: ModelDescription, b: ModelDescription
) -> None:
    def normal(description: ModelDescription) -> bytes:
        value = msgspec.to_builtins(description)
        value["files"] = sorted(value["files"], key=lambda file: file["name"])
        return canonical(value)

    assert (model_id(a) == model_id(b)) == (normal(a) == normal(b))
    assert is_content_id(model_id(a))


PLAIN = ModelDescription(
    format="gguf",
    task="text-generation",
    files=(ModelFile("a", "0" * 64, 1), ModelFile("b", "1" * 64, 2)),
    precision="q4_1",
    options={"x": 1},
)


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(PLAIN, format="onnx"),
        msgspec.structs.replace(PLAIN, task="fill-mask"),
        msgspec.structs.replace(PLAIN, precision=""),
        msgspec.structs.replace(PLAIN, options={}),
        msgspec.structs.replace(PLAIN, options={"x": 2}),
        msgspec.structs.replace(PLAIN, options={"x": "1"}),
        msgspec.structs.replace(PLAIN, options={"x": True}),
        msgspec.structs.replace(PLAIN, options={"y": 1}),
        msgspec.structs.replace(PLAIN, files=PLAIN.files[:1]),
        msgspec.structs.replace(PLAIN, files=(ModelFile("c", "0" * 64, 1), PLAIN.files[1])),
        msgspec.structs.replace(PLAIN, files=(ModelFile("a", "2" * 64, 1), PLAIN.files[1])),
        msgspec.structs.replace(PLAIN, files=(ModelFile("a", "0" * 64, 2), PLAIN.files[1])),
    ],
)
def test_any_change_changes_the_id(other: ModelDescription) -> None:
    assert model_id(other) != model_id(PLAIN)


def test_the_id_is_the_content_id_of_the_description_with_its_defaults() -> None:
    described = ModelDescription(format="echo", task="text-generation", files=())
    text = b'{"files":[],"format":"echo","options":{},"precision":"","task":"text-generation"}'
    assert model_id(described) == content_id(text)


def test_a_whole_number_has_one_spelling() -> None:
    as_float = msgspec.structs.replace(PLAIN, options={"x": 1.0})
    assert model_id(as_float) == model_id(PLAIN)


@pytest.mark.parametrize("twin", ["a", "A"])
def test_two_files_of_one_name_are_refused(twin: str) -> None:
    files = (ModelFile("a", "0" * 64, 1), ModelFile(twin, "1" * 64, 1))
    with pytest.raises(VerificationError):
        model_id(msgspec.structs.replace(PLAIN, files=files))


@pytest.mark.parametrize("number", [2**53, -(2**53), float("inf"), float("nan")])
def test_numbers_without_a_canonical_form_are_refused(number: float) -> None:
    with pytest.raises(VerificationError):
        model_id(msgspec.structs.replace(PLAIN, options={"x": number}))
