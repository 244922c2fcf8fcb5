"""Puts together what a node tells other members of how it is."""

from importlib.metadata import version
from typing import TYPE_CHECKING

import trio

from aigrid.node.discovery.vitals import VitalSigns
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.vitals import Vitals

if TYPE_CHECKING:
    from aigrid.node.app import Node


def vitals_of(node: "Node") -> VitalSigns:
    """Of a node whose services are made; it counts as up from now on."""
    since_seconds, software = trio.current_time(), version("aigrid-node")
    return VitalSigns(
        lambda: _measured(node, software, since_seconds),
        node.transport,
        node.rpc,
        node.peers,
        told=node.config.share.vitals,
    )


def _measured(node: "Node", software: str, since_seconds: float) -> Vitals:
    serving, now = node.serving, trio.current_time()
    lately = serving.recent.figures(now)
    warm = [model for model, state in node.pool.states().items() if state == "warm"]
    names = sorted(node.hosting.name(model) for model in warm if node.hosting.offered(model))
    reserved, budget = node.pool.reserved(), node.pool.budget.purses
    return Vitals(
        software=software,
        name=node.config.name,
        uptime_seconds=int(now - since_seconds),
        running=serving.running,
        waiting=serving.waiting,
        served=serving.served,
        failed=serving.failed.total(),
        denied=serving.denied.total(),
        window_ms=round(lately.window_seconds * 1000),
        prompt_tokens=lately.prompt_tokens,
        completion_tokens=lately.completion_tokens,
        first_p50_ms=_milliseconds(lately.first_p50_seconds),
        first_p95_ms=_milliseconds(lately.first_p95_seconds),
        memory={
            place: (reserved.get(place, 0), budget[place])
            for place in sorted(budget)[: LIMITS.vitals_memory_max]
        },
        models=tuple(names[: LIMITS.vitals_models_max]),
        loaded=len(names),
    )


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
