"""Wire messages: every one round trips, and random bytes raise nothing but RemoteError."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.strategies import shown

from aigrid.protocol import inference, messages
from aigrid.protocol.chunks import Part
from aigrid.protocol.errors import Code, InvalidRequestError, RemoteError, VerificationError
from aigrid.protocol.inference import Tensor, TextRequest, check_tensor, check_text
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import code_of, encode, refusal

texts = st.text(max_size=20)
floats = st.floats(-1e38, 1e38)
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
raw_records = st.binary(max_size=40)
nonces = st.binary(min_size=16, max_size=32)
wire_ints = st.integers(-(2**63), 2**64 - 1)
request_ids = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True)

chat_messages = st.builds(
    inference.ChatMessage,
    role=st.sampled_from(["system", "user", "assistant", "tool", "developer"]),
    content=texts,
)
text_requests = st.builds(
    TextRequest,
    messages=st.lists(chat_messages, max_size=3).map(tuple),
    prompt=st.none() | texts,
    token_ids=st.none() | token_ids,
    continued_ids=token_ids,
    max_tokens=st.none() | st.integers(0, LIMITS.max_tokens_max),
    temperature=st.floats(0, 100),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.none() | wire_ints,
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    top_logprobs=st.none() | st.integers(0, LIMITS.top_logprobs_max),
)
tensors = st.builds(
    Tensor,
    dtype=st.sampled_from(["float32", "int64", "bool", "string"]),
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
    data=st.binary(max_size=20),
)
named_tensors = st.dictionaries(texts, tensors, max_size=3)
tensor_requests = st.builds(
    inference.TensorRequest, inputs=named_tensors, outputs=st.lists(texts, max_size=2).map(tuple)
)
token_logprobs = st.builds(
    inference.TokenLogprob,
    token_id=st.integers(0, 2**31 - 1),
    token=texts,
    logprob=floats,
    top=st.lists(st.tuples(st.integers(0, 2**31 - 1), texts, floats), max_size=2).map(tuple),
)
chunks = (
    st.builds(
        inference.TextChunk,
        text=texts,
        token_ids=token_ids,
        logprobs=st.lists(token_logprobs, max_size=2).map(tuple),
    )
    | st.builds(inference.TensorChunk, outputs=named_tensors)
    | st.builds(
        inference.Finish,
        reason=st.sampled_from(["stop", "length", "cancelled"]),
        prompt_tokens=st.integers(0, 2**53 - 1),
        completion_tokens=st.integers(0, 2**53 - 1),
    )
)
digests = st.binary(min_size=32, max_size=32)
batches = st.builds(messages.Records, records=st.lists(raw_records, max_size=3).map(tuple))

Strategy = st.SearchStrategy[Any]
CODECS: dict[str, tuple[Callable[[bytes], Any], Strategy]] = {
    "rpc_request": (
        messages.decode_rpc_request,
        st.builds(messages.Ping)
        | st.builds(messages.Reconcile, message=st.binary(min_size=1, max_size=64))
        | st.builds(messages.Fetch, ids=st.lists(digests, max_size=3).map(tuple))
        | st.builds(messages.Push, records=st.lists(raw_records, max_size=3).map(tuple))
        | st.builds(
            messages.Find,
            by=st.sampled_from(["capability", "model"]),
            name=st.from_regex(r"[!-~]{1,128}", fullmatch=True),
            limit=st.integers(1, LIMITS.find_records_max),
        )
        | st.builds(
            messages.Infer,
            request_id=request_ids,
            model=st.text(max_size=64),
            manifest=st.text(max_size=64),
            request=text_requests | tensor_requests,
            salt=st.binary(min_size=16, max_size=16),
            presentation=st.binary(max_size=40),
            keep_alive_seconds=st.none() | st.floats(0, LIMITS.keep_alive_max_seconds),
        )
        | st.builds(
            messages.Weights,
            model=st.text(max_size=64),
            manifest=st.text(max_size=64),
            part=st.builds(
                Part,
                file=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
                first=st.integers(0, LIMITS.chunks_max),
                count=st.integers(0, LIMITS.chunks_asked_max),
            ),
            salt=st.binary(min_size=16, max_size=16),
            presentation=st.binary(max_size=40),
        )
        | st.builds(
            messages.Give, credentials=st.lists(raw_records, min_size=1, max_size=4).map(tuple)
        ),
    ),
    "rpc_answer": (
        messages.decode_rpc_answer,
        st.builds(
            messages.Pong,
            wall_ms=st.integers(0, 253_402_300_799_999),
            running=st.integers(0, 1_000_000),
            waiting=st.integers(0, 1_000_000),
        )
        | st.builds(messages.Piece, data=st.binary(max_size=64))
        | st.builds(messages.Portion, data=st.binary(min_size=1, max_size=64), last=st.booleans())
        | st.builds(messages.Loading, text=st.text(shown, max_size=160))
        | batches
        | st.builds(messages.Reconciled, message=st.binary(min_size=1, max_size=64))
        | st.builds(messages.Receipted, receipt=raw_records)
        | st.builds(messages.Given, kept=st.booleans())
        | st.builds(messages.Pushed, changed=st.integers(0, 1024))
        | st.builds(messages.Chunks, chunks=st.lists(chunks, max_size=3).map(tuple)),
    ),
    "records": (messages.decode_records, batches),
    "join_request": (
        messages.decode_join_request,
        st.builds(messages.Redeem, invitation=raw_records)
        | st.builds(messages.Present, membership=raw_records)
        | st.builds(messages.Rotate, rotation=raw_records)
        | st.builds(
            messages.AskToJoin,
            name=st.text(shown, max_size=64),
            commitment=st.binary(min_size=32, max_size=32),
        )
        | st.builds(messages.Reveal, request=st.text(max_size=32), nonce=nonces),
    ),
    "join_answer": (
        messages.decode_join_answer,
        st.builds(messages.Welcome, membership=raw_records, ours=raw_records)
        | st.builds(messages.Challenge, request=texts, grid=texts, nonce=nonces)
        | st.builds(messages.Pending)
        | st.builds(messages.Refused, code=texts, message=texts),
    ),
}
codecs = pytest.mark.parametrize("name", list(CODECS))


@codecs
@settings(max_examples=200)
@given(data=st.data())
def test_messages_round_trip(name: str, data: st.DataObject) -> None:
    decode, values = CODECS[name]
    message = data.draw(values)
    assert decode(encode(message)) == message


def members(union: Any) -> set[type]:
    return set(getattr(union, "__args__", (union,)))


def test_every_message_is_in_one_of_the_conversations() -> None:
    in_unions = (
        members(messages.RpcRequest)
        | members(messages.RpcAnswer)
        | members(messages.JoinRequest)
        | members(messages.JoinAnswer)
    )
    defined = {
        thing
        for thing in vars(messages).values()
        if isinstance(thing, type) and issubclass(thing, messages._Message)
    } - {messages._Message}
    assert in_unions == defined


def survive(decode: Callable[[bytes], Any], raw: bytes) -> None:
    try:
        decode(raw)
    except RemoteError as error:
        code, message = error.code, error.message
    else:
        return
    assert code is Code.PROTOCOL_VIOLATION
    assert len(message) <= 200
    message.encode()


@codecs
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_remote_errors(name: str, raw: bytes) -> None:
    survive(CODECS[name][0], raw)


anything = st.recursive(
    st.none() | st.booleans() | wire_ints | st.floats() | texts | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@codecs
@given(anything)
def test_random_msgpack_raises_nothing_but_remote_errors(name: str, value: Any) -> None:
    survive(CODECS[name][0], msgspec.msgpack.encode(value))


@codecs
@settings(max_examples=200)
@given(data=st.data())
def test_damaged_messages_raise_nothing_but_remote_errors(name: str, data: st.DataObject) -> None:
    decode, values = CODECS[name]
    raw = encode(data.draw(values))
    place = data.draw(st.integers(0, len(raw) - 1))
    survive(decode, raw[:place] + data.draw(st.binary(max_size=3)) + raw[place + 1 :])
    survive(decode, raw[:place])
    with pytest.raises(RemoteError):
        decode(raw + b"\x00")


@codecs
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x91" * 100_000,  # arrays in arrays
        b"\x81" * 100_000,
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xd8\x01" + bytes(16),  # an extension
        b"\xd6\xff" + bytes(4),  # a timestamp
        b"\xc1",
        b"\x81\xa4type\xa1\xff",
        b"\x81\xa1\xff\x01",
        b"\x81\x01\x01",
        b"\x81\xc0\xa4ping",
    ],
)
def test_crafted_bytes_are_a_protocol_violation(name: str, raw: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        CODECS[name][0](raw)
    assert caught.value.code is Code.PROTOCOL_VIOLATION


def packed(kind: str, **fields: Any) -> bytes:
    return msgspec.msgpack.encode({"type": kind, **fields})


PLAIN = {"type": "text", "prompt": "x"}
INFER: dict[str, Any] = {
    "request_id": "12345678",
    "model": "m",
    "manifest": "m",
    "salt": bytes(16),
    "presentation": b"",
}


def text(**fields: Any) -> bytes:
    request = {"type": "text", "prompt": "x", **fields}
    return packed("infer", **INFER, request=request)


def tensor(**fields: Any) -> bytes:
    inputs = {"x": {"dtype": "float32", "shape": [1], "data": bytes(4), **fields}}
    request = {"type": "tensor", "inputs": inputs}
    return packed("infer", **INFER, request=request)


def chunk(kind: str, **fields: Any) -> bytes:
    return packed("chunks", chunks=[{"type": kind, **fields}])


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("rpc_request", packed("ping", extra=1)),
        ("rpc_request", packed("pong", wall_ms=1)),
        ("rpc_request", packed("redeem", invitation=b"")),
        ("rpc_request", packed("sync", known=bytes(512 * 1024 + 1))),
        ("rpc_request", packed("sync", known="text")),
        ("rpc_request", packed("infer", **{**INFER, "request_id": "short"}, request={})),
        *(
            ("rpc_request", packed("infer", **{**INFER, name: value}, request=PLAIN))
            for name, value in (
                ("salt", bytes(15)),
                ("salt", bytes(17)),
                ("salt", None),
                ("presentation", bytes(LIMITS.presentation_max_bytes + 1)),
                ("presentation", "text"),
            )
        ),
        ("rpc_request", packed("give", credentials=[])),
        ("rpc_request", packed("give", credentials=[b"{}"] * (LIMITS.chain_max + 1))),
        ("rpc_request", packed("give", credentials=[bytes(LIMITS.record_max_bytes + 1)])),
        ("rpc_answer", packed("receipted", receipt=bytes(LIMITS.record_max_bytes + 1))),
        ("rpc_answer", packed("given", kept=1)),
        ("rpc_request", text().replace(b"12345678", b"1234567\n")),
        *(("rpc_request", text(temperature=value)) for value in (-1, float("nan"), float("inf"))),
        *(("rpc_request", text(top_p=value)) for value in (0, 1.1, float("nan"), True, "1")),
        *(("rpc_request", text(max_tokens=value)) for value in (-1, LIMITS.max_tokens_max + 1)),
        ("rpc_request", text(token_ids=[-1])),
        ("rpc_request", text(token_ids=[2**31])),
        ("rpc_request", text(token_ids=[0] * (LIMITS.max_tokens_max + 1))),
        ("rpc_request", text(continued_ids=[0.5])),
        ("rpc_request", text(top_logprobs=LIMITS.top_logprobs_max + 1)),
        ("rpc_request", text(stop=["x"] * (LIMITS.stop_max + 1))),
        ("rpc_request", text(stop=["x" * (LIMITS.stop_max_chars + 1)])),
        ("rpc_request", text(stop=[""])),
        (
            "rpc_request",
            text(messages=[{"role": "user", "content": ""}] * (LIMITS.messages_max + 1)),
        ),
        ("rpc_request", text(messages=[{"role": "root", "content": ""}])),
        ("rpc_request", text(echo=True)),
        ("rpc_request", tensor(shape=[1] * (LIMITS.tensor_rank_max + 1))),
        ("rpc_request", tensor(shape=[-1])),
        ("rpc_request", tensor(dtype="x" * 17)),
        ("rpc_answer", packed("pong", wall_ms=-1)),
        ("rpc_answer", packed("pong", wall_ms=0, running=-1)),
        ("rpc_answer", chunk("text", text="", token_ids=[-1])),
        ("rpc_answer", chunk("finish", reason="stop", completion_tokens=-1)),
        ("rpc_answer", chunk("finish", reason="bored")),
        *(
            ("rpc_answer", chunk("text", text="", logprobs=[said]))
            for said in (
                {"token_id": 1, "token": "", "logprob": float("nan")},
                {"token_id": 1, "token": "", "logprob": float("-inf")},
                {"token_id": 1, "token": "", "logprob": 0.0, "top": [[1, "", float("inf")]]},
                {"token_id": 1, "token": "", "logprob": 0.0, "top": [[1, "", 0.0]] * 21},
            )
        ),
        ("records", packed("records", records=[b""] * 1025)),
        ("records", packed("records", records=[bytes(LIMITS.record_max_bytes + 1)])),
        ("join_request", packed("ask", name="x", commitment=bytes(31))),
        ("join_request", packed("ask", name="x" * 65, commitment=bytes(32))),
        ("join_request", packed("ask", name="\x1b[2J", commitment=bytes(32))),
        ("join_request", packed("reveal", request="r", nonce=bytes(15))),
        ("join_request", packed("reveal", request="r", nonce=bytes(33))),
        ("join_request", packed("reveal", request="r" * 33, nonce=bytes(16))),
        ("join_answer", packed("refused", code="x", message="x" * 513)),
        ("join_answer", packed("challenge", request="r", grid="g", nonce=b"")),
    ],
)
def test_messages_out_of_bounds_are_a_protocol_violation(name: str, raw: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        CODECS[name][0](raw)
    assert caught.value.code is Code.PROTOCOL_VIOLATION


def test_the_plain_requests_of_these_tests_are_within_bounds() -> None:
    messages.decode_rpc_request(text())
    messages.decode_rpc_request(tensor())
    messages.decode_rpc_answer(chunk("text", text=""))


def test_a_refusal_carries_its_code_and_can_always_be_sent() -> None:
    error = VerificationError("x" * 600 + "\ud800", Code.NOT_MEMBER)
    assert len(refusal(error).message) == 512
    assert code_of(refusal(error).code) is Code.NOT_MEMBER
    encode(refusal(VerificationError("\ud800")))


def test_a_code_from_a_newer_node_is_internal() -> None:
    assert code_of("a_code_of_tomorrow") is Code.INTERNAL
    assert all(code_of(code.value) is code for code in Code)


def test_a_text_request_has_exactly_one_kind_of_input() -> None:
    turn = (inference.ChatMessage("user", "x"),)
    for good in (
        TextRequest(messages=turn),
        TextRequest(prompt=""),
        TextRequest(token_ids=()),
    ):
        check_text(good)
    for bad in (
        TextRequest(),
        TextRequest(messages=turn, prompt="x"),
        TextRequest(prompt="x", token_ids=(1,)),
    ):
        with pytest.raises(InvalidRequestError):
            check_text(bad)


def test_a_tensors_shape_and_bytes_agree() -> None:
    check_tensor(Tensor("float32", (2, 3), bytes(24)), 4)
    check_tensor(Tensor("float32", (), bytes(4)), 4)
    check_tensor(Tensor("float32", (0, 2**40), b""), 4)
    for shape, size in (((2, 3), 23), ((2**62, 2**62), 0), ((-1,), 0), ((1,) * 17, 4)):
        with pytest.raises(ValueError, match="tensor"):
            check_tensor(Tensor("float32", shape, bytes(size)), 4)
