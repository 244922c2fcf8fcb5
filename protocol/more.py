"""Members of a text request that only some engines take: tools, penalties, schemas. Pure.

They travel as the JSON text that the client sent, untouched, in `TextRequest.more` and
`ChatMessage.more`. An engine says by name which of them it takes. What would change the meaning of
the answer is refused by name where nobody takes it; anything else is passed to whoever takes it,
and ignored by the others.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import InferRequest, TextRequest
from aigrid.protocol.limits import LIMITS

EVERYTHING: Final = "*"
LOGPROBS: Final = "logprobs"
"""What an engine takes that reports log-probabilities where `top_logprobs` asks for them."""

Takes = Annotated[
    tuple[Annotated[str, Meta(max_length=64, pattern=r"^(\*|[a-z][a-z0-9_.]*)\Z")], ...],
    Meta(max_length=LIMITS.takes_max),
]
"""Names of members that are taken, ascending; `*` stands for all."""

# With the values that change nothing.
MEANINGFUL: Final[Mapping[str, tuple[Any, ...]]] = {
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "chat_template": ("",),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "dry_multiplier": (0,),
    "ebnf": ("",),
    "echo": (False,),
    "frequency_penalty": (0,),
    "grammar": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "guided_json": (),
    "guided_regex": ("",),
    "ignore_eos": (False,),
    "json_schema": (),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "modalities": (["text"], []),
    "parallel_tool_calls": (True,),
    "plugins": ([],),
    "presence_penalty": (0,),
    "random_seed": (),
    "reasoning": ({},),
    "reasoning_effort": ("none",),
    "regex": ("",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "thinking": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_a": (0,),
    "top_k": (0, -1),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "xtc_probability": (0,),
}
IN_MESSAGES: Final[Mapping[str, tuple[Any, ...]]] = {
    "audio": (),
    "content": (),
    "function_call": (),
    "tool_calls": ([],),
}
_PREFIX = "messages."
# What a request has fields of its own for, or what another than the engine sees to.
RESERVED: Final = frozenset(
    {
        *(
            "best_of",
            "function_call",
            "functions",
            "keep_alive",
            LOGPROBS,
            "max_completion_tokens",
        ),
        *("max_tokens", "messages", "model", "models", "n", "prompt", "provider", "seed", "stop"),
        *("stream", "stream_options", "temperature", "top_logprobs", "top_p"),
    }
)
_NEUTRAL_MAX_BYTES = 64
_encode = msgspec.json.Encoder().encode
_NAME_MAX_CHARS = 65
_NAMES_SHOWN_MAX = 8
_MEMBERS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
)


def members(text: bytes, where: str = "more") -> dict[str, msgspec.Raw]:
    """The members of a JSON object; none of b"".

    Raises:
        InvalidRequestError: it is none; `where` says what it was.
    """
    if not text:
        return {}
    try:
        text.decode()  # msgspec checks only the strings that it keeps
        return _MEMBERS.decode(text)
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"`{where}` is no JSON object.", param=where) from None


def packed(said: Mapping[str, Any], where: str = "") -> bytes:
    """Further members as they travel; b"" where there are none.

    Raises:
        InvalidRequestError: `body_too_large`; `where` says what it is of.
    """
    text = _encode(said) if said else b""
    if len(text) > LIMITS.more_max_bytes:
        raise InvalidRequestError(
            f"{where or 'The body'} is too large.", Code.BODY_TOO_LARGE, param=where or None
        )
    return text


def is_neutral(raw: bytes | memoryview | msgspec.Raw, neutral: tuple[Any, ...]) -> bool:
    """Whether a member's JSON text is absent, null or one of the values that change nothing."""
    text = bytes(raw)
    if not text:
        return True
    if len(text) > _NEUTRAL_MAX_BYTES:
        return False
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):  # skipping it did not look at it so closely
        return False
    return value is None or any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral
    )


def check_more(request: InferRequest) -> None:
    """Raise InvalidRequestError unless every `more` is an object that says nothing twice.

    What a request has fields for is said there alone.
    """
    if not isinstance(request, TextRequest):
        return
    if twice := sorted(RESERVED & members(request.more).keys()):
        raise InvalidRequestError(f"`{twice[0]}` is no further member.", param=twice[0])
    for message in request.messages:
        if message.more and "role" in members(message.more, "messages"):
            raise InvalidRequestError("`role` is no further member.", param="messages")


def needed(request: InferRequest, *, strict: bool = False) -> frozenset[str]:
    """The names that an engine has to take for the answer to mean what was asked.

    Members of messages are called `messages.NAME`. `strict`: of everything that was said, also
    where ignoring it would do no harm.

    Raises:
        InvalidRequestError: a `more` is no JSON object.
    """
    if not isinstance(request, TextRequest):
        return frozenset()
    found = _meaning(members(request.more), MEANINGFUL, strict=strict)
    if request.top_logprobs is not None:
        found.add(LOGPROBS)
    for message in request.messages:
        if message.more:
            own = _meaning(members(message.more, "messages"), IN_MESSAGES, strict=strict)
            found |= {_PREFIX + name for name in own}
    return frozenset(found)


def untaken(names: Collection[str], takes: Collection[str]) -> tuple[str, ...]:
    """Of the names that are needed those that are not taken, ascending."""
    return () if EVERYTHING in takes else tuple(sorted(set(names) - set(takes)))


def not_taken(names: Collection[str], whom: str) -> InvalidRequestError:
    """The error for what is not taken by `whom`."""
    listed = sorted(names)
    return InvalidRequestError(
        f"Not taken by {whom}: {shown(listed)}.",
        Code.UNSUPPORTED_PARAMETER,
        param=listed[0],
    )


def shown(names: Sequence[str]) -> str:
    """Names as a sentence has them; not any number of them."""
    return ", ".join(f"`{name}`" for name in names[:_NAMES_SHOWN_MAX])


def _meaning(
    said: Mapping[str, msgspec.Raw], known: Mapping[str, tuple[Any, ...]], *, strict: bool
) -> set[str]:
    names = said.keys() if strict else said.keys() & known.keys()
    return {
        name[:_NAME_MAX_CHARS]  # no longer one is taken by anybody
        for name in names
        if not is_neutral(said[name], known.get(name, ()))
    }
