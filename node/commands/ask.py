"""The method behind `aigrid ask`: one question at a terminal."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aigrid.node.app import Node
from aigrid.node.commands.finding import check_capability
from aigrid.node.commands.policy import wishes
from aigrid.node.control import Emit
from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.mesh.routing.waiting import Waiting, following
from aigrid.node.policy.caller import OPERATOR, Caller
from aigrid.node.settings.keep_alive import keep_alive_seconds
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.inference import ChatMessage, TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN

# Short, and steady enough for a small model.
_TOKENS, _TEMPERATURE, _TOP_P = 512, 0.2, 0.9


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """A question; without a model, any that has the capability.

    Attributes:
        purpose, accepts: what for, and licences that are accepted, as in a presentation.
        max_tokens: of the answer; None: a usual number, or what the model has room for.
        keep_alive: how long the model should stay loaded afterwards: see `keep_alive`.
    """

    text: str
    model: str | None = None
    capability: str | None = None
    purpose: str = ""
    accepts: tuple[str, ...] = ()
    max_tokens: Annotated[int, Meta(ge=1, le=LIMITS.max_tokens_max)] | None = None
    keep_alive: str | float | None = None


async def ask(node: Node, params: Ask, emit: Emit) -> dict[str, Any]:
    """Emits the answer as it comes, and before it how far a load is. Raises AigridError."""
    if params.capability and not params.model:
        check_capability(node.graph.index.concepts, params.capability, node.now_ms())
    kept = params.keep_alive
    waiting = Waiting(None if kept is None else keep_alive_seconds(kept))
    purpose, accepts = wishes(params.purpose, params.accepts)
    caller = replace(OPERATOR, purpose=purpose, accepts=accepts)
    parts: list[str] = []
    async with AsyncExitStack() as stack:

        async def tell(text: str) -> None:
            await emit({"progress": text})

        beginning = _begun(stack, node, params, caller, waiting)
        patient = waiting.patiently(beginning, LIMITS.stream_patience_seconds)
        answer = await following(patient, waiting, tell)
        async for batch in answer.chunks:
            for chunk in batch:
                if isinstance(chunk, TextChunk) and chunk.text:
                    parts.append(chunk.text)
                    await emit({"text": chunk.text})
    segments = [msgspec.to_builtins(segment) for segment in answer.segments]
    return {"text": "".join(parts), "model": answer.name, "segments": segments}


async def _begun(
    stack: AsyncExitStack, node: Node, params: Ask, caller: Caller, waiting: Waiting
) -> Answer:
    """With the usual length where that fits; of a small model, as much as it has room for."""
    most = params.max_tokens
    if most is None and not _is_small(node, params.model):
        most = _TOKENS
    try:
        return await stack.enter_async_context(_asked(node, params, caller, waiting, most))
    except AigridError as error:
        by_habit = params.max_tokens is None and most is not None
        if not by_habit or error.code is not Code.CONTEXT_LENGTH_EXCEEDED:
            raise
    return await stack.enter_async_context(_asked(node, params, caller, waiting, None))


def _is_small(node: Node, model: str | None) -> bool:
    """Whether the model that is named has little room: a refusal would count as a request."""
    offers = node.router.offers() if model else ()
    rooms = [c.context_tokens for c in offers if model in (c.name, c.model, MODEL_URN + c.model)]
    return 0 < min(rooms, default=0) < 2 * _TOKENS


def _asked(
    node: Node, params: Ask, caller: Caller, waiting: Waiting, max_tokens: int | None
) -> AbstractAsyncContextManager[Answer]:
    request = TextRequest(
        messages=(ChatMessage("user", params.text),),
        max_tokens=max_tokens,
        temperature=_TEMPERATURE,
        top_p=_TOP_P,
    )
    return node.router.infer(
        params.model or "",
        request,
        request_id=node.new_request_id(),
        caller=caller,
        capability="" if params.model else params.capability or "text-generation",
        patience_seconds=LIMITS.stream_patience_seconds,
        waiting=waiting,
    )
