"""Engines of simulated nodes: the echo engine, which virtual time can bear, and bad ones."""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from aigrid.engines.base import CancelToken, Estimate, ModelSource
from aigrid.engines.echo import EchoEngine, token_id
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TextChunk, TokenLogprob

# Share of the words that a cheaper model says otherwise: see tests/simulation/test_audits.py.
CHEATED_SHARE = 0.65


class Parrot(EchoEngine):
    """Repeats what it was asked, whatever files the model has."""

    def estimate(self, source: ModelSource) -> Estimate:
        return super().estimate(replace(source, files={}))


def crashing(
    share: float, rng: random.Random, *, lasts: Callable[[], bool]
) -> Callable[[], EchoEngine]:
    """An honest engine whose worker dies of so many requests, after the first token.

    As long as it `lasts`: crashes are faults, which end.
    """

    class Crashing(Parrot):
        def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
            dies = rng.random() < share and lasts()
            for chunk in super().answer(request, cancel):
                yield chunk
                if dies:
                    raise EngineError("the worker died with SIGSEGV", Code.ENGINE_CRASHED)

    return Crashing


class Cheat(Parrot):
    """Says a share of its words otherwise, always the same ones, as a cheaper model would."""

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        for chunk in super().answer(request, cancel):
            yield _cheated(chunk) if isinstance(chunk, TextChunk) else chunk


class Failing(Parrot):
    """Says that it can do anything, and fails at each request."""

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        raise EngineError("out of order", Code.ENGINE_FAILED)
        yield


def _other(word: str) -> str:
    changed = zlib.crc32(word.strip().encode()) % 100 < 100 * CHEATED_SHARE
    return word.upper() if changed else word


def _cheated(chunk: TextChunk) -> TextChunk:
    if chunk.logprobs:
        checked = tuple(
            TokenLogprob(one.token_id, "", 0.0, ((token_id(_other(text)), text, 0.0),))
            for one in chunk.logprobs
            for _, text, _ in one.top
        )
        return TextChunk("", (), checked)
    return TextChunk(_other(chunk.text), (token_id(_other(chunk.text)),))
