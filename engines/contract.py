"""What every engine promises, as tests that anybody can run on an engine of their own.

It is a part of the package, and needs pytest. In the tests of an engine, subclass it:

    from aigrid.engines.contract import EngineContract

    class TestMyEngine(EngineContract):
        engine = MyEngine

        @pytest.fixture
        def source(self, tmp_path): ...     # a small model of the engine's own format
        @pytest.fixture
        def request_(self): ...             # a request that it answers
        @pytest.fixture
        def wrong_request(self): ...        # one of a shape that it does not take, or None
        @pytest.fixture
        def failing(self, tmp_path): ...    # a model and a request on which it fails, or None

What an engine promises, in short:

- It has a name, and its constructor takes nothing. `probe` tells version, formats, devices and what
  it refuses ("what: why"), or its problem.
- `estimate` says what loading takes before anything is loaded, the same each time: memory, slots,
  and the precision of the weights where there are files. It refuses other formats and options that
  it does not know (`unsupported_model`), and a format that may run code (`Probe.code_formats`)
  unless the source is `trusted` (`unsafe_file`).
- An answer is chunks, then one `Finish`, which counts the tokens that the chunks named. As many
  requests as there are slots run at once.
- An engine that names its tokens can check those of another one, see `TextRequest.checks`.
- A request that is cancelled ends soon with `Finish("cancelled")`: after at most one more chunk.
- What cannot be answered is an `EngineError`: `invalid_request` where the request is wrong, another
  code where the engine failed, as with a model that puts out NaN. The next request is none the
  worse for it.
- `stats` shows what runs while it runs, and what ran.

`docs/plugins.md` does all this for a whole plug-in. Everything runs in the test's own process; what
the worker around an engine adds (limits, confinement, a death) is not the engine's to promise.
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

try:
    import pytest
except ModuleNotFoundError as _error:  # a node runs without it
    raise ModuleNotFoundError(
        "aigrid.engines.contract is for tests and needs pytest: pip install pytest", name="pytest"
    ) from _error

from aigrid.engines.base import CancelToken, Engine, ModelSource
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TaskChunk,
    TensorChunk,
    TextChunk,
    TextRequest,
    TokenLogprob,
)


class EngineContract:
    """Runs in the test's own process; what a worker adds is tested once, in test_workers."""

    engine: type[Engine]
    tokens_have_ids = True  # False where a server counts them and names none

    @pytest.fixture
    def failing(self) -> tuple[ModelSource, InferRequest] | None:
        """A model, and a right request on which the engine fails; None where none is known."""
        return None

    @pytest.fixture
    def loaded(self, source: ModelSource) -> Iterator[Engine]:
        engine = self.engine()
        engine.load(source, threads=1)
        yield engine
        engine.unload()

    @staticmethod
    def chunks(
        engine: Engine, request: InferRequest, cancel: CancelToken | None = None
    ) -> list[Any]:
        return list(engine.infer(request, cancel or CancelToken()))

    def test_is_an_engine_with_a_name(self) -> None:
        engine = self.engine()
        assert isinstance(engine, Engine)
        assert engine.name

    def test_probe_tells_formats_and_devices_or_a_problem(self) -> None:
        probe = self.engine().probe()
        assert probe.engine == self.engine.name
        assert probe.problem or (probe.formats and probe.version and probe.devices)
        msgspec.msgpack.encode(probe)

    def test_probe_says_what_is_refused_and_why(self) -> None:
        probe = self.engine().probe()
        if probe.problem:
            pytest.skip(probe.problem)
        assert probe.refuses, "an engine that takes every file has not looked"
        assert all(": " in line for line in probe.refuses), '"what: why"'
        assert set(probe.code_formats) <= set(probe.formats)

    def test_estimate_grants_a_slot_and_declares_the_precision(self, source: ModelSource) -> None:
        estimate = self.engine().estimate(source)
        assert estimate.memory_bytes >= 0
        assert estimate.slots >= 1
        if source.files:
            assert estimate.precision, "weights have a precision"
            assert estimate.memory_bytes > 0, "weights take memory"

    def test_estimate_loads_nothing_and_says_the_same_again(
        self, source: ModelSource, request_: InferRequest
    ) -> None:
        engine = self.engine()
        assert engine.estimate(source) == engine.estimate(source)
        # Nobody asks a model that is not loaded, so how that fails is the engine's own affair.
        with pytest.raises(Exception):  # noqa: B017, PT011
            self.chunks(engine, request_)

    def test_an_option_that_is_not_known_is_refused(self, source: ModelSource) -> None:
        unknown = replace(source, options={**source.options, "no_such_option": 1})
        with pytest.raises(EngineError, match="no_such_option") as refused:
            self.engine().estimate(unknown)
        assert refused.value.code is Code.UNSUPPORTED_MODEL

    def test_a_format_that_may_run_code_needs_a_trusted_publisher(
        self, source: ModelSource
    ) -> None:
        if source.format not in self.engine().probe().code_formats:
            pytest.skip("files of this format run no code")
        stranger = replace(source, trusted=False)
        with pytest.raises(EngineError) as refused:
            self.engine().estimate(stranger)
        assert refused.value.code is Code.UNSAFE_FILE
        with pytest.raises(EngineError) as refused:
            self.engine().load(stranger, threads=1)
        assert refused.value.code is Code.UNSAFE_FILE

    def test_a_foreign_format_is_refused(self, source: ModelSource) -> None:
        with pytest.raises(EngineError) as refused:
            self.engine().estimate(replace(source, format="nonsense"))
        assert refused.value.code is Code.UNSUPPORTED_MODEL

    def test_an_answer_ends_with_exactly_one_finish(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        chunks = self.chunks(loaded, request_)
        assert [type(c) for c in chunks].count(Finish) == 1
        assert isinstance(chunks[-1], Finish)
        assert all(isinstance(c, TextChunk | TensorChunk | TaskChunk) for c in chunks[:-1])

    def test_chunks_survive_the_wire(self, loaded: Engine, request_: InferRequest) -> None:
        for chunk in self.chunks(loaded, request_):
            again = msgspec.msgpack.decode(msgspec.msgpack.encode(chunk), type=InferChunk)
            assert again == chunk

    def test_tokens_are_counted(self, loaded: Engine, request_: InferRequest) -> None:
        *chunks, finish = self.chunks(loaded, request_)
        told = sum(len(c.token_ids) for c in chunks if isinstance(c, TextChunk))
        if self.tokens_have_ids:
            assert finish.completion_tokens == told
        else:
            assert told == 0
            assert finish.completion_tokens > 0

    def test_a_check_finds_the_token_that_it_would_not_have_said(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        if not isinstance(request_, TextRequest) or not self.tokens_have_ids:
            pytest.skip("only text whose tokens have ids is checked")
        asked = msgspec.structs.replace(request_, temperature=1.0, seed=5, max_tokens=8, stop=())
        answer = [c for c in self.chunks(loaded, asked) if isinstance(c, TextChunk)]
        said = [token for chunk in answer for token in chunk.token_ids]

        def differing(tokens: list[int]) -> tuple[list[int], str]:
            found, text = self.checked(loaded, asked, tokens, max_tokens=0)
            assert [one.token_id for one in found] == tokens
            return [n for n, one in enumerate(found) if one.top[0][0] != one.token_id], text

        assert differing(said) == ([], "".join(chunk.text for chunk in answer))
        other = said[-1] - 1 if said[-1] else 1
        assert differing([*said[:-1], other])[0] == [len(said) - 1]

    def test_a_check_tells_how_likely_the_end_is(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        if not isinstance(request_, TextRequest) or not self.tokens_have_ids:
            pytest.skip("only text whose tokens have ids is checked")
        asked = msgspec.structs.replace(request_, temperature=0.0, seed=5, max_tokens=2, stop=())
        *answer, finish = self.chunks(loaded, asked)
        said = [token for chunk in answer for token in getattr(chunk, "token_ids", ())]
        assert isinstance(finish, Finish)
        full, _ = self.checked(loaded, asked, said, max_tokens=0)
        assert len(full) == len(said)
        *_, end = self.checked(loaded, asked, said, max_tokens=1)[0]
        assert (end.token_id, end.top) == (None, ())
        assert end.logprob <= 0
        if finish.reason == "stop":
            assert end.logprob > math.log(1e-3)
        one, _ = self.checked(loaded, asked, [], max_tokens=1)
        assert [each.token_id for each in one] == [None]
        assert one[0].logprob < 0

    def checked(
        self, loaded: Engine, asked: TextRequest, tokens: list[int], *, max_tokens: int
    ) -> tuple[list[TokenLogprob], str]:
        check = msgspec.structs.replace(
            asked, continued_ids=tuple(tokens), max_tokens=max_tokens, checks=True
        )
        *chunks, finish = self.chunks(loaded, check)
        assert isinstance(finish, Finish)
        assert finish.completion_tokens == 0
        texts = [chunk for chunk in chunks if isinstance(chunk, TextChunk)]
        assert not any(chunk.token_ids for chunk in texts)
        return [one for c in texts for one in c.logprobs], "".join(c.text for c in texts)

    def test_a_cancelled_request_says_so(self, loaded: Engine, request_: InferRequest) -> None:
        cancel = CancelToken()
        cancel.cancel()
        last = self.chunks(loaded, request_, cancel)[-1]
        assert isinstance(last, Finish)
        assert last.reason == "cancelled"

    def test_a_cancel_in_the_middle_ends_the_answer(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        cancel = CancelToken()
        answer = loaded.infer(request_, cancel)
        first = next(answer)
        assert not isinstance(first, Finish), "the request has no answer"
        threading.Thread(target=cancel.cancel).start()
        cancelled = threading.Event()
        cancel.on_cancel(cancelled.set)
        assert cancelled.wait(60)
        *more, last = answer
        assert len(more) <= 1, "the answer goes on"
        assert isinstance(last, Finish)
        assert last.reason == "cancelled" or not more, "it was not at its end"
        assert loaded.stats().running == 0

    def test_a_request_of_another_shape_is_refused(
        self, loaded: Engine, wrong_request: InferRequest | None
    ) -> None:
        if wrong_request is None:
            pytest.skip("this engine takes every shape")
        with pytest.raises(EngineError) as refused:
            self.chunks(loaded, wrong_request)
        assert refused.value.code is Code.INVALID_REQUEST

    def test_a_failure_is_typed_and_the_next_request_is_none_the_worse(
        self, failing: tuple[ModelSource, InferRequest] | None
    ) -> None:
        if failing is None:
            pytest.skip("no request is known on which this engine fails")
        source, request = failing
        engine = self.engine()
        engine.load(source, threads=1)
        for _ in range(2):
            with pytest.raises(EngineError) as failed:
                self.chunks(engine, request)
            assert failed.value.code is not Code.INVALID_REQUEST, "it is not the request's fault"
        assert engine.stats().running == 0
        engine.unload()

    def test_requests_run_at_once_up_to_the_slots(
        self, source: ModelSource, request_: InferRequest
    ) -> None:
        engine = self.engine()
        slots = min(engine.load(source, threads=1).slots, 4)
        together = threading.Barrier(slots, timeout=60)
        ends: list[Any] = []

        def ask() -> None:
            answer = engine.infer(request_, CancelToken())
            first = next(answer)
            together.wait()  # so all have begun, and none has ended
            running = engine.stats().running
            together.wait()
            ends.append((running, [first, *answer][-1]))

        threads = [threading.Thread(target=ask) for _ in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ends) == slots, "a request failed beside another"
        assert [running for running, _ in ends] == [slots] * slots
        assert all(isinstance(end, Finish) and end.reason != "cancelled" for _, end in ends)
        assert (engine.stats().running, engine.stats().requests) == (0, slots)
        engine.unload()

    def test_stats_count_requests_and_come_back_to_rest(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        before = loaded.stats()
        self.chunks(loaded, request_)
        after = loaded.stats()
        assert after.requests == before.requests + 1
        assert after.running == 0
        assert after.busy_seconds >= before.busy_seconds

    def test_what_runs_is_seen_and_left_in_the_middle_runs_no_longer(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        assert loaded.stats().running == 0
        answer = loaded.infer(request_, CancelToken())
        next(answer)
        assert loaded.stats().running == 1
        answer.close()  # type: ignore[attr-defined]  # a generator, in every engine so far
        assert loaded.stats().running == 0
