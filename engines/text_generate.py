"""Answer a request for text token by token, over any decoder: sampling, stops, continuation."""

import math
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from aigrid.engines import sampling
from aigrid.engines.counting import Tally
from aigrid.engines.sampling import Logits
from aigrid.engines.text_request import Encoder, Plan, Renderer, make_plan
from aigrid.engines.text_stream import TextStream
from aigrid.protocol.inference import (
    Finish,
    FinishReason,
    InferChunk,
    TextChunk,
    TextRequest,
    TokenLogprob,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import LOGPROBS

# Who waits takes a longer silence for trouble, so an empty chunk says that the work goes on.
_SIGN_OF_LIFE_SECONDS: Final = LIMITS.sign_of_life_seconds
TAKES: Final = (LOGPROBS,)
"""Further members of a request, see `Probe.takes`, that whoever answers with `answer` takes."""

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class Vocabulary(Encoder, Protocol):
    """A tokenizer, both ways.

    Attributes:
        ending: tokens that end an answer.
    """

    @property
    def ending(self) -> Collection[int]: ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for a control token."""

    def name(self, token: int) -> str:
        """A token for a person to read, control tokens included."""


class Decoder(Protocol[R_contra]):
    """One sequence: feed it tokens, it gives the logits after the last of them."""

    @property
    def logits(self) -> Logits:
        """float32 (vocabulary,), finite."""

    def prefill(self, tokens: Sequence[int], run: R_contra) -> Iterator[bool]:
        """Begin a sequence anew, a chunk per item; False, the last, if cancelled."""

    def step(self, tokens: Sequence[int], run: R_contra) -> bool:
        """Append tokens to the sequence; False if cancelled."""


class Loaded(Protocol[R_contra]):
    """A model that can answer; `context` is how many tokens a conversation may have."""

    @property
    def context(self) -> int: ...
    @property
    def tokenizer(self) -> Vocabulary: ...
    @property
    def template(self) -> Renderer | None: ...
    @property
    def decoder(self) -> Decoder[R_contra]: ...


def answer(
    loaded: Loaded[R], request: TextRequest, run: R, tally: Tally, *, vocabulary: int
) -> Iterator[InferChunk]:
    """The answer to a request, and `Finish`; `run` is handed to each step of the decoder.

    Raises:
        EngineError: those of `make_plan` and of the decoder.
    """
    with tally.request():
        plan = make_plan(
            request,
            loaded.tokenizer,
            loaded.template,
            context=loaded.context,
            vocabulary=vocabulary,
            fresh_seed=secrets.randbits(63),
        )
        prompt, produced = len(plan.prompt), 0
        reason: FinishReason = "cancelled"
        try:
            for item in _generate(loaded, plan, run):
                if isinstance(item, TextChunk):
                    produced += len(item.token_ids)
                    yield item
                else:
                    reason = item
            yield Finish(reason, prompt, produced)
        finally:
            tally.add(tokens_in=prompt, tokens_out=produced)


def _generate(loaded: Loaded[R], plan: Plan, run: R) -> Iterator[TextChunk | FinishReason]:
    """Chunks, then the reason of the end."""
    tokenizer, decoder = loaded.tokenizer, loaded.decoder
    piece, ending, choose = tokenizer.piece, tokenizer.ending, sampling.choose
    if plan.checks:
        yield from _check(loaded, plan, run)
        return
    stream = TextStream(plan.stops)
    # What the client already has is not said again, only what the other node still held back.
    for token in plan.continued:
        if token in ending or stream.feed(piece(token)).stopped:
            yield "stop"
            return
    alive, heard = True, time.monotonic()
    for alive in _catch_up(decoder, plan, run) if plan.budget else ():
        if alive and time.monotonic() - heard >= _SIGN_OF_LIFE_SECONDS:
            heard = time.monotonic()
            yield TextChunk("")
    first = len(plan.continued)
    for position in range(first, first + plan.budget):
        if not alive:
            yield "cancelled"
            return
        token = choose(decoder.logits, plan.sampling, position)
        if token in ending:
            yield from _rest(stream)
            yield "stop"
            return
        said = stream.feed(piece(token))
        logprobs = _logprobs(loaded, token, plan.top_logprobs)
        yield TextChunk(said.text, (token,), logprobs)
        if said.stopped:
            yield "stop"
            return
        if position + 1 < first + plan.budget:
            alive = decoder.step((token,), run)
    yield from _rest(stream)
    yield "length"


def _check(loaded: Loaded[R], plan: Plan, run: R) -> Iterator[TextChunk | FinishReason]:
    """What this model makes of tokens that somebody else says it gave, each after those before.

    Step by step, as they were chosen: see `_catch_up`.
    """
    decoder, alive, room = loaded.decoder, True, plan.budget > 0
    stream = TextStream(plan.stops)
    for alive in decoder.prefill(plan.prompt, run):
        if alive:
            yield TextChunk("")  # a sign of life
    for position, token in enumerate(plan.continued):
        if not alive:
            break
        drawn = sampling.choose(decoder.logits, plan.sampling, position)
        said = stream.feed(loaded.tokenizer.piece(token))
        yield TextChunk(said.text, (), (_checked(loaded, token, drawn),))
        room = room and not said.stopped
        if room or position + 1 < len(plan.continued):
            alive = decoder.step((token,), run)
    if not alive:
        yield "cancelled"
        return
    yield from _rest(stream)
    if room and loaded.tokenizer.ending:
        yield TextChunk("", (), (_end(loaded),))
    yield "length"


def _checked(loaded: Loaded[Any], token: int, drawn: int) -> TokenLogprob:
    logits, name = loaded.decoder.logits, loaded.tokenizer.name
    given, own = (sampling.log_probabilities(logits, one, 0)[0] for one in (token, drawn))
    return TokenLogprob(token, name(token), given, ((drawn, name(drawn), own),))


def _end(loaded: Loaded[Any]) -> TokenLogprob:
    """How likely an answer is to end here."""
    logits = loaded.decoder.logits
    each = [sampling.log_probabilities(logits, one, 0)[0] for one in loaded.tokenizer.ending]
    most = max(each)
    return TokenLogprob(None, "", most + math.log(sum(math.exp(one - most) for one in each)))


def _catch_up(decoder: Decoder[R], plan: Plan, run: R) -> Iterator[bool]:
    """Compute what was said before; False, the last, if cancelled.

    What was said is computed token by token, as it was when it was chosen: in chunks the last bits
    differ, of 8-bit blocks a good deal more than these, and sooner or later a token. That takes as
    long as it took to choose them, so of a long answer it is done in chunks after all.
    """
    exact = len(plan.continued) <= LIMITS.continued_exact_tokens
    alive = True
    for alive in decoder.prefill(plan.prompt if exact else plan.prompt + plan.continued, run):
        yield alive
    for token in plan.continued if exact else ():
        if not alive:
            return
        alive = decoder.step((token,), run)
        yield alive


def _rest(stream: TextStream) -> Iterator[TextChunk]:
    rest = stream.end().text
    if rest:
        yield TextChunk(rest)


def _logprobs(loaded: Loaded[Any], token: int, top: int | None) -> tuple[TokenLogprob, ...]:
    if top is None:
        return ()
    name = loaded.tokenizer.name
    logprob, best = sampling.log_probabilities(loaded.decoder.logits, token, top)
    alternatives = tuple((other, name(other), value) for other, value in best)
    return (TokenLogprob(token, name(token), logprob, alternatives),)
