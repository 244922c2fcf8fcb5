"""The process that `crash.py` kills: a metagraph on disk, written to as fast as it goes.

    python -m scripts.bench.crash_writer DATABASE SEED NOW_MS

It says in one line of JSON what it is about to do and, once that is committed, what it has done. A
line is shorter than what a pipe takes at once, so that none is ever cut in two.
"""

import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import (
    KINDS,
    AvailabilityBody,
    Body,
    CapabilityBody,
    Kind,
    MembershipBody,
    ModelBody,
    Offer,
)
from aigrid.protocol.limits import DAY
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import Record, build

OWN = Identity(b"\x01" * 32)
AUTHORITIES = {who.did: who for who in (Identity(b"\x02" * 32), Identity(b"\x03" * 32))}
FIRST_GRID = next(iter(AUTHORITIES))
STEP_MS = 1000
BATCH = 8
OWN_NAMES = 200  # fewer than a quota allows, so that they are said again and again
MODELS = 40
OFFER_SECONDS = 90


def open_graph(path: Path, now_ms: int) -> tuple[Metagraph, LocalState]:
    """The metagraph of `OWN`, as a node opens it."""
    store = Store(path)
    local = LocalState(store)
    local.grid = grid = local.grid or FIRST_GRID
    graph = Metagraph(
        store, Index(), grid=grid, own_did=OWN.did, open_to_strangers=False, now_ms=now_ms
    )
    return graph, local


def fact(record: Record) -> list[Any]:
    """What the parent has to know: key, times, content id."""
    return [*record.key, record.valid_from_ms, record.valid_until_ms, record.content_id]


class Writer:
    """Every step is one thing that a node commits; time goes on by `STEP_MS` with each."""

    def __init__(self, path: Path, seed: int, now_ms: int) -> None:
        self._rng = random.Random(seed)
        self._now_ms = now_ms
        self._graph, self._local = open_graph(path, now_ms)
        self._members = [
            Identity(hashlib.sha256(f"{seed} {n}".encode()).digest()) for n in range(4)
        ]

    def run(self) -> None:
        """Until killed."""
        steps: list[Callable[[], None]] = [self._publish, self._withdraw, self._batch, self._expire]
        self._admit()
        while True:
            (step,) = self._rng.choices(steps, weights=(10, 2, 10, 1))
            if self._rng.random() < 0.01:
                step = self._switch
            step()

    def _publish(self) -> None:
        name = f"own-{self._rng.randrange(OWN_NAMES)}"
        body = CapabilityBody(
            id=f"{OWN.did}#{name}",
            broader=("text-generation",),
            labels={"en": f"{name} {self._rng.random()}"},
            input_schema={"description": "x" * self._rng.randrange(2000)},
        )
        self._begin("publish")
        self._done(self._issue(Kind.CAPABILITY, body, OWN))

    def _withdraw(self) -> None:
        self._begin("withdraw")
        subject = f"{OWN.did}#own-{self._rng.randrange(OWN_NAMES)}"
        gone = self._graph.withdraw(Kind.CAPABILITY, subject, OWN, now_ms=self._now_ms)
        self._done(*(() if gone is None else (gone,)))

    def _batch(self) -> None:
        """Records of a member, as they come by gossip: one transaction."""
        now_ms, member = self._now_ms + STEP_MS, self._rng.choice(self._members)
        records = [self._manifest(member, now_ms) for _ in range(BATCH)]
        records = list({record.key: record for record in records}.values())
        offers = tuple(
            Offer(record.subject.removeprefix(MODEL_URN), record.content_id, "warm")
            for record in records
        )
        body = AvailabilityBody(id=member.did, offers=offers)
        records.append(_signed(Kind.AVAILABILITY, body, member, now_ms, OFFER_SECONDS * 1000))
        self._begin("batch", records)
        self._ingest(records)

    def _manifest(self, member: Identity, now_ms: int) -> Record:
        about = ModelDescription(
            format="echo",
            task="text-generation",
            files=(),
            options={"n": self._rng.randrange(MODELS)},
        )
        body = ModelBody(
            id=MODEL_URN + model_id(about),
            name=f"echo-{self._rng.random()}",
            capabilities=("text-generation",),
            model=about,
        )
        return _signed(Kind.MODEL, body, member, now_ms, 100 * DAY * 1000)

    def _expire(self) -> None:
        self._begin("expire")
        self._graph.expire(self._now_ms)
        self._done()

    def _switch(self) -> None:
        """To the other grid, in the order of a node that joins one."""
        grid = next(did for did in AUTHORITIES if did != self._graph.grid)
        self._begin("switch")
        self._graph.switch_grid(grid)
        self._done()
        self._admit()
        self._local.grid = grid

    def _admit(self) -> None:
        authority = AUTHORITIES[self._graph.grid]
        now_ms = self._now_ms + STEP_MS
        memberships = [
            _signed(
                Kind.MEMBERSHIP,
                MembershipBody(id=member.did, grid=authority.did),
                authority,
                now_ms,
                30 * DAY * 1000,
            )
            for member in self._members
        ]
        self._begin("batch", memberships)
        self._ingest(memberships)

    def _issue(self, kind: Kind, body: Body, by: Identity) -> Record:
        ttl_ms = KINDS[kind].ttl_seconds * 1000
        return self._graph.issue(kind, body, by, now_ms=self._now_ms, ttl_ms=ttl_ms)

    def _ingest(self, records: Sequence[Record]) -> None:
        raws = [record.raw for record in records]
        changed, refusals = self._graph.ingest_batch(
            raws, now_ms=self._now_ms, received_from="somebody"
        )
        if refusals or len(changed) != len(records):
            raise AssertionError(refusals)
        self._done(*records)

    def _begin(self, what: str, records: Sequence[Record] = ()) -> None:
        self._now_ms += STEP_MS
        batch = [record.content_id for record in records]
        say({"begin": what, "now_ms": self._now_ms, "batch": batch})

    def _done(self, *records: Record) -> None:
        say({"done": [fact(record) for record in records]})


def _signed(kind: Kind, body: Body, by: Identity, now_ms: int, life_ms: int) -> Record:
    return build(kind, body, by, valid_from_ms=now_ms, valid_until_ms=now_ms + life_ms)


def say(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    say({"begin": "open", "now_ms": int(sys.argv[3]), "batch": []})
    Writer(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])).run()
