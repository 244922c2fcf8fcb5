"""What policy costs of a remote request: its steps, beside whole requests through two real nodes.

    python scripts/bench/policy_share.py --requests 200

Prints one JSON line. `request` is a chat completion of one token, asked at the gateway of a node
that holds nothing and served by another, over HTTP and libp2p on this machine: the shortest there
is, so that the share is the largest there can be. `steps` are those of policy, of both nodes, done
in this process on databases on the disk, with a membership and a chain of four credentials:
`present` at the gateway; `verify` (what was seen before, and for comparison everything anew),
`nonce`, `decide` and `budgets` at the serving node; `receipt` signs and keeps one, `received`
checks and keeps it. Requests and steps take turns, so that both see the same machine; medians
count.
"""

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from scripts.nodes import NodeProcess, stop_all, wait_for
from scripts.offers import offers
from tests.engines.gguf_writer import tiny_llama, write

from aigrid.metagraph.database import Database
from aigrid.metagraph.store import Store
from aigrid.node.policy.budgets import Budgets
from aigrid.node.policy.nonces import Nonces
from aigrid.node.policy.receipt_checks import Expected
from aigrid.node.policy.receipts import Receipts
from aigrid.protocol import presentation
from aigrid.protocol.credential_kinds import DelegationBody, GrantBody, Permission, Rule
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import ChatMessage, Finish, TextChunk, TextRequest
from aigrid.protocol.kinds import Kind, MembershipBody, ModelBody
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.policy import Asked, Policies, decide
from aigrid.protocol.presentation import Binding, digest_of, present
from aigrid.protocol.receipt import OutputHash, ReceiptBody, prefix_hash, request_hash
from aigrid.protocol.record import Record, build, sign
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import IssuerStatus
from aigrid.protocol.timestamp import format_ms

MODEL = "tiny"
DAY_MS = 86_400_000
SALT = bytes(16)
REQUEST = TextRequest(messages=(ChatMessage("user", "Tell me of rivers."),), max_tokens=1)


class Steps:
    """Every step of policy in one request, each measured in seconds."""

    def __init__(self, folder: Path) -> None:
        grid, owner, a, b, gateway, node = (Identity(bytes([n]) * 32) for n in range(1, 7))
        self.now_ms = time.time_ns() // 1_000_000
        self.gateway, self.node = gateway, node
        permission = Permission(("invoke",), ("*",), requests_per_day=10**9)
        chain = [self._signed(Kind.GRANT, GrantBody(a.did, permission, 3), owner)]
        for holder, to, left in ((a, b, 2), (b, node, 1), (node, gateway, 0)):
            body = DelegationBody(to.did, chain[-1].content_id, permission, left)
            chain.append(self._signed(Kind.DELEGATION, body, holder))
        member = MembershipBody(id=gateway.did, grid=grid.did)
        self.credentials = [self._signed(Kind.MEMBERSHIP, member, grid), *chain]
        description = ModelDescription("echo", "text-generation", ())
        self.model = model_id(description)
        manifest = ModelBody(
            id=MODEL_URN + self.model,
            name=MODEL,
            capabilities=("text-generation",),
            model=description,
            policy=(Rule(("invoke",), (owner.did,)),),
        )
        self.manifest = self._signed(Kind.MODEL, manifest, owner, status=False)
        self.policies = Policies(grid.did, self.manifest)
        self.statuses = {
            one.did: IssuerStatus(own_ms=self.now_ms) for one in (grid, owner, a, b, node)
        }
        self.seen = {one.raw: one for one in self.credentials}
        database = Database(folder / "serving.db")
        self.nonces, self.budgets = Nonces(database), Budgets(database, now_ms=lambda: self.now_ms)
        stores = [Store(folder / f"{name}.db") for name in ("served", "asked")]
        self.kept, self.got = (
            Receipts(store.database, own_did=one.did, now_ms=lambda: self.now_ms)
            for store, one in zip(stores, (node, gateway), strict=True)
        )
        self.took: dict[str, list[float]] = {}
        self._count = 0

    def once(self) -> None:
        """One request's worth of policy."""
        self._count += 1
        with self._timed("present"):
            binding = Binding(
                "invoke",
                self.model,
                self.manifest.content_id,
                request_hash(SALT, REQUEST),
                prefix_hash(SALT, REQUEST),
            )
            raw = present(
                self.gateway,
                self.credentials,
                binding,
                audience=self.node.did,
                nonce=f"nonce-{self._count:020d}",
                now_ms=self.now_ms,
            )
        with self._timed("verify_anew"):
            presentation.verify(raw)
        with self._timed("verify"):
            shown = presentation.verify(raw, verify_credential=self.seen.__getitem__)
            expected = replace_hashes(binding)
            presentation.check(
                shown, expected, node=self.node.did, peer=self.gateway.did, now_ms=self.now_ms
            )
        with self._timed("nonce"):
            self.nonces.use(
                shown.holder, shown.nonce, until_ms=shown.expires_ms, now_ms=self.now_ms
            )
        asked = Asked(
            self.gateway.did,
            self.node.did,
            self.model,
            self.manifest.content_id,
            frozenset({"text-generation"}),
        )
        with self._timed("decide"):
            decision = decide(
                "invoke", asked, shown.credentials, self.policies, self.statuses, self.now_ms
            )
        with self._timed("budgets"), self.budgets.charge(decision.obligations) as charge:
            charge.spend(2)
        self._receipts(binding, digest_of(raw), decision.relied_on)

    def _receipts(self, binding: Binding, digest: str, relied_on: tuple[str, ...]) -> None:
        with self._timed("receipt"):
            output = OutputHash(SALT)
            output.add((TextChunk("x", (5,)), Finish("length", 60, 1)))
            body = ReceiptBody(
                id=self.gateway.did,
                request_id=f"request-{self._count}",
                model=binding.model,
                manifest=binding.manifest,
                request_hash=binding.request_hash,
                prefix_hash=binding.prefix_hash,
                output_hash=output.hexdigest(),
                prompt_tokens=60,
                completion_tokens=1,
                began=format_ms(self.now_ms),
                ended=format_ms(self.now_ms),
                reason="length",
                presentation=digest,
                credentials=relied_on,
            )
            until_ms = self.now_ms + DAY_MS
            record = sign(
                Kind.RECEIPT,
                body,
                self.node,
                valid_from_ms=self.now_ms,
                valid_until_ms=until_ms,
            )
            self.kept.served(record, SALT, peer=self.gateway.did)
        with self._timed("received"):
            expected = Expected(
                request_id=body.request_id,
                peer=self.node.did,
                model=binding.model,
                manifest=binding.manifest,
                salt=SALT,
                request_hash=binding.request_hash,
                prefix_hash=binding.prefix_hash,
                output_hash=output.hexdigest(),
                began_ms=self.now_ms,
                ended_ms=self.now_ms,
                presentation=digest,
                credentials=relied_on,
                prompt_tokens=60,
                completion_tokens=1,
                reason="length",
            )
            kept = self.got.received(record.raw, expected)
        assert kept == record.content_id

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.took.setdefault(step, []).append(time.perf_counter() - began)

    def _signed(self, kind: Kind, body: Any, identity: Identity, *, status: bool = True) -> Record:
        entry = StatusEntry(getattr(body, "grid", identity.did), 7, 86_400) if status else None
        until_ms = self.now_ms + DAY_MS
        return build(
            kind,
            body,
            identity,
            valid_from_ms=self.now_ms,
            valid_until_ms=until_ms,
            status=entry,
        )


def replace_hashes(binding: Binding) -> Binding:
    """As the serving node makes them, from what came."""
    return Binding(
        binding.action,
        binding.model,
        binding.manifest,
        request_hash(SALT, REQUEST),
        prefix_hash(SALT, REQUEST),
    )


@contextmanager
def two_nodes(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives what sends one request."""
    nodes = [NodeProcess(folder / name) for name in ("asker", "holder")]
    asker, holder = nodes
    try:
        for node in nodes:
            node.start()
        did = holder.cli("id")["did"]
        holder.cli("join", asker.cli("invite", did)["invitation"])
        path = write(folder, tiny_llama())
        holder.cli("publish", str(path), "--capability", "text-generation", "--name", MODEL)
        wait_for(
            lambda: any(m["name"] == MODEL for m in offers(asker)),
            timeout_seconds=20,
            what="the offer",
        )
        body = {
            "model": MODEL,
            "max_tokens": 1,
            "temperature": 0,
            "messages": [{"role": "user", "content": "Tell me of rivers."}],
        }
        yield lambda: post(asker.gateway, body)
    finally:
        stop_all(nodes)


def post(gateway: str, body: dict[str, Any]) -> None:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(gateway.removeprefix("http://"), timeout=30)
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(said[:300])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, two_nodes(Path(name)) as send:
        steps, requests = Steps(Path(name)), []
        for turn in range(arguments.requests + 10):
            began = time.perf_counter()
            send()
            took = time.perf_counter() - began
            steps.once()
            if turn >= 10:  # the model is loaded, and caches are warm
                requests.append(took)
    medians = {step: median(times[10:]) for step, times in steps.took.items()}
    anew = medians.pop("verify_anew")
    whole, policy = median(requests), sum(medians.values())
    turns = zip(*(times[10:] for name, times in steps.took.items() if name in medians), strict=True)
    tell("policy", [sum(turn) for turn in turns], "s", beside=("the request", requests))
    print(
        json.dumps(
            {
                "requests": len(requests),
                "request_ms": round(whole * 1000, 2),
                "steps_us": {step: round(took * 1e6) for step, took in medians.items()},
                "policy_us": round(policy * 1e6),
                "share": round(policy / whole, 3),
                "share_if_verified_anew": round((policy - medians["verify"] + anew) / whole, 3),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
