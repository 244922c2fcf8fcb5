"""Inputs as people say them: words, files, JSON."""

import base64

import pytest
from tests.node.gateway.double import CONTRACTS

from aigrid.node.outcome.said import input_of_file, input_said
from aigrid.protocol.errors import InvalidRequestError

TABLE = '[{"age": 3}]'


def test_a_text_is_what_the_capability_takes() -> None:
    assert input_said(CONTRACTS.of("translation"), "5") == "5"
    message = {"messages": [{"role": "user", "content": "hi"}]}
    assert input_said(CONTRACTS.of("text-generation"), "hi") == message
    assert input_said(CONTRACTS.of("tabular-classification"), TABLE) == [{"age": 3}]
    with pytest.raises(InvalidRequestError):
        input_said(CONTRACTS.of("tabular-classification"), "hi")


def test_a_file_is_text_json_or_bytes() -> None:
    assert input_of_file(CONTRACTS.of("translation"), b"hi") == "hi"
    assert input_of_file(CONTRACTS.of("tabular-regression"), TABLE.encode()) == [{"age": 3}]
    for data in (b"GIF89a", b"\x89PNG\xff"):
        given = input_of_file(CONTRACTS.of("image-classification"), data)
        assert base64.b64decode(given) == data
    with pytest.raises(InvalidRequestError):
        input_of_file(CONTRACTS.of("tabular-regression"), b"\xff")
