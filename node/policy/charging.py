"""What an answer costs its caller in tokens, as it comes. Pure.

The serving node counts the tokens, and may be wrong or lie: it is believed within what this request
can have cost, and a text of no tokens at all was not counted. An answer that broke off has no such
count; its tokens were seen, and its prompt is estimated, so that hanging up early is not free of
charge.
"""

from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TaskRequest,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS

_TEMPLATE_TOKENS = 4096  # what a chat template adds, generously
_BYTES_PER_TOKEN = 4  # of text, where nobody has counted


class Charge:
    """Of one answer; each call returns the tokens to charge now."""

    def __init__(self, request: InferRequest) -> None:
        self._prompt_bytes = _prompt_bytes(request)
        self._is_text = isinstance(request, TextRequest)
        asked = request.max_tokens if isinstance(request, TextRequest) else 0
        self._completion_max = LIMITS.max_tokens_max if asked is None else asked
        self._seen = 0
        self._unnumbered_bytes = 0
        self._closed = False

    def chunks(self, chunks: tuple[InferChunk, ...]) -> int:
        """For chunks that have come."""
        tokens = 0
        for chunk in chunks:
            if isinstance(chunk, TextChunk):
                tokens += len(chunk.token_ids)
                if not chunk.token_ids:
                    self._unnumbered_bytes += len(chunk.text.encode()) + len(chunk.more)
        self._seen += tokens
        if isinstance(chunks[-1], Finish):
            self._closed = True
            tokens += self._at_the_end(chunks[-1])
        return tokens

    @property
    def counted(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer as far as it came, estimated as for a charge."""
        return _tokens(self._prompt_bytes), self._seen or _tokens(self._unnumbered_bytes)

    def broke_off(self) -> int:
        """For an answer that nothing follows: nothing more if it had ended."""
        if self._closed:
            return 0
        self._closed = True
        unnumbered = 0 if self._seen else self._unnumbered_bytes
        return _tokens(self._prompt_bytes + unnumbered)

    def _at_the_end(self, finish: Finish) -> int:
        prompt = min(finish.prompt_tokens, 2 * self._prompt_bytes + _TEMPLATE_TOKENS)
        completion = min(finish.completion_tokens, self._completion_max)
        if self._is_text and not prompt:
            prompt = _tokens(self._prompt_bytes)
        if not completion and not self._seen:
            completion = _tokens(self._unnumbered_bytes)
        return prompt + max(0, completion - self._seen)


def most(request: InferRequest) -> int:
    """What a request may cost, about: so much of an allowance is spoken for while it runs."""
    asked = request.max_tokens if isinstance(request, TextRequest) else 0
    completion = LIMITS.context_default_tokens if asked is None else asked
    return _tokens(_prompt_bytes(request)) + completion


def computed_again(request: InferRequest) -> int:
    """Tokens of what was said before, which whoever goes on computes as it does a prompt.

    The counts of an answer are those of its prompt and of what is added, so without these anybody
    could have a prompt computed for nothing, as the beginning of an answer.
    """
    if not isinstance(request, TextRequest):
        return 0
    only_the_end = request.max_tokens == 0 and not request.checks
    return 0 if only_the_end else len(request.continued_ids)


def _tokens(text_bytes: int) -> int:
    """An estimate; nothing is free."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def _prompt_bytes(request: InferRequest) -> int:
    if isinstance(request, TaskRequest):
        return len(request.input)
    if not isinstance(request, TextRequest):
        return 0
    texts = [message.content for message in request.messages]
    more = len(request.more) + sum(len(message.more) for message in request.messages)
    texts += [] if request.prompt is None else [request.prompt]
    ids = len(request.token_ids or ()) + len(request.continued_ids)
    said = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return said + more + _BYTES_PER_TOKEN * ids
