"""What every engine promises, as tests that anybody can run on an engine of their own.

It is a part of the package, and needs pytest: in the tests of an engine, subclass it as

    from aigrid.engines.contract import EngineContract

    class TestMyEngine(EngineContract):
        engine = MyEngine

        @pytest.fixture
        def source(self, tmp_path): ...     # a small model of the engine's own format
        @pytest.fixture
        def request_(self): ...             # a request that it answers
        @pytest.fixture
        def wrong_request(self): ...        # one of a shape that it does not take, or None

`docs/plugins.md` does so for a whole plug-in. Everything runs in the test's own process; what the
worker around an engine adds (limits, confinement, a death) is not the engine's to promise.
"""

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
)


class EngineContract:
    """Runs in the test's own process; what a worker adds is tested once, in test_workers."""

    engine: type[Engine]
    tokens_have_ids = True  # False where a server counts them and names none

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

    def test_estimate_needs_no_load_and_grants_a_slot(self, source: ModelSource) -> None:
        estimate = self.engine().estimate(source)
        assert estimate.memory_bytes >= 0
        assert estimate.slots >= 1

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

    def test_a_cancelled_request_says_so(self, loaded: Engine, request_: InferRequest) -> None:
        cancel = CancelToken()
        cancel.cancel()
        last = self.chunks(loaded, request_, cancel)[-1]
        assert isinstance(last, Finish)
        assert last.reason == "cancelled"

    def test_a_request_of_another_shape_is_refused(
        self, loaded: Engine, wrong_request: InferRequest | None
    ) -> None:
        if wrong_request is None:
            pytest.skip("this engine takes every shape")
        with pytest.raises(EngineError) as refused:
            self.chunks(loaded, wrong_request)
        assert refused.value.code is Code.INVALID_REQUEST

    def test_stats_count_requests_and_come_back_to_rest(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        before = loaded.stats()
        self.chunks(loaded, request_)
        after = loaded.stats()
        assert after.requests == before.requests + 1
        assert after.running == 0
        assert after.busy_seconds >= before.busy_seconds

    def test_an_answer_left_in_the_middle_is_no_longer_running(
        self, loaded: Engine, request_: InferRequest
    ) -> None:
        answer = loaded.infer(request_, CancelToken())
        next(answer)
        answer.close()  # type: ignore[attr-defined]  # a generator, in every engine so far
        assert loaded.stats().running == 0
