"""Canonical JSON, strict parsing and content ids."""

import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.protocol.canonical import (
    canonical,
    content_id,
    file_cid,
    is_content_id,
    parse,
    plain,
)
from aigrid.protocol.errors import Code, VerificationError

DEPTH_MAX = 16


def read(raw: bytes) -> Any:
    return parse(raw, max_bytes=10_000, depth_max=DEPTH_MAX).value


def code_of(raw: bytes) -> Code:
    with pytest.raises(VerificationError) as caught:
        read(raw)
    return caught.value.code


def test_the_example_of_rfc_8785_section_3_2_2() -> None:
    given_text = (
        '{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],'
        '"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/",'
        '"literals":[null,true,false]}'
    )
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(json.loads(given_text)) == expected.encode()


def test_members_are_sorted_by_utf_16_as_in_rfc_8785_section_3_2_3() -> None:
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    order = list(json.loads(canonical(value)))
    assert order == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555555", "333333333.3333333"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_as_in_rfc_8785_appendix_b(bits: str, text: str) -> None:
    import struct

    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**53,
        -(2**53),
        10**4000,
        "\ud800",
        {"\udc00": 1},
        {1: 2},
        b"x",
    ],
)
def test_what_jcs_cannot_express_is_malformed(value: Any) -> None:
    with pytest.raises(VerificationError) as caught:
        canonical(value)
    assert caught.value.code is Code.MALFORMED
    assert len(caught.value.message) < 300


def test_endless_nesting_is_malformed() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(VerificationError):
        canonical(loop)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2.0**52), 2.0**52)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_values)
def test_canonical_form_is_a_fixed_point(value: Any) -> None:
    raw = canonical(value)
    assert parse(raw, max_bytes=10_000, depth_max=64).value == value
    assert canonical(json.loads(raw)) == raw


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", Code.MALFORMED),
        (b"{", Code.MALFORMED),
        (b"{} {}", Code.MALFORMED),
        (b'{"a":1,"a":1}', Code.DUPLICATE_KEY),
        (b'{"x":[{"a":1,"\\u0061":2}]}', Code.DUPLICATE_KEY),
        (b"\xef\xbb\xbf{}", Code.MALFORMED),
        (b"\xff\xfe{\x00}\x00", Code.MALFORMED),
        (b'"\xff"', Code.MALFORMED),
        (b'"\xed\xa0\x80"', Code.MALFORMED),
        (b'"\\ud800"', Code.MALFORMED),
        (b'{"\\udfff":1}', Code.MALFORMED),
        (b'"\\ude00\\ud83d"', Code.MALFORMED),
        (b'"\x01"', Code.MALFORMED),
        (b"NaN", Code.MALFORMED),
        (b"[Infinity]", Code.MALFORMED),
        (b"-Infinity", Code.MALFORMED),
        (b"'a'", Code.MALFORMED),
        (b"[1,]", Code.MALFORMED),
        (b"01", Code.MALFORMED),
        (b"9" * 5000, Code.MALFORMED),
        (b"[" * 9000, Code.MALFORMED),
        (b" " * 10_001, Code.RECORD_TOO_LARGE),
    ],
)
def test_what_is_not_strict_json_is_refused_with_its_code(raw: bytes, code: Code) -> None:
    assert code_of(raw) is code


def test_a_surrogate_pair_is_text() -> None:
    assert read(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("inner", ["", "1"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_counted_in_containers(opening: str, closing: str, inner: str) -> None:
    inner = inner or "[]"
    own = 1 if inner == "[]" else 0

    def nested(count: int) -> bytes:
        return (opening * (count - own) + inner + closing * (count - own)).encode()

    read(nested(DEPTH_MAX))
    assert code_of(nested(DEPTH_MAX + 1)) is Code.MALFORMED


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
def test_arbitrary_bytes_raise_nothing_but_verification_errors(raw: bytes) -> None:
    try:
        value = read(raw)
    except VerificationError:
        return
    json.dumps(value, ensure_ascii=False).encode()


def test_content_ids_are_those_of_the_multiformats_specification() -> None:
    assert file_cid(hashlib.sha256(b"").digest()) == (
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    )
    assert content_id(b"{}").startswith("bagaaiera")


@given(st.binary(max_size=40))
def test_content_ids_are_recognised_in_one_spelling_only(data: bytes) -> None:
    for text in (content_id(data), file_cid(hashlib.sha256(data).digest())):
        assert is_content_id(text)
        for other in (
            text.upper(),
            text + "=",
            text[1:],
            " " + text,
            text[:-1] + "9",
            "z" + text[1:],
        ):
            assert not is_content_id(other)


@given(st.text(max_size=70) | st.from_regex(r"b[a-z2-7]{58}|b[a-z2-7]{60}", fullmatch=True))
def test_arbitrary_text_is_hardly_a_content_id(text: str) -> None:
    if is_content_id(text):
        assert text.startswith(("bafkrei", "bagaaiera"))


def test_the_last_character_of_a_content_id_carries_no_spare_bits() -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    text = content_id(b"x")
    twins = [text[:-1] + last for last in alphabet if is_content_id(text[:-1] + last)]
    spare_bits = (len(text) - 1) * 5 - 37 * 8
    assert len(twins) == 32 >> spare_bits


def test_an_error_becomes_plain_text() -> None:
    text = plain(ValueError("\x1b[2J\n\ud800" + "x" * 1000))
    assert text.isprintable()
    assert text.isascii()
    assert len(text) <= 200
