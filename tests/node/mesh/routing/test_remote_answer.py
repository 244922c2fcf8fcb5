"""An answer of another node, held to what was asked."""

from collections.abc import AsyncIterator

import pytest

from aigrid.node.mesh.routing.remote_answer import RemoteAnswer
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TaskChunk,
    TaskRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Chunks, Pong, Portion, encode, portions

TEXT = TextRequest(prompt="x", max_tokens=2)
TENSORS = TensorRequest({})
TASK = TaskRequest("feature-extraction", b"[]")
OUTPUT = TensorChunk({"x": Tensor("uint8", (1,), b"1")})
END = Finish("stop")
LARGE = list(portions(Chunks((TensorChunk({"x": Tensor("uint8", (5 << 18,), bytes(5 << 18))}),))))
HUGE = TextChunk("x" * (LIMITS.frame_max_bytes - 100))


async def bodies(*batches: tuple[InferChunk, ...] | bytes) -> AsyncIterator[bytes]:
    for batch in batches:
        yield batch if isinstance(batch, bytes) else encode(Chunks(batch))


async def read(request: InferRequest, *batches: tuple[InferChunk, ...] | bytes) -> tuple[int, int]:
    """How many batches held, and how many failures were noted against the node."""
    failures: list[str] = []
    answer = RemoteAnswer(
        bodies(*batches), request, peer="b", failed=lambda **_: failures.append("failed")
    )
    batches_held = 0

    async def read_all() -> None:  # nobody reads beyond `Finish`
        nonlocal batches_held
        while True:
            await anext(answer)
            batches_held += 1

    with pytest.raises(RemoteError) as caught:
        await read_all()
    assert caught.value.code in {Code.PROTOCOL_VIOLATION, Code.CONNECTION_LOST}
    return batches_held, len(failures)


@pytest.mark.parametrize(
    ("request_", "batches"),
    [
        (TEXT, [(TextChunk("a", (1,)), TextChunk("b", (2,))), (TextChunk("c"), END)]),
        (TEXT, [(), (TextChunk(""),), (END,)]),
        (TEXT, [(TextChunk("a b"), Finish("stop", 1, 2))]),
        (TextRequest(prompt="x"), [(TextChunk("a", tuple(range(1000))),)] * 100),
        (TENSORS, [(OUTPUT, END)]),
        (TENSORS, [(TextChunk(""),), (TextChunk(""), OUTPUT, END)]),
        (TASK, [(TextChunk(""),), (TaskChunk(b"1"), END)]),
        (TENSORS, [*LARGE, (END,)]),
        (TASK, [(TaskChunk(b"1"), Finish("stop", LIMITS.prompt_tokens_max, 131072))]),
    ],
)
async def test_an_answer_that_holds_passes_whole(request_, batches):
    held, _ = await read(request_, *batches)
    assert held == len(batches)


@pytest.mark.parametrize(
    ("request_", "batches", "held"),
    [
        (TEXT, [(OUTPUT,)], 0),
        (TENSORS, [(TextChunk("a"),)], 0),
        (TASK, [(TextChunk("", (1,)),)], 0),
        (TEXT, [(END, TextChunk("a"))], 0),
        (TEXT, [(END, END)], 0),
        (TEXT, [encode(Pong(1))], 0),
        (TEXT, [b"\xc1"], 0),
        (TEXT, [(TextChunk("abc", (1, 2, 3)),)], 0),
        (TEXT, [(TextChunk("a b c"),), (Finish("stop", 1, 3),)], 1),
        (TEXT, [(TextChunk("a", (1,)),)] * 9, 2),
        (TEXT, [(HUGE,)] * 9, 1),
        (TENSORS, [(TensorChunk({"x": Tensor("uint8", (1 << 19,), bytes(1 << 19))}),)] * 99, 1),
        (TASK, [(TaskChunk(b"1"),), (TaskChunk(b"2"), END)], 1),
        (TASK, [(TaskChunk(b"1"), TaskChunk(b"2"))], 0),
        (TASK, [(TaskChunk(b"1"),), (Finish("content_filter"),)], 1),
        (TENSORS, [(OUTPUT, Finish("tool_calls"))], 0),
        (TASK, [(TaskChunk(b"1"),), (Finish("stop", 1, 131073),)], 1),
        (TASK, [(TaskChunk(b"1"),), (Finish("stop", 2**53 - 1),)], 1),
        (TENSORS, [(OUTPUT, Finish("stop", 0, 2**53 - 1))], 0),
        (TEXT, [(TextChunk("a b"),), (Finish("stop", LIMITS.prompt_tokens_max + 1, 2),)], 1),
        (TEXT, LARGE, 0),
        (TASK, LARGE, 2),
        (TENSORS, [encode(Portion(b"1"))], 0),
        (TENSORS, LARGE[:2], 2),
        (TENSORS, [*LARGE[:2], encode(Pong(1))], 2),
        (TENSORS, [*LARGE[:2], encode(Portion(b"\xc1", last=True))], 2),
        (TENSORS, [encode(Portion(bytes(LIMITS.portion_bytes)))] * 99, 65),
    ],
)
async def test_an_answer_that_does_not_hold_is_cut(request_, batches, held):
    failures = 1 if held else 0  # until it has begun the caller asks elsewhere, and counts itself
    assert await read(request_, *batches) == (held, failures)


async def test_an_answer_that_the_node_gives_up_is_counted_against_it():
    """Nobody cancelled it: this is a break that does not look like one."""
    failures: list[str] = []
    answer = RemoteAnswer(
        bodies((TextChunk("a", (1,)),), (Finish("cancelled", 1, 1),)),
        TEXT,
        peer="b",
        failed=lambda **_: failures.append("failed"),
    )
    await anext(answer)
    assert failures == []
    await anext(answer)
    assert failures == ["failed"]


async def test_an_answer_that_stops_is_counted_against_its_node():
    assert await read(TEXT, (TextChunk("a", (1,)),)) == (1, 1)
    assert await read(TEXT) == (0, 0)
