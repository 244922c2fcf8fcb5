"""What a node shows of itself in `GET /metrics`, and whether it traces requests."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import trio

from aigrid.node.app import Node
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.observing.metrics import Reading

_ALL: tuple[str, ...] = ()


def readings_of(node: Node, core: GatewayCore, gateway: Mapping[str, int]) -> Iterator[Reading]:
    """Numbers as they are now; `gateway` counts what its guards did. Cheap: no disk is touched."""
    serving, weights = node.serving, node.weights.report()
    yield _one("aigrid_requests_in_flight", "Requests in the gateway.", core.in_flight)
    yield _one("aigrid_serving", "Requests that run on the pool.", serving.running)
    yield _one("aigrid_serving_waiting", "Of these, those that wait.", serving.waiting)
    yield _one("aigrid_served", "Requests served to their end.", serving.served, total=True)
    failed, denied = serving.failed, serving.denied
    yield _by("aigrid_engine_failures", "Of requests.", "code", failed, total=True)
    yield _by("aigrid_denied", "Requests refused by policy.", "code", denied, total=True)
    yield _by(
        "aigrid_gateway_guards", "What the gateway's guards did.", "what", gateway, total=True
    )
    yield from _pool(node)
    tasks = trio.lowlevel.current_statistics().tasks_living
    yield _one("aigrid_tasks", "Tasks that the node runs.", tasks)
    audits = node.auditor.results
    yield _by("aigrid_audits", "Answers of others checked.", "result", audits, total=True)
    others = node.transport.members - {node.identity.peer_id}
    alive = sum(map(node.peers.alive, others))
    peers = {"alive": alive, "not_alive": len(others) - alive}
    yield _by("aigrid_peers", "Other members of the grid.", "state", peers)
    yield _by("aigrid_records", "Records held, by kind.", "kind", node.graph.counts(node.now_ms()))
    yield _by("aigrid_records_refused", "By reason.", "code", node.graph.refused, total=True)
    yield _by("aigrid_joins_refused", "By reason.", "code", node.join_host.refused, total=True)
    network = node.transport.counters()
    yield _by("aigrid_network", "Bytes, and what was refused.", "what", network, total=True)
    yield _one("aigrid_given_bytes", "Of weights.", weights["given_bytes"], total=True)
    yield _one("aigrid_received_bytes", "Of weights.", weights["received_bytes"], total=True)
    yield _one("aigrid_cache_bytes", "Of fetched models on the disk.", weights["cache_bytes"])


def _pool(node: Node) -> Iterator[Reading]:
    views = node.pool.view().values()
    states = {"warm": 0, "loading": 0, "on_disk": 0}
    memory: defaultdict[str, int] = defaultdict(int)
    for view in views:
        states[view.state] += 1
        for place, size in view.memory.items():
            memory[place] += size
    yield _by("aigrid_models", "Models here, by state.", "state", states)
    yield _one("aigrid_leases", "Requests that hold a worker.", sum(v.leases for v in views))
    yield _one("aigrid_queue", "Requests in line for a worker.", sum(v.waiting for v in views))
    yield _one("aigrid_workers", "Loaded workers.", sum(v.workers for v in views))
    yield _by("aigrid_pool_memory_bytes", "Taken by models.", "place", memory)
    yield _by("aigrid_pool_budget_bytes", "What models may take.", "place", node.pool.budget.purses)
    yield _one("aigrid_cold_starts", "Loads of models.", node.loading.cold_starts, total=True)
    failures = node.worker_failures.total
    yield _one("aigrid_worker_failures", "Workers that ended unasked.", failures, total=True)


def _one(name: str, text: str, value: float, *, total: bool = False) -> Reading:
    return Reading(name, text, {_ALL: value}, total=total)


def _by(
    name: str, text: str, label: str, values: Mapping[Any, float], *, total: bool = False
) -> Reading:
    return Reading(
        name, text, {(str(key),): value for key, value in values.items()}, (label,), total=total
    )
