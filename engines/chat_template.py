"""Render a chat with the template that came inside a model, which is a stranger's program.

It runs in Jinja's immutable sandbox with bounds on what it is, what it makes and what its operators
may build. A loop that yields nothing is bounded by the worker's time limit.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import ChatMessage
from aigrid.protocol.limits import LIMITS


class _RejectedError(Exception):
    """The template refused the messages by calling `raise_exception`."""


class ChatTemplate:
    """A compiled template.

    Raises:
        EngineError: `unsupported_model` if it is too long or not Jinja.
    """

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        if len(source) > LIMITS.template_max_chars:
            raise _unsupported(
                f"the chat template is longer than {LIMITS.template_max_chars} characters"
            )
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols],
            optimized=False,  # folding constants takes the cube of how deep an expression is nested
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _reject
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # noqa: BLE001 - its parser meets numbers that are too long, too
            raise _unsupported(f"the chat template is not valid: {error}") from None
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt that asks for the next answer.

        Raises:
            EngineError: `invalid_request` if the template refuses the messages,
                `unsupported_model` if it fails or never ends.
        """
        limit = LIMITS.template_overhead_max_chars + 2 * sum(
            len(message.content) for message in messages
        )
        turns = [{"role": _role(message), "content": message.content} for message in messages]
        try:
            pieces = self._template.generate(
                messages=turns,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._tokens,
            )
            return _join(pieces, limit)
        except _RejectedError as error:
            raise EngineError(
                f"the model's chat template refuses these messages: {error}", Code.INVALID_REQUEST
            ) from None
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's program may fail in any way
            raise _unsupported(f"the chat template failed: {error}") from None


def _join(pieces: Iterator[str], limit: int) -> str:
    kept: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise _unsupported(f"the chat template writes more than {limit} characters")
        kept.append(piece)
    return "".join(kept)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, and operators that cannot make a giant out of nothing."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(x) if isinstance(x, str | list | tuple) else 0 for x in (left, right)]
        numbers = [x for x in (left, right) if isinstance(x, int) and not isinstance(x, bool)]
        size = sum(sizes)
        if operator == "*" and numbers and size:
            size *= max(numbers)
        if operator in {"**", "%"} and (size or any(abs(n) > 1 << 32 for n in numbers)):
            raise SecurityError(f"the operator {operator} is for small numbers only")
        if size > LIMITS.template_operand_max:
            raise SecurityError(f"the operator {operator} would make {size} items")
        return super().call_binop(context, operator, left, right)


def _role(message: ChatMessage) -> str:
    # "developer" is the newer name of the same turn, and templates know only the older one.
    return "system" if message.role == "developer" else message.role


def _to_json(value: Any, indent: int | None = None) -> str:
    """Plain JSON; Jinja's own filter escapes for HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _reject(message: object = "") -> NoReturn:
    raise _RejectedError(str(message)[:200])


def _unsupported(message: str) -> EngineError:
    return EngineError(message[: LIMITS.error_message_max_chars], Code.UNSUPPORTED_MODEL)
