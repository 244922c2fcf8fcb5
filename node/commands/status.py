"""What a node says of itself to its operator: the bodies of `status`, `peers` and `engines`."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
import trio

from aigrid.engines.base import Device
from aigrid.node.app import Node
from aigrid.node.commands.device_report import devices_report, not_found, not_on
from aigrid.node.commands.model_views import models_of
from aigrid.node.workers.failures import told
from aigrid.protocol.errors import Code
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.timestamp import format_ms


def status_of(node: Node) -> dict[str, Any]:
    """The body of `/aigrid/v1/status`."""
    own, now_ms = node.identity, node.now_ms()
    member, trouble = node.grid.own_membership(), node.router.own_trouble()
    return {
        "peer_id": own.peer_id,
        "did": own.did,
        "name": node.config.name,
        "version": version("aigrid-node"),
        "grid": node.grid.did,
        "authority": node.grid.authority is not None,
        "member_until": "" if member is None else format_ms(member.valid_until_ms),
        "trouble": "" if trouble is None else trouble.message,
        "rotation_pending": node.rotating.pending,
        "rotation_waits_for": node.rotating.waits_for,
        "open": node.config.open_to_strangers,
        "listen": list(node.transport.listen_addresses),
        "gateway": node.policy.access.gateway(),
        "peers": peers_of(node),
        "clock_ahead_ms": node.peers.clock_ahead_ms(),
        "revocations": revocations_of(node),
        "interests": sorted(node.interests.branches),
        "sandbox": node.sandbox,
        "models": models_of(node),
        "loading": dict(node.loading.said),
        "pins": dict(node.pins.problems),
        "withheld": node.hosting.withheld(),
        "wanted": node.placement.view(),
        "weights": node.weights.report(),
        "records": sum(node.graph.counts(now_ms).values()),
        "requests": {
            "running": node.serving.running,
            "waiting": node.serving.waiting,
            "served": node.serving.served,
            "failed": _by_code(node.serving.failed),
            "denied": _by_code(node.serving.denied),
        },
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "worker_failures": told(node.worker_failures, trio.current_time()),
        "typed_queries": dict(node.typed_queries.counts),
        "refused": {
            "records": dict(node.graph.refused),
            "joins": node.join_host.refused.total(),
            "network": node.transport.counters(),
        },
    }


def _by_code(counts: Mapping[Code, int]) -> dict[str, int]:
    return {code.value: count for code, count in sorted(counts.items())}


def revocations_of(node: Node) -> dict[str, Any]:
    """Up to when revocations of members are known, and until when members are served by that."""
    grid = node.grid.did
    status = node.statuses.known().get(grid)
    as_of_ms = 0 if status is None else status.as_of_ms
    ends_ms = as_of_ms + LIMITS.status_age_member_seconds * 1000
    return {
        "known_until": format_ms(as_of_ms) if as_of_ms else "",
        "members_served_until": format_ms(ends_ms) if as_of_ms else "",
        "delegates": len(node.statuses.delegates(grid)[0]),
    }


def peers_of(node: Node) -> list[dict[str, Any]]:
    """Every other member, alive or not."""
    others = node.transport.members - {node.identity.peer_id}
    return [
        {"peer_id": peer, "did": did_of_peer_id(peer), "alive": node.peers.alive(peer)}
        for peer in sorted(others)
    ]


def engines_of(node: Node, devices: Sequence[Device]) -> dict[str, Any]:
    """The devices here, and every installed engine: what it runs on which of them, and why not."""
    return {
        "sandbox": node.sandbox,
        "devices": devices_report(devices, node.pool.budget, node.pool.reserved()),
        "devices_not_found": not_found(node.config.memory, devices),
        "engines_not_found": sorted({*node.config.engines} - {p.engine for p in node.probes}),
        "engines": [
            {
                "engine": probe.engine,
                "version": probe.version,
                "formats": probe.formats,
                "tasks": probe.tasks,
                "devices": [{"device": d.place, **msgspec.to_builtins(d)} for d in probe.devices],
                "not_on": not_on(probe, devices),
                "problem": probe.problem,
                "refuses": probe.refuses,
            }
            for probe in node.probes
        ],
    }
