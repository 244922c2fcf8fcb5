"""OpenAI's completion request, decoded and checked: bytes in, a call or an error out.

Source: https://platform.openai.com/docs/api-reference/completions/create. What we have no field for
is passed on as it was sent, to engines that take it: see `protocol.more`.
"""

from typing import Any, Final

import msgspec

from aigrid.node.gateway.openai.fields import (
    ChoicesCall,
    ChoicesFields,
    Refused,
    choices_call,
    counted,
    further,
    invalid,
    parse,
    refuse,
    sampled,
)
from aigrid.protocol.limits import LIMITS

_REFUSED: Final[Refused] = {
    "messages": ((), "are for /v1/chat/completions: send a prompt"),
    "functions": (([],), "are for /v1/chat/completions"),
    "top_logprobs": ((0,), "is for /v1/chat/completions: send the number as logprobs"),
    "max_completion_tokens": ((), "is for /v1/chat/completions: use max_tokens"),
}
_IDS_EXPECTED: Final = "holds token ids that are no numbers from 0 to 2147483647"


class CompletionBody(ChoicesFields, kw_only=True):
    """What is read of the body of a completion request."""

    prompt: str | list[Any]
    logprobs: int | None = None


_DECODER: msgspec.json.Decoder[CompletionBody] = msgspec.json.Decoder(CompletionBody)


def decode_completion(body: bytes) -> ChoicesCall:
    """Decode and check the body of `POST /v1/completions`.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the field where there is one.
    """
    parsed, members = parse(body, _DECODER)
    choices = counted(parsed.n, "n", LIMITS.choices_max) or 1
    best_of = ((1, choices), "is not supported but as n: choose among them")
    refuse(members, {**_REFUSED, "best_of": best_of})
    prompts = _prompts(parsed.prompt)
    if choices * len(prompts) > LIMITS.answers_max:
        param = "prompt" if choices == 1 else "n"
        raise invalid(param, f"asks for more than {LIMITS.answers_max} answers: send fewer at once")
    most = counted(parsed.max_tokens, "max_tokens", LIMITS.max_tokens_max)
    request = msgspec.structs.replace(
        sampled(parsed),
        max_tokens=LIMITS.completion_default_tokens if most is None else most,
        top_logprobs=counted(parsed.logprobs, "logprobs", LIMITS.top_logprobs_max, least=0),
        more=further(members),
    )
    requests = [msgspec.structs.replace(request, **prompt) for prompt in prompts]
    return choices_call(parsed, *requests, choices=choices)


def _prompts(prompt: str | list[Any]) -> list[dict[str, Any]]:
    """The field of a request that each prompt fills: a text, or the ids of its tokens."""
    if isinstance(prompt, str):
        return [{"prompt": prompt}]
    if not prompt:
        raise invalid("prompt", "is empty")
    if all(isinstance(entry, int) for entry in prompt):
        return [{"token_ids": _token_ids(prompt, "prompt")}]
    found = list[dict[str, Any]]()
    for number, entry in enumerate(prompt):
        match entry:
            case str():
                found.append({"prompt": entry})
            case list():
                found.append({"token_ids": _token_ids(entry, f"prompt[{number}]")})
            case _:
                raise invalid(f"prompt[{number}]", "is neither a text nor an array of token ids")
    return found


def _token_ids(ids: list[Any], where: str) -> tuple[int, ...]:
    if not 0 < len(ids) <= LIMITS.max_tokens_max:
        raise invalid(where, f"must have 1 to {LIMITS.max_tokens_max} token ids")
    if not all(type(number) is int and 0 <= number < 2**31 for number in ids):
        raise invalid(where, _IDS_EXPECTED)
    return tuple(ids)
