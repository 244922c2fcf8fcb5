"""What Ollama calls options, as fields of a text request and further members. Pure.

Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx (valid parameters and values).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import LIMITS

# Ollama's own, where neither the client nor the model says otherwise.
TEMPERATURE: Final = 0.8
TOP_P: Final = 0.9
_SEED_MAX = 2**63

# How a model is loaded, which is the business of whoever runs the node.
_MACHINE: Final = frozenset(
    {
        *("embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_ctx"),
        *("num_gpu", "num_keep", "num_thread", "numa", "use_mlock", "use_mmap", "vocab_only"),
    }
)
# Ollama's name -> what other servers, and so our engines, call it.
CALLED: Final = {"repeat_penalty": "repetition_penalty"}


class _Options(msgspec.Struct):
    """Those that a text request has fields for."""

    num_predict: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


_FIELDS: Final = frozenset(_Options.__struct_fields__)


def read(options: Mapping[str, msgspec.Raw]) -> tuple[dict[str, Any], dict[str, msgspec.Raw]]:
    """Fields of a `TextRequest`, and its further members.

    Raises:
        InvalidRequestError: a value is none that the option can have.
    """
    known = {name: options[name] for name in _FIELDS & options.keys()}
    try:
        said = msgspec.json.decode(msgspec.json.encode(known), type=_Options)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"`options` is wrong: {error}.", param="options") from None
    fields: dict[str, Any] = {
        "max_tokens": _max_tokens(said.num_predict),
        "temperature": _within("temperature", said.temperature, TEMPERATURE, 2.0),
        # Nothing but the likeliest token, which is what 0 asks for, is greedy.
        "top_p": _within("top_p", said.top_p, TOP_P, 1.0) or 1.0,
        "seed": _seed(said.seed),
        "stop": _stop(said.stop),
    }
    if said.top_p == 0:
        fields["temperature"] = 0.0
    more = {
        CALLED.get(name, name): value
        for name, value in options.items()
        if name not in _FIELDS and name not in _MACHINE and bytes(value) != b"null"
    }
    return fields, more


def _max_tokens(said: int | None) -> int | None:
    if said is None or said < 0:  # -1: without end, -2: what the context holds
        return None
    if not 1 <= said <= LIMITS.max_tokens_max:
        raise _wrong("num_predict", f"must be -1, or from 1 to {LIMITS.max_tokens_max}")
    return said


def _within(name: str, said: float | None, default: float, most: float) -> float:
    if said is None:
        return default
    if not 0.0 <= said <= most:
        raise _wrong(name, f"must be from 0 to {most:g}")
    return said


def _seed(said: int | None) -> int | None:
    if said is None or -_SEED_MAX <= said < _SEED_MAX:
        return said
    raise _wrong("seed", "must fit into 64 bits")


def _stop(said: str | list[str] | None) -> tuple[str, ...]:
    texts = (said,) if isinstance(said, str) else tuple(said or ())
    texts = tuple(text for text in texts if text)
    if len(texts) > LIMITS.stop_max or any(len(one) > LIMITS.stop_max_chars for one in texts):
        raise _wrong(
            "stop",
            f"must be at most {LIMITS.stop_max} texts of {LIMITS.stop_max_chars} characters",
        )
    return texts


def _wrong(name: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"`options.{name}` {what}.", param=f"options.{name}")
