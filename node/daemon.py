"""A node on a real machine: keys, lock, sockets, worker processes, signals, `ready.json`."""

import functools
import gc
import json
import os
import random
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog
import trio

from aigrid.metagraph.branches import TOPICS
from aigrid.node.app import Node, World
from aigrid.node.commands.commands import NodeCommands
from aigrid.node.control import SOCKET_FILE, ControlServer
from aigrid.node.gateway_setup import gateway_of
from aigrid.node.key_store import keys
from aigrid.node.key_store.former_keys import delegated_to
from aigrid.node.key_store.key_change import pending_rotation
from aigrid.node.key_store.key_file import Passphrase
from aigrid.node.mesh.shelf.copying import in_thread
from aigrid.node.observing.otel import tracer_of
from aigrid.node.pool_setup import spare_settings
from aigrid.node.query_process import start_child
from aigrid.node.settings.config import NodeConfig
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

log = structlog.get_logger()
Announce = Callable[[dict[str, Any]], None]
READY_FILE = "ready.json"
_REDEEM_PAUSE_SECONDS, _REDEEM_FIRST_SECONDS = 2.0, 5.0


def wall_ms() -> int:
    """The wall clock, which only this module hands to the services."""
    return time.time_ns() // 1_000_000


class DirectoryKeys:
    """`GridKeys` over the data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def retire_authority(self) -> None:
        keys.retire_authority(self._data_dir)

    def pending_rotation(self) -> Record | None:
        return pending_rotation(self._data_dir)

    def clear_rotation(self) -> None:
        keys.clear_pending_rotation(self._data_dir)

    def of_former_keys(self) -> list[Record]:
        return delegated_to(self._data_dir, keys.own_did(self._data_dir))


async def serve_forever(
    config: NodeConfig, *, announce: Announce, passphrase: Passphrase = keys.no_passphrase
) -> None:
    """Run a node until SIGINT or SIGTERM; `announce` gets the ready event once it serves.

    `passphrase` is asked for where the keys are protected, before anything is opened or sent.

    Raises:
        UsageError: what on this machine keeps the node from starting.
    """
    os.umask(0o077)  # the directory may be open to others: no file that is made in it is
    data_dir = config.data_dir
    keys.open_data_directory(data_dir)
    with ExitStack() as stack:
        stack.enter_context(keys.data_directory_lock(data_dir))
        ready = data_dir / READY_FILE
        ready.unlink(missing_ok=True)
        stack.callback(ready.unlink, missing_ok=True)
        node = _build(config, passphrase)
        await _run(node, config, announce, ready)


def _build(config: NodeConfig, passphrase: Passphrase) -> Node:
    data_dir = config.data_dir
    identity = keys.load_or_create_identity(data_dir, passphrase)
    authority = keys.load_authority(data_dir, passphrase)
    database = data_dir / "records.db"
    if authority is None and not database.exists():
        authority = keys.create_authority(data_dir, passphrase)
    # libp2p takes a second to import: only here, so that --help and errors before it are quick.
    from aigrid.node.network.libp2p_transport import Libp2pTransport

    transport = Libp2pTransport(
        signing_seed=identity.seed,
        topics=TOPICS,
        now_ms=wall_ms,
        listen=config.listen,
        mdns=config.mdns,
        open_to_strangers=config.open_to_strangers,
    )
    world = World(
        transport=transport,
        spawner=ProcessSpawner(
            data_dir / "logs", data_dir / "scratch", spare_settings=spare_settings(config)
        ),
        now_ms=wall_ms,
        rng=random.Random(secrets.randbits(64)),  # noqa: S311 - jitter and ties, no secrets
        random_bytes=secrets.token_bytes,
        run_blocking=in_thread,
        keys=DirectoryKeys(data_dir),
        database=database,
        cores=os.cpu_count() or 1,
        start_dataset=start_child,
        tracer=tracer_of(os.environ, identity.peer_id),
    )
    return Node(config, world, identity=identity, authority=authority)


async def _run(node: Node, config: NodeConfig, announce: Announce, ready: Path) -> None:
    gateway, said = gateway_of(node, config)
    control = ControlServer(config.data_dir / SOCKET_FILE, NodeCommands(node))
    async with trio.open_nursery() as nursery:
        stopping = trio.Event()
        nursery.start_soon(_on_signal, stopping)
        await nursery.start(node.run)
        await nursery.start(gateway.run)
        await nursery.start(control.run)
        event = functools.partial(_ready_event, node, said)
        # Waited for, but never cut off: an invitation is redeemed once, and the answer may be
        # on its way.
        redeemed = trio.Event()
        nursery.start_soon(_redeem_pending, node, config.data_dir, redeemed)
        with trio.move_on_after(_REDEEM_FIRST_SECONDS):
            await redeemed.wait()
        node.on_switched = lambda: _rewrite_ready(ready, event())
        _write_ready(ready, event())
        announce(event())
        # What is there now stays, and it is most of what there is: to look through it again for
        # what can be freed holds every request up for a tenth of a second, each few hundred.
        gc.collect()
        gc.freeze()
        await stopping.wait()
        log.info("stopping")
        with trio.move_on_after(LIMITS.drain_seconds + 2):
            async with trio.open_nursery() as farewell:
                farewell.start_soon(gateway.stop)
                farewell.start_soon(node.stop)
        nursery.cancel_scope.cancel()
    if node.tracer.enabled:
        await trio.to_thread.run_sync(node.tracer.close)


def _ready_event(node: Node, gateway: dict[str, str]) -> dict[str, Any]:
    return {
        "event": "ready",
        "peer_id": node.identity.peer_id,
        "did": node.identity.did,
        "grid": node.grid.did,
        "authority": node.grid.authority is not None,
        **gateway,
        "listen": [
            f"{address}/p2p/{node.identity.peer_id}" for address in node.transport.listen_addresses
        ],
        "pid": os.getpid(),
    }


def _write_ready(path: Path, event: dict[str, Any]) -> None:
    keys.write_private(path, json.dumps(event).encode() + b"\n")


def _rewrite_ready(path: Path, event: dict[str, Any]) -> None:
    try:
        _write_ready(path, event)
    except OSError as error:  # the node serves all the same
        log.warning("ready_file_not_rewritten", reason=error.strerror)


async def _on_signal(stopping: trio.Event) -> None:
    """The first signal asks politely, the second insists."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            if stopping.is_set():
                os._exit(1)
            stopping.set()


async def _redeem_pending(node: Node, data_dir: Path, done: trio.Event) -> None:
    """Redeem the invitation that `aigrid join` left before the node was up."""
    invitation = keys.load_pending_invitation(data_dir)
    while invitation is not None:
        try:
            grid = await node.join_client.redeem(invitation)
            log.info("invitation_redeemed", grid=grid)
        except AigridError as error:
            log.warning("invitation_not_redeemed", code=error.code.value, reason=error.message)
            if error.info.retry:
                await trio.sleep(_REDEEM_PAUSE_SECONDS)
                continue
        keys.clear_pending_invitation(data_dir)
        break
    done.set()
