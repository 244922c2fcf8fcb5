"""OpenAI's completions as bytes. Pure translation.

Source: https://platform.openai.com/docs/api-reference/completions.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aigrid.node.gateway.openai.answers import LOGPROB_MIN, ChoicesSpelling
from aigrid.node.gateway.step import Step
from aigrid.node.mesh.routing.answer import Answer
from aigrid.protocol.inference import TokenLogprob

_encode = msgspec.json.Encoder().encode


class CompletionSpelling(ChoicesSpelling):
    """One answer to `POST /v1/completions`."""

    _kind = _chunk_kind = "text_completion"
    _member = b"text"
    _nothing = b'""'

    def begin(self, answer: Answer) -> bytes:
        """See `Spelling`."""
        self._offsets = [0] * self._count
        return super().begin(answer)

    def _piece(self, step: Step) -> bytes:
        if not step.logprobs:
            head = self._choices[step.choice]
            return head + _encode(step.text) + self._piece_tail if step.text else b""
        logprobs, self._offsets[step.choice] = _logprobs(step.logprobs, self._offsets[step.choice])
        return b"".join(
            (
                self._choices[step.choice],
                _encode(step.text),
                b',"logprobs":',
                _encode(logprobs),
                b',"finish_reason":null}',
                self._tail,
            )
        )

    def _choice(self, steps: Sequence[Step]) -> dict[str, Any]:
        entries = [entry for step in steps for entry in step.logprobs]
        return {
            "text": "".join(step.text for step in steps),
            "logprobs": _logprobs(entries, 0)[0] if entries else None,
        }


def _logprobs(entries: Iterable[TokenLogprob], offset: int) -> tuple[dict[str, Any], int]:
    """Log-probabilities as parallel arrays, and where the next token begins.

    `text_offset` counts the characters of the tokens before it, from the answer's first.
    """
    tokens, chosen, tops, offsets = (
        list[str](),
        list[float](),
        list[dict[str, float]](),
        list[int](),
    )
    for entry in entries:
        tokens.append(entry.token)
        chosen.append(max(LOGPROB_MIN, entry.logprob))
        # Tokens that are parts of characters are spelled alike: the likeliest, which comes first.
        top = {token: max(LOGPROB_MIN, logprob) for _, token, logprob in reversed(entry.top)}
        tops.append(dict(reversed(top.items())))
        offsets.append(offset)
        offset += len(entry.token)
    said = {
        "tokens": tokens,
        "token_logprobs": chosen,
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }
    return said, offset
