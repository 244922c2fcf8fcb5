"""Commands about this node: up, status, peers, engines."""

import os
import shlex
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.id_commands import PassphraseFile
from aigrid.node.cli.session import Json, print_json, session, show
from aigrid.node.cli.status_view import show_status
from aigrid.node.settings.setting import known_home, of_user
from aigrid.protocol.errors import UsageError

if TYPE_CHECKING:
    from aigrid.node.key_store.passphrase import PassphraseSource
    from aigrid.node.settings.config import NodeConfig

Interest = Annotated[
    list[str] | None,
    typer.Option(
        help="Capability whose branch of the metagraph to replicate, or `none`; repeatable. "
        "Without it: everything. What is not replicated is asked of others when needed."
    ),
]

Engines = Annotated[
    list[str] | None,
    typer.Option(help="Engine that comes first where several can run a model; repeatable."),
]

Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory for models by device, such as cpu=8GiB,cuda:0=20GiB. "
        "Without it: four fifths of what is free. `aigrid engines` lists the devices."
    ),
]

Threads = Annotated[int | None, typer.Option(help="Threads for inference; 0 means all cores.")]
Open = Annotated[
    bool | None, typer.Option("--open", help="Admit whoever asks; serve strangers, too.")
]
Trusted = Annotated[
    list[str] | None,
    typer.Option(help="DID whose .pt2 models may run code here, confined; repeatable."),
]
Listen = Annotated[
    list[str] | None,
    typer.Option(help="Multiaddr to listen on, such as /ip4/0.0.0.0/tcp/4001; repeatable."),
]
Bootstrap = Annotated[
    list[str] | None,
    typer.Option(help="Multiaddr, with /p2p/PEERID, of a node to connect to; repeatable."),
]
Serve = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WHOM",
        help="Whom to serve: members, anyone, nobody, or holders of a grant from a DID: that DID. "
        "Repeatable. Without it: members, or with --open anyone.",
    ),
]
Host = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WHAT",
        help="What to host: a capability, a model's id or nothing; repeatable. "
        "Without it: everything.",
    ),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPDX", help="Licence that this node accepts for what it asks; repeatable."
    ),
]
Region = Annotated[
    str | None, typer.Option(help="Where this node is, such as eu; `find` can ask for it.")
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="The node's directory (AIGRID_DATA_DIR).")
]
Mdns = Annotated[
    bool | None, typer.Option("--mdns/--no-mdns", help="Find nodes on the local network.")
]
Gateway = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of the HTTP gateway; with TLS also on another address."),
]
GatewayNames = Annotated[
    list[str] | None, typer.Option(help="Name by which clients reach the gateway; repeatable.")
]
Keyless = Annotated[
    bool | None,
    typer.Option("--keyless/--no-keyless", help="Serve callers without a key on 127.0.0.1."),
]
Tls = Annotated[str | None, typer.Option(help="self-signed: a certificate of the node's own.")]
Pem = Annotated[Path | None, typer.Option(help="PEM file for the gateway's TLS.")]


def up(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    listen: Listen = None,
    gateway: Gateway = None,
    gateway_name: GatewayNames = None,
    keyless: Keyless = None,
    tls: Tls = None,
    tls_cert: Pem = None,
    tls_key: Pem = None,
    bootstrap: Bootstrap = None,
    mdns: Mdns = None,
    open_: Open = None,
    name: Annotated[str | None, typer.Option(help="Shown to people beside the PeerId.")] = None,
    region: Region = None,
    threads: Threads = None,
    memory: Memory = None,
    engine: Engines = None,
    interest: Interest = None,
    trust_publisher: Trusted = None,
    serve: Serve = None,
    host: Host = None,
    accept_license: Accept = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Run the node until Ctrl-C. A fresh data directory becomes a private grid of one."""
    from aigrid.node.cli import logs
    from aigrid.node.key_store.keys import open_data_directory
    from aigrid.node.key_store.passphrase import PassphraseSource
    from aigrid.node.settings.config import load

    passphrase = PassphraseSource(passphrase_file, os.environ)
    usual = session(ctx).data_dir
    here = of_user(data_dir).absolute() if data_dir else usual
    config = load(
        here,
        {
            "listen": listen or None,
            "gateway": gateway,
            "gateway_name": gateway_name or None,
            "keyless": keyless,
            "tls": tls,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "bootstrap": bootstrap or None,
            "mdns": mdns,
            "open": open_,
            "name": name,
            "region": region,
            "threads": threads,
            "memory": memory,
            "engine": engine or None,
            "interest": interest or None,
            "trusted_publishers": trust_publisher or None,
            "serve": serve or None,
            "host": host or None,
            "accept_licenses": accept_license or None,
            "json": as_json or None,
        },
        environment=os.environ,
        hostname=socket.gethostname(),
    )
    _check_engines(engine or ())
    open_data_directory(config.data_dir)
    logs.configure(config.data_dir, os.environ)
    if passphrase.named:
        _use_passphrase(config.data_dir, passphrase)
    _serve(config, passphrase)


def _check_engines(preferred: Iterable[str]) -> None:
    """A name that is typed is one that is installed; in a file it may be that of one to come."""
    from aigrid.engines.registry import installed

    known = [one.name for one in installed() if not one.problem]
    if unknown := next((name for name in preferred if name not in known), None):
        raise UsageError(f"--engine: no {unknown!r} is installed here, only {', '.join(known)}")


def _use_passphrase(data_dir: Path, passphrase: "PassphraseSource") -> None:
    """A key that is made now gets the passphrase that was named; one that has none stays plain."""
    from aigrid.node.key_store.keys import NODE_KEY_FILE, create_identity, read_key

    found = read_key(data_dir / NODE_KEY_FILE)
    if found is None:
        create_identity(data_dir, passphrase())
    elif not found.protected:
        render.note("no passphrase protects this node's key yet: `aigrid id protect`")


def _serve(config: "NodeConfig", passphrase: "PassphraseSource") -> None:
    import trio

    from aigrid.node.daemon import serve_forever

    announce = partial(_announce, as_json=config.json, command=_command(config.data_dir))
    trio.run(partial(serve_forever, config, announce=announce, passphrase=passphrase))


def status(ctx: typer.Context, *, as_json: Json = False) -> None:
    """What this node is, and what it knows."""
    show(session(ctx).call("status"), show_status, as_json=as_json)


def peers(ctx: typer.Context, *, as_json: Json = False) -> None:
    """The members this node is connected to or has heard of."""
    labels = {"peer_id": "peer", "alive": "alive"}
    show(
        session(ctx).call("peers"),
        lambda body: render.cards(body["peers"], "did", labels, empty="No other members yet."),
        as_json=as_json,
    )


def _announce(event: dict[str, Any], *, as_json: bool, command: str) -> None:
    if as_json:
        print_json(event)
    elif event.get("event") == "ready":
        render.ready(event, command)


def _command(data_dir: Path, default: Callable[[], Path] | None = None) -> str:
    """How to call this node from another terminal."""
    from aigrid.node.settings.config import default_data_dir

    home = known_home() or data_dir  # without a home no directory is the usual one
    usual = default() if default else default_data_dir(os.environ, home)
    return "aigrid" if data_dir == usual else f"aigrid --data-dir {shlex.quote(str(data_dir))}"


def engines(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List devices and engines: what each can run, and on what."""
    show(session(ctx).call("engines"), _show_engines, as_json=as_json)


def _show_engines(body: dict[str, Any]) -> None:
    _show_devices(body)
    columns = {"engine": "ENGINE", "version": "VERSION", "formats": "FORMATS", "on": "ON"}
    lines = [
        {
            **engine,
            "formats": ", ".join(engine["formats"]),
            "on": engine["problem"] or ", ".join(d["device"] for d in engine["devices"]),
        }
        for engine in body["engines"]
    ]
    render.rows(lines, columns, empty="No engines were found yet.")
    for engine in body["engines"]:
        if engine["refuses"] and not engine["problem"]:
            render.note(f"{engine['engine']} refuses {'; '.join(engine['refuses'])}.")
    if reasons := _reasons(body["engines"]):
        render.say("\n" + "\n".join(reasons))
    render.note(f"Workers are confined: {body['sandbox'] or 'not probed yet'}")


def _reasons(engines: list[dict[str, Any]]) -> list[str]:
    """Why engines leave devices alone, each reason once."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for engine in engines:
        for one in engine["not_on"]:
            names, places = found.setdefault(one["why"], ([], []))
            names.append(engine["engine"])
            places.append(one["device"])
    return [
        f"{', '.join(dict.fromkeys(names))} not on {', '.join(dict.fromkeys(places))}: {why}"
        for why, (names, places) in found.items()
    ]


def _show_devices(body: dict[str, Any]) -> None:
    columns = {
        "device": "DEVICE",
        "name": "NAME",
        "total": "MEMORY",
        "free": "FREE NOW",
        "budget": "FOR MODELS",
        "reserved": "RESERVED",
    }
    lines = [
        {
            **device,
            "total": _gib(device["memory_total_bytes"]),
            "free": _gib(device["memory_free_bytes"]) if device["memory_total_bytes"] else "?",
            "budget": _budget(device),
            "reserved": _gib(device["memory_reserved_bytes"], unknown="0 GiB"),
        }
        for device in body["devices"]
    ]
    if lines:
        render.rows(lines, columns, empty="")
        render.say("")
    for place in body["devices_not_found"]:
        render.note(f"{place} has a budget (--memory) but is not here")
    for name in body["engines_not_found"]:
        render.note(f"{name} is preferred (--engine) but is not installed")


def _budget(device: dict[str, Any]) -> str:
    if device["memory_of"] is None:
        return "no engine uses it"
    if device["memory_of"] != device["device"]:
        return f"with {device['memory_of']}"
    return _gib(device["memory_budget_bytes"], unknown="0 GiB")


def _gib(size_bytes: int, unknown: str = "?") -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes else unknown
