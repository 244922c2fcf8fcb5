"""Members that mean ill. They hold valid memberships, and keep to the wire format."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from scripts.simulation.doubles import Cheat, Failing
from scripts.simulation.workload import CAPABILITY
from scripts.simulation.world import SimNode

from aigrid.engines.base import Engine
from aigrid.engines.echo import EchoEngine
from aigrid.node.app import Node
from aigrid.node.discovery.batches import batches
from aigrid.protocol.inference import TextChunk
from aigrid.protocol.kinds import CapabilityBody, Kind
from aigrid.protocol.messages import RECORDS_TOPIC, Records, encode
from aigrid.protocol.record import sign

FLOOD_SECONDS = 0.5
RECORD_MS = 600_000


def engine_of(kind: str) -> Callable[[], Engine]:
    """What such a node computes with."""
    return {"cheat": Cheat, "sybil": Failing}.get(kind, EchoEngine)


async def arm(
    one: SimNode, kind: str, models: tuple[str, ...], offer: Callable[[str], Awaitable[None]]
) -> None:
    """Have a node `offer` what it says that it serves, and make it what it is.

    Cheats and liars offer the very models of the others: another under the same name would be
    refused as ambiguous.
    """
    if kind in {"cheat", "liar"}:
        for name in models:
            await offer(name)
    elif kind == "sybil":
        await offer(f"sybil-{one.name}")
    if kind == "liar":
        _stall(one.node)


def _stall(node: Node) -> None:
    """It says that it is warm, shows signs of life for ever, and never answers."""

    @asynccontextmanager
    async def infer(*_: Any, **_more: Any) -> AsyncIterator[Any]:
        async def signs() -> AsyncIterator[tuple[TextChunk, ...]]:
            while True:
                yield (TextChunk(""),)
                await trio.sleep(1)

        class Answer:
            receipt = None

            def __aiter__(self) -> AsyncIterator[tuple[TextChunk, ...]]:
                return signs()

        yield Answer()

    vars(node.serving)["infer"] = infer


async def flood(one: SimNode, rate: float, rng: random.Random) -> None:
    """Publish so many records a second under keys of its own, until cancelled."""
    node, number = one.node, 0
    while True:
        await trio.sleep(FLOOD_SECONDS * rng.uniform(0.8, 1.2))
        now_ms, raws = node.now_ms(), []
        for _ in range(max(1, round(rate * FLOOD_SECONDS))):
            number += 1
            did = node.identity.did
            body = CapabilityBody(
                id=f"{did}#spam{number}", broader=(CAPABILITY,), labels={"en": f"spam {number}"}
            )
            record = sign(
                Kind.CAPABILITY,
                body,
                node.identity,
                valid_from_ms=now_ms,
                valid_until_ms=now_ms + RECORD_MS,
            )
            raws.append(record.raw)
        for batch in batches(raws):
            await node.transport.publish(RECORDS_TOPIC, encode(Records(batch)))
