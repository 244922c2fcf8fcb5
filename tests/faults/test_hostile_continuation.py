"""A member that breaks answers off and lies of what it said, and a real node that goes on."""

from functools import partial

import pytest
from scripts.offers import offers
from tests.faults import attackers
from tests.faults.conftest import MODEL, ProcessGrid
from tests.faults.test_hostile_holder import END, ask, claim, data, eventually, saying
from tests.faults.test_hostile_member import member

from aigrid.protocol.inference import Finish, TextChunk

pytestmark = pytest.mark.process


def breaking(*chunks: TextChunk) -> attackers.Evil:
    return saying(data(*chunks), END)


MENDED = {
    "ids that are not of the text": breaking(TextChunk("one thing", (5,))),
    "given up unasked": saying(data(TextChunk("a", (5,)), Finish("cancelled", 1, 1))),
    "given up at once": saying(data(Finish("cancelled", 1, 0))),
    "all but the end": breaking(TextChunk("abcd", (5, 6, 7, 8))),
}
TOLD = {
    "ids that no model has": breaking(TextChunk("a", (2**31 - 1,))),
    "text without ids": breaking(TextChunk("no ids"), TextChunk("a", (5,))),
}


def is_offering(grid: ProcessGrid, peer: str) -> bool:
    return any(one["node"] == peer for one in offers(grid.asker))


async def test_what_a_member_breaks_off_is_gone_on_with_or_ends_in_an_error(grid, nursery):
    candidates = grid.holder.cli("find", "text-generation")["candidates"]
    (found,) = [c for c in candidates if c["node"] == grid.holder.peer_id]
    own = grid.holder.cli("record", "show", found["record"])["credentialSubject"]["offers"][0]
    for what, evil in {**TOLD, **MENDED}.items():
        mallory, muxer = await member(nursery, grid)  # the last one is left alone by now
        mallory.evil = evil
        await claim(mallory, muxer, own["model"], own["manifest"])
        await eventually(partial(is_offering, grid, mallory.peer_id))
        answer = await ask(grid, MODEL, stream=True)
        for _ in range(8):
            if mallory.infers:
                break
            answer = await ask(grid, MODEL, stream=True)
        assert mallory.infers, what
        assert ("[DONE]" in answer.text) == (what in MENDED), what
        assert ("connection_lost" in answer.text) == (what in TOLD), what
