"""Models behind a server of OpenAI's dialect: the contract, the mapping, and servers gone wrong."""

import json
import threading
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.upstream.servers import FATAL, WORDS, Server, text_source

from aigrid.engines.base import CancelToken, Endpoint, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.upstream import openai_api
from aigrid.engines.upstream.openai_api import OpenAiEngine, waiting
from aigrid.engines.upstream.openai_text import Events, TextAnswer, body_of, together
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferRequest,
    TaskChunk,
    TaskRequest,
    TensorRequest,
    TextChunk,
    TextRequest,
    TokenLogprob,
)
from aigrid.protocol.limits import LIMITS, Limits

# For a server that lets one wait, where a test does. A good one may be slower.
QUICK = replace(LIMITS, upstream_silence_seconds=0.3, upstream_connect_seconds=2.0)
HELLO = TextRequest(messages=(ChatMessage("user", "hello"),))


class TestOpenAiEngine(EngineContract):
    engine = OpenAiEngine
    tokens_have_ids = False

    @pytest.fixture
    def source(self, server: Server) -> ModelSource:
        return text_source(server)

    @pytest.fixture
    def request_(self) -> InferRequest:
        return HELLO

    @pytest.fixture
    def wrong_request(self) -> InferRequest:
        return TensorRequest({})

    @pytest.fixture
    def failing(self, source: ModelSource) -> tuple[ModelSource, InferRequest]:
        return source, TextRequest(messages=(ChatMessage("user", FATAL),))


def loaded(
    server: Server, task: str = "text-generation", key: str = "", *, limits: Limits = LIMITS
) -> OpenAiEngine:
    engine = OpenAiEngine(limits)
    engine.load(text_source(server, task, key), threads=1)
    server.said.clear()
    return engine


def answer(engine: OpenAiEngine, request: InferRequest) -> tuple[str, Finish]:
    *chunks, finish = engine.infer(request, CancelToken())
    assert isinstance(finish, Finish)
    return "".join(c.text for c in chunks if isinstance(c, TextChunk)), finish


def failure(engine: OpenAiEngine, request: InferRequest = HELLO) -> EngineError:
    with pytest.raises(EngineError) as caught:
        answer(engine, request)
    return caught.value


def test_what_was_asked_for_reaches_the_server(server):
    messages = (ChatMessage("developer", "be brief"), ChatMessage("user", "hello"))
    request = TextRequest(
        messages=messages, max_tokens=2, temperature=0.5, top_p=0.9, seed=-1, stop=("###",)
    )
    said, finish = answer(loaded(server), request)
    assert (said, finish) == ("One two", Finish("length", 5, 2))
    (body,) = server.asked("/v1/chat/completions")
    assert body == {
        "model": "parrot",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hello"},
        ],
        "max_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 2**31 - 1,
        "stop": ["###"],
    }


def test_a_prompt_and_token_ids_go_to_the_endpoint_for_completions(server):
    engine = loaded(server)
    assert answer(engine, TextRequest(prompt="Count:"))[0] == "".join(WORDS)
    assert answer(engine, TextRequest(token_ids=(1, 2)))[0] == "".join(WORDS)
    assert [body["prompt"] for body in server.asked("/v1/completions")] == ["Count:", [1, 2]]


def test_a_server_with_messages_only_says_so_to_a_prompt(server):
    engine = loaded(server)
    server.mode = "chat only"
    error = failure(engine, TextRequest(prompt="Count:"))
    assert (error.code, "not a prompt" in error.message) == (Code.INVALID_REQUEST, True)


def test_a_model_without_a_chat_template_is_asked_by_prompt(server):
    server.mode = "no chat"
    engine = loaded(server)
    assert answer(engine, TextRequest(prompt="Count:"))[0] == "".join(WORDS)
    assert "chat template" in failure(engine).message
    assert server.asked("/v1/chat/completions") == []


def test_without_usage_the_pieces_are_counted(server):
    engine = loaded(server)
    server.mode = "no usage"
    assert answer(engine, HELLO)[1] == Finish("stop", 0, len(WORDS))


def test_no_more_tokens_are_passed_on_than_a_request_can_have(server):
    most = LIMITS.prompt_tokens_max
    server.mode = "counts too much"
    assert answer(loaded(server), HELLO)[1] == Finish("stop", most, len(WORDS))
    engine = loaded(server, "feature-extraction")
    _, finish = engine.infer(TaskRequest("feature-extraction", b'["a"]'), CancelToken())
    assert finish == Finish("stop", most)


def test_a_stop_string_that_the_server_ignores_still_ends_the_answer(server):
    said, finish = answer(loaded(server), TextRequest(messages=HELLO.messages, stop=("o thr",)))
    assert (said, finish.reason) == ("One tw", "stop")


def test_the_key_is_sent_and_never_shown(server):
    source = text_source(server, key="s3cret")
    assert "s3cret" not in repr(source)
    loaded(server, key="s3cret")
    answer(loaded(server, key="s3cret"), HELLO)
    assert {headers["Authorization"] for _, headers, _ in server.said} == {"Bearer s3cret"}


def test_vectors_of_texts_come_in_the_order_of_the_texts(server):
    engine = loaded(server, "feature-extraction")
    request = TaskRequest("feature-extraction", json.dumps(["a", "four"]).encode())
    chunk, finish = engine.infer(request, CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert json.loads(chunk.output) == [[1.0, 0.5], [4.0, 0.5]]
    assert finish == Finish("stop", 2)
    assert failure(engine).code is Code.INVALID_REQUEST


def test_token_ids_and_a_size_are_for_the_server_to_know(server):
    engine = loaded(server, "feature-extraction")
    ids = TaskRequest("feature-extraction", b"[[1,2,3]]", {"dimensions": 2})
    chunk, _ = engine.infer(ids, CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert json.loads(chunk.output) == [[3.0, 0.5]]
    assert server.said[-1][2]["input"] == [[1, 2, 3]]
    assert server.said[-1][2]["dimensions"] == 2
    refused: tuple[tuple[Any, str], ...] = (
        ({"dimensions": 1}, "leave dimensions out"),
        ({"dimensions": 0}, "number from 1"),
        ({"dimensions": True}, "number from 1"),
        ({"top_k": 1}, "no parameter 'top_k'"),
    )
    for parameters, says in refused:
        error = failure(engine, TaskRequest("feature-extraction", b'["a"]', parameters))
        assert error.code is Code.INVALID_REQUEST
        assert says in error.message


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("dies in the middle", Code.CONNECTION_LOST),
        ("hangs", Code.ENGINE_TIMEOUT),
        ("hangs in the middle", Code.ENGINE_TIMEOUT),
        ("garbage", Code.ENGINE_FAILED),
        ("drips", Code.ENGINE_TIMEOUT),
        ("compresses", Code.ENGINE_FAILED),
        ("is cut short", Code.CONNECTION_LOST),
        ("wrong chunks", Code.CONNECTION_LOST),
        ("no json", Code.CONNECTION_LOST),
        ("endless header", Code.ENGINE_FAILED),
        ("endless line", Code.ENGINE_FAILED),
        ("redirects", Code.ENGINE_FAILED),
        ("fails", Code.ENGINE_FAILED),
        ("is busy", Code.BUSY),
        ("wants a key", Code.ENGINE_FAILED),
        ("refuses", Code.INVALID_REQUEST),
        ("too long", Code.CONTEXT_LENGTH_EXCEEDED),
        ("error in the middle", Code.ENGINE_FAILED),
    ],
)
def test_whatever_a_server_does_wrong_ends_in_a_typed_error(server, mode, code):
    engine = loaded(server, limits=QUICK if code is Code.ENGINE_TIMEOUT else LIMITS)
    server.mode = mode
    error = failure(engine)
    assert error.code is code
    assert "127.0.0.1" not in error.message
    assert error.message.isprintable()
    assert engine.stats().running == 0
    server.mode = "good"
    assert answer(engine, HELLO)[0] == "".join(WORDS)


@pytest.mark.parametrize("mode", ["endless body", "endless header", "endless line"])
def test_an_answer_without_end_is_cut_off(server, mode):
    engine = loaded(server, "feature-extraction", limits=QUICK)
    server.mode = mode
    request = TaskRequest("feature-extraction", b'["a"]')
    assert failure(engine, request).code in (Code.ENGINE_FAILED, Code.ENGINE_TIMEOUT)
    assert server.client_left.wait(30)


def test_half_an_answer_is_told_from_a_wrong_one(server):
    engine = loaded(server, "feature-extraction")
    request = TaskRequest("feature-extraction", b'["a"]')
    server.mode = "is cut short"
    assert failure(engine, request).code is Code.CONNECTION_LOST
    server.mode = "no json"
    assert failure(engine, request).code is Code.ENGINE_FAILED


def test_an_answer_longer_than_asked_for_is_cut_off(server):
    engine = loaded(server)
    server.mode = "talks for ever"
    assert failure(engine, TextRequest(messages=HELLO.messages, max_tokens=1)).code is (
        Code.ENGINE_FAILED
    )
    assert server.client_left.wait(30)


def test_a_cancel_closes_the_connection(server):
    engine = loaded(server)
    server.mode = "talks for ever"
    cancel = CancelToken()
    chunks = engine.infer(HELLO, cancel)
    assert isinstance(next(chunks), TextChunk)
    cancel.cancel()
    *_, finish = chunks
    assert isinstance(finish, Finish)
    assert finish.reason == "cancelled"
    assert server.client_left.wait(30)


def test_a_cancel_wakes_whoever_waits_for_a_silent_server(server):
    engine = OpenAiEngine()  # with the usual patience
    engine.load(text_source(server), threads=1)
    server.mode = "hangs in the middle"
    cancel = CancelToken()
    chunks = engine.infer(HELLO, cancel)
    assert isinstance(next(chunks), TextChunk)
    threading.Timer(0.05, cancel.cancel).start()
    assert [type(chunk) for chunk in chunks] == [Finish]


def test_an_answer_that_is_left_closes_the_connection(server):
    engine = loaded(server)
    server.mode = "talks for ever"
    chunks: Any = engine.infer(HELLO, CancelToken())
    next(chunks)
    chunks.close()
    assert server.client_left.wait(30)


def test_a_server_that_only_lists_its_models_is_not_loaded(server):
    server.mode = "hangs"
    engine = OpenAiEngine(replace(QUICK, upstream_load_seconds=0.3))
    with pytest.raises(EngineError) as refused:
        engine.load(text_source(server), threads=1)
    assert refused.value.code is Code.ENGINE_TIMEOUT


def test_an_answer_without_a_token_is_no_answer(server):
    server.mode = "empty"
    with pytest.raises(EngineError):
        OpenAiEngine().load(text_source(server), threads=1)


def test_a_server_that_is_not_there_is_unreachable(server):
    engine = OpenAiEngine(replace(QUICK, upstream_idle_seconds=0.0))
    engine.load(text_source(server), threads=1)
    server.shutdown()
    server.server_close()
    assert failure(engine).code is Code.UNREACHABLE


def test_a_connection_is_kept_for_the_next_request(server):
    engine = loaded(server)
    made = server.connections
    for _ in range(5):
        assert answer(engine, HELLO)[0] == "".join(WORDS)
    assert server.connections == made


@pytest.mark.parametrize("mode", ["leaves after its answer", "is deaf to who asks again"])
def test_a_kept_connection_that_has_ended_costs_no_answer(server, mode):
    engine = loaded(server)
    server.mode = mode
    for _ in range(4):
        assert answer(engine, HELLO)[0] == "".join(WORDS)
    assert len(server.said) == 4


def test_who_is_cancelled_leaves_no_connection_to_the_next(server):
    engine = loaded(server)
    server.mode = "talks for ever"
    cancel = CancelToken()
    chunks = engine.infer(HELLO, cancel)
    next(chunks)
    cancel.cancel()
    list(chunks)
    made, server.mode = server.connections, "good"
    assert answer(engine, HELLO)[0] == "".join(WORDS)
    assert server.connections == made + 1


def test_text_that_came_together_is_one_chunk():
    def said(word):
        return b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % word

    end = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    events = Events([said(b"a") + said(b"b"), said(b"c"), said(b"d") + end])
    *chunks, finish = together(TextAnswer(HELLO).chunks(events), events)
    assert chunks == [TextChunk("ab"), TextChunk("c"), TextChunk("d")]
    assert finish == Finish("stop", 0, 4)
    events = Events([said(b"a") + said(b"b") + b'data: {"error": "no"}\n\n'])
    found = together(TextAnswer(HELLO).chunks(events), events)
    assert next(found) == TextChunk("ab")
    with pytest.raises(EngineError):
        next(found)


def test_what_the_server_has_is_found_out(server):
    endpoint = Endpoint(f"{server.root}/v1")
    engine = OpenAiEngine()
    assert [served.name for served in engine.discover(endpoint, "")] == ["parrot", "other"]
    server.digest = "sha256:abc"
    (served,) = engine.discover(endpoint, "parrot")
    assert (served.version, served.context_tokens) == ("sha256:abc", 2048)
    with pytest.raises(EngineError) as refused:
        engine.discover(endpoint, "cockatoo")
    assert refused.value.code is Code.UNSUPPORTED_MODEL


def test_of_a_version_so_much_is_kept_as_a_record_can_say(server, monkeypatch):
    endpoint, most = Endpoint(f"{server.root}/v1"), LIMITS.upstream_name_max_chars
    server.digest = "a" * (most + 1)
    found = OpenAiEngine().discover(endpoint, "parrot")
    said = {"data": [{"id": "parrot", "aigrid": {"model": "b" * (most + 1)}}]}
    monkeypatch.setattr(
        openai_api, "ask_json", lambda _, __, kind, **___: msgspec.convert(said, kind)
    )
    found += OpenAiEngine().discover(endpoint, "parrot")
    assert [one.version for one in found] == ["a" * most, "b" * most]


def test_another_version_under_the_same_name_is_not_what_was_published(server):
    source = text_source(server)
    server.digest = "sha256:other"
    with pytest.raises(EngineError) as refused:
        OpenAiEngine().load(source, threads=1)
    assert "version" in refused.value.message


def test_a_node_does_not_stand_in_front_of_itself(server):
    server.mode = "ourselves"
    with pytest.raises(EngineError) as refused:
        OpenAiEngine().load(text_source(server), threads=1)
    assert "ask itself" in refused.value.message


def test_requests_that_wait_at_the_server_are_told(server):
    server.metrics = 'vllm:num_requests_waiting{model_name="parrot"} 7.0\nother 3\n'
    assert loaded(server).stats().waiting == 7


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (b"", 0),
        (b"sglang:num_queue_reqs 2\nvllm:num_requests_waiting 1\n", 3),
        (b"llamacpp:requests_deferred nan\n", 0),
        (b"llamacpp:requests_deferred x\n", 0),
        (b"vllm:num_requests_waiting -4\n", 0),
    ],
)
def test_metrics_are_read_with_suspicion(metrics, expected):
    assert waiting(metrics) == expected


def events_of(*choices: dict[str, Any]) -> list[bytes]:
    return [*(json.dumps({"choices": [choice]}).encode() for choice in choices), b"[DONE]"]


def test_log_probabilities_are_those_of_the_text_and_have_no_ids():
    chat = {
        "delta": {"content": "Hi"},
        "finish_reason": "stop",
        "logprobs": {
            "content": [
                {
                    "token": "Hi",
                    "logprob": -0.5,
                    "bytes": [72, 105],
                    "top_logprobs": [{"token": "Hi", "logprob": -0.5}, {"token": "No"}],
                }
            ]
        },
    }
    plain = {
        "text": "Hi",
        "finish_reason": "stop",
        "logprobs": {
            "tokens": ["Hi"],
            "token_logprobs": [-0.5],
            "top_logprobs": [{"Hi": -0.5, "No": None}],
        },
    }
    expected = TokenLogprob(None, "Hi", -0.5, ((None, "Hi", -0.5), (None, "No", -1e38)))
    for choice in (chat, plain):
        request = TextRequest(prompt="x", top_logprobs=2)
        chunk, _ = TextAnswer(request).chunks(events_of(choice))
        assert chunk == TextChunk("Hi", (), (expected,))


def test_what_is_said_beside_text_is_passed_on():
    thought = {"delta": {"role": "assistant", "reasoning_content": "hm", "tool_calls": []}}
    call = {"delta": {"content": None, "tool_calls": [{"index": 0, "id": "1"}], "refusal": None}}
    last = {"delta": {"content": ""}, "finish_reason": "tool_calls"}
    *said, finish = TextAnswer(HELLO).chunks(events_of(thought, call, last))
    assert said == [
        TextChunk("", more=b'{"reasoning_content":"hm"}'),
        TextChunk("", more=b'{"tool_calls":[{"index": 0, "id": "1"}]}'),
        TextChunk(""),
    ]
    assert finish == Finish("tool_calls", 0, 2)


def test_a_piece_that_says_too_much_is_an_error():
    thought = {"delta": {"reasoning_content": "x" * 300_000}}
    with pytest.raises(EngineError):
        list(TextAnswer(HELLO).chunks(events_of(thought)))


def test_what_a_request_has_further_is_posted_as_it_was_sent():
    more = b'{"tools":[{"x":1.0e3}],"stream":false,"user":"u"}'
    message = b'{"content":[{"type":"image_url"}],"name":"n"}'
    request = TextRequest(messages=(ChatMessage("user", "", message),), more=more)
    body = body_of(request, "parrot")
    assert b'"tools":[{"x":1.0e3}]' in body
    posted = json.loads(body)
    assert (posted["stream"], posted["user"]) == (True, "u")
    assert posted["messages"] == [{"role": "user", "content": [{"type": "image_url"}], "name": "n"}]


@pytest.mark.parametrize(
    ("reason", "ours"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter")],
)
def test_why_an_answer_ends_is_told(reason, ours):
    *_, finish = TextAnswer(HELLO).chunks(events_of({"delta": {}, "finish_reason": reason}))
    assert finish == Finish(ours, 0, 0)


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_was_broken_off_is_an_error(reason):
    with pytest.raises(EngineError):
        list(TextAnswer(HELLO).chunks(events_of({"delta": {}, "finish_reason": reason})))


@given(st.lists(st.binary(min_size=1, max_size=7)))
def test_events_do_not_depend_on_how_they_arrive(pieces):
    joined = b"data: 1\n\n" + b"".join(pieces) + b"\ndata: 2\r\n\n: x\ndata:3"
    apart = (joined[n : n + 1] for n in range(len(joined)))
    assert list(Events([joined])) == list(Events(apart))


def test_log_probabilities_are_asked_for(server):
    engine = loaded(server)
    request = TextRequest(messages=HELLO.messages, top_logprobs=2)
    answer(engine, request)
    (body,) = server.asked("/v1/chat/completions")
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)


def test_an_answer_is_never_continued_behind_a_server(server):
    request = TextRequest(messages=HELLO.messages, continued_ids=(1,))
    assert failure(loaded(server), request).code is Code.INVALID_REQUEST
