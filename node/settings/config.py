"""Configuration: `D/config.toml`, then the environment (`AIGRID_*`), then flags, merged once.

Each source gives values by the same keys; the last one that names a key wins. What is wrong is a
`UsageError` that names the source, so a person knows which of the three to correct.
"""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigrid.node.settings import policy as policy_settings
from aigrid.node.settings.gateway import (
    DEFAULT_GATEWAY_HOST,
    boolean,
    check_gateway,
    file_path,
    gateway_address,
    host_names,
    patience,
    tls_mode,
)
from aigrid.node.settings.memory import memory, size_bytes
from aigrid.node.settings.names import names
from aigrid.node.settings.placement import PlacementConfig, placement
from aigrid.node.settings.pool import PoolSettings, pool_settings
from aigrid.node.settings.setting import BadValueError, Spelled, number_of, of_user, port_of, texts
from aigrid.node.settings.share import ShareConfig, share
from aigrid.node.settings.trust import TrustConfig, trust
from aigrid.node.settings.weights import WeightsConfig, weights
from aigrid.protocol.errors import UsageError, VerificationError
from aigrid.protocol.host_names import HOST_NAME
from aigrid.protocol.limits import LIMITS

if TYPE_CHECKING:
    from aigrid.protocol.policy import OperatorPolicy

CONFIG_FILE = "config.toml"
DEFAULT_GATEWAY_PORT = 8080

_HOST = re.compile(HOST_NAME)
_ENGINE = re.compile(r"[a-z0-9_]{1,64}")
_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a node is told from outside.

    Attributes:
        data_dir: absolute; holds keys, records, models and the control socket.
        listen: multiaddrs to listen on; empty means the default port, or the next free one.
        gateway: address and port of the HTTP gateway, a loopback one without TLS; port 0 means
            any.
        gateway_explicit: whether somebody chose `gateway`; if not, a port in use yields to the
            next free one.
        gateway_names: what else than its address clients may call the gateway.
        keyless: whether the gateway serves callers without a key, on loopback alone.
        tls: "self-signed" or "".
        tls_cert, tls_key: PEM files of the operator's.
        patience_seconds: that a client of the gateway waits for a model to be loaded.
        bootstrap: multiaddrs with `/p2p/` of nodes to connect to.
        mdns: whether to announce and look for nodes on the local network.
        open_to_strangers: whether nodes that are not members are served.
        name: shown to people beside the PeerId.
        region: where the node is, as its operator calls it; "" says nothing.
        threads: for inference; 0 means all cores.
        memory: place of a device ("cpu", "cuda:0") -> bytes for models there; what is not named
            gets a share of what is free.
        engines: names of engines that come first where several can run a model, best first.
        trusted_publishers: DIDs whose models may run code here; this node's own only if listed.
        pool: how long models stay loaded, and more: see `pool_settings`.
        interests: branches of the metagraph to replicate; None means all of them.
        json: whether output is for programs.
        serve, host: whom to serve, and what to host: see `policy_settings`; `serve` None: as open
            as the grid is.
        holder_requests_per_day, holder_tokens_per_day, holder_concurrency: of each other holder
            of credentials that is served; 0: any.
        accept_licenses: licences that this node accepts when it asks others.
        placement: what this node brings here and loads without being told to.
        weights: how files of models are given away, fetched and kept.
        share: what other members may know of how this node is.
        trust: whose word on the quality of models counts how much.
        names: names of models -> the model ids that they mean here, whoever else uses them.
    """

    data_dir: Path
    listen: tuple[str, ...] = ()
    gateway: tuple[str, int] = (DEFAULT_GATEWAY_HOST, DEFAULT_GATEWAY_PORT)
    gateway_explicit: bool = False
    gateway_names: tuple[str, ...] = ()
    keyless: bool = True
    tls: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    patience_seconds: float = LIMITS.patience_seconds
    bootstrap: tuple[str, ...] = ()
    mdns: bool = True
    open_to_strangers: bool = False
    name: str = "node"
    region: str = ""
    threads: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    engines: tuple[str, ...] = ()
    pool: PoolSettings = field(default_factory=PoolSettings)
    trusted_publishers: frozenset[str] = frozenset()
    interests: frozenset[str] | None = None
    json: bool = False
    serve: frozenset[str] | None = None
    host: frozenset[str] = frozenset({"*"})
    holder_requests_per_day: int = 0
    holder_tokens_per_day: int = 0
    holder_concurrency: int = 0
    accept_licenses: tuple[str, ...] = ()
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    share: ShareConfig = field(default_factory=ShareConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def operator(self) -> "OperatorPolicy":
        """What of this has a say in decisions."""
        return policy_settings.operator_policy(
            serve=self.serve,
            host=self.host,
            open_to_strangers=self.open_to_strangers,
            limits={
                "requests_per_day": self.holder_requests_per_day,
                "tokens_per_day": self.holder_tokens_per_day,
                "concurrency": self.holder_concurrency,
            },
        )


def default_data_dir(environment: Mapping[str, str], home: Path | None) -> Path:
    """`AIGRID_DATA_DIR`, else `aigrid` under the XDG data directory.

    Raises:
        UsageError: neither is said, and there is no home.
    """
    chosen = environment.get("AIGRID_DATA_DIR", "")
    if chosen:
        return of_user(chosen).absolute()
    xdg = Path(environment.get("XDG_DATA_HOME", ""))
    if xdg.is_absolute():
        return xdg / "aigrid"
    if home is None:
        raise UsageError("you have no home directory here; set AIGRID_DATA_DIR")
    return home / ".local" / "share" / "aigrid"


def load(
    data_dir: Path,
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    hostname: str,
) -> NodeConfig:
    """Merge the three sources.

    Args:
        data_dir: where `config.toml` may lie.
        flags: by key; None stands for a flag that was not given.
        environment: the process's; only `AIGRID_` and the upper-case key is read.
        hostname: the default name, made fit to be shown.

    Raises:
        UsageError: `usage` or `unsafe_binding`.
    """
    merged: dict[str, Any] = {"name": _sanitised(hostname)}
    sources = (
        (str(data_dir / CONFIG_FILE), _from_file(data_dir / CONFIG_FILE), ""),
        ("the environment", _from_environment(environment), "AIGRID_"),
        ("the command line", {k: v for k, v in flags.items() if v is not None}, "--"),
    )
    for source, values, prefix in sources:
        for key, value in values.items():
            if key not in _FIELDS:
                raise UsageError(f"{source}: there is no setting {prefix}{key[:80]}")
            field, read = _FIELDS[key]
            try:
                merged[field] = read(Spelled(value) if prefix and isinstance(value, str) else value)
            except BadValueError as error:
                spelled = prefix + _SPELLED.get(prefix, {}).get(key, key)
                raise UsageError(f"{source}: {spelled} {error}", error.code) from None
    config = NodeConfig(
        data_dir=data_dir.absolute(), gateway_explicit="gateway" in merged, **merged
    )
    check_gateway(config.gateway[0], config.tls, config.tls_cert, config.tls_key)
    return config


def _from_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(LIMITS.config_max_bytes + 1)
        if len(raw) > LIMITS.config_max_bytes:
            raise UsageError(f"{path} is larger than {LIMITS.config_max_bytes} bytes")
        return tomllib.loads(raw.decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        # A data directory that is no directory is reported by whoever opens it.
        if isinstance(error, NotADirectoryError):
            return {}
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError are both ValueErrors
        raise UsageError(f"{path} is not TOML: {_in_short(error)}") from None


def _in_short(error: ValueError) -> str:
    """It may name a key, however long; where it is, stands last."""
    text = str(error)
    if len(text) <= 2 * _SHOWN_CHARS:
        return text
    return f"{text[:_SHOWN_CHARS]}...{text[-_SHOWN_CHARS:]}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        key: environment[name]
        for key in _FIELDS
        if (name := f"AIGRID_{key.upper()}") in environment and environment[name]
    }


def _sanitised(hostname: str) -> str:
    kept = "".join(c for c in hostname.split(".", maxsplit=1)[0] if c.isalnum() or c in "-_")
    return kept[: LIMITS.name_max_chars] or "node"


def _addresses(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    addresses = texts(items, "a list of multiaddrs")
    if len(items) > LIMITS.config_addresses_max:
        raise BadValueError(f"lists more than {LIMITS.config_addresses_max} addresses")
    return addresses


def _listen(value: Any) -> tuple[str, ...]:
    addresses = _addresses(value)
    for address in addresses:
        parts = address.split("/")
        if len(parts) != 5 or parts[1] not in ("ip4", "ip6") or not _is_tcp(parts):
            raise BadValueError(
                f"{address[:80]!r} is not of the form /ip4/0.0.0.0/tcp/4001 (port 0 means any)"
            )
    return addresses


def _bootstrap(value: Any) -> tuple[str, ...]:
    addresses = _addresses(value)
    for address in addresses:
        parts = address.split("/")
        if (
            len(parts) != 7
            or not _is_tcp(parts)
            or not port_of(parts[4])
            or not _is_peer(parts[5:])
        ):
            raise BadValueError(
                f"{address[:80]!r} is not of the form /ip4/192.0.2.1/tcp/4001/p2p/PEERID"
            )
    return addresses


def _is_tcp(parts: list[str]) -> bool:
    """Whether `parts` start as those of `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT`."""
    lead, kind, host, transport, port = parts[:5]
    if lead or transport != "tcp" or port_of(port) is None:
        return False
    try:
        if kind == "ip4":
            return bool(ipaddress.IPv4Address(host))
        if kind == "ip6":
            return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False
    return kind in ("dns", "dns4", "dns6") and _HOST.fullmatch(host) is not None


def _is_peer(parts: list[str]) -> bool:
    from aigrid.protocol.identity import public_key_of_peer_id  # late: loads libsodium

    try:
        public_key_of_peer_id(parts[1])
    except VerificationError:
        return False
    return parts[0] == "p2p"


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LIMITS.name_max_chars:
        raise BadValueError(f"must have 1 to {LIMITS.name_max_chars} characters")
    if not value.isprintable():
        raise BadValueError("holds characters that cannot be shown")
    return str(value)


def _threads(value: Any) -> int:
    return number_of(value, LIMITS.threads_max, f"from 0 (all cores) to {LIMITS.threads_max}")


def _engines(value: Any) -> tuple[str, ...]:
    names = texts(value, "a list of names of engines")
    if len(names) > LIMITS.config_engines_max or not all(map(_ENGINE.fullmatch, names)):
        raise BadValueError(f"must be at most {LIMITS.config_engines_max} names such as onnx_text")
    return names


def _publishers(value: Any) -> frozenset[str]:
    from aigrid.protocol.identity import public_key_of_did  # late: loads libsodium

    dids = frozenset(texts(value, "a list of DIDs"))
    if len(dids) > LIMITS.trusted_publishers_max:
        raise BadValueError(f"lists more than {LIMITS.trusted_publishers_max} DIDs")
    for did in sorted(dids):
        try:
            public_key_of_did(did)
        except VerificationError:
            raise BadValueError(
                f"lists {did[:80]!r}, which is no DID such as did:key:z6Mk... (`aigrid id`)"
            ) from None
    return dids


def _interests(value: Any) -> frozenset[str]:
    from aigrid.metagraph.branches import EVERYBODYS, roots  # late: load libsodium
    from aigrid.metagraph.capabilities import known
    from aigrid.protocol.kinds import NO_BRANCH

    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise BadValueError("must be a list of capabilities")
    names = {name.strip() for name in names if name.strip()}
    unknown = sorted(name[:80] for name in names if not known(name) and name != NO_BRANCH)
    if unknown or not names:
        raise BadValueError(
            f"must name shipped capabilities, or {NO_BRANCH}, unlike {', '.join(unknown[:3])!r}"
        )
    if NO_BRANCH in names and len(names) > 1:
        raise BadValueError(f"names {NO_BRANCH} beside others")
    return EVERYBODYS.union(*map(roots, names - {NO_BRANCH}))


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "listen": ("listen", _listen),
    "gateway": ("gateway", gateway_address),
    "gateway_name": ("gateway_names", host_names),
    "keyless": ("keyless", boolean),
    "tls": ("tls", tls_mode),
    "tls_cert": ("tls_cert", file_path),
    "tls_key": ("tls_key", file_path),
    "patience_seconds": ("patience_seconds", patience),
    "bootstrap": ("bootstrap", _bootstrap),
    "mdns": ("mdns", boolean),
    "open": ("open_to_strangers", boolean),
    "name": ("name", _name),
    "region": ("region", policy_settings.region),
    "threads": ("threads", _threads),
    "memory": ("memory", memory),
    "engine": ("engines", _engines),
    "pool": ("pool", pool_settings),
    "trusted_publishers": ("trusted_publishers", _publishers),
    "interest": ("interests", _interests),
    "json": ("json", boolean),
    "serve": ("serve", policy_settings.served),
    "host": ("host", policy_settings.hosted),
    "holder_requests_per_day": ("holder_requests_per_day", policy_settings.amount),
    "holder_tokens_per_day": ("holder_tokens_per_day", policy_settings.amount),
    "holder_concurrency": ("holder_concurrency", policy_settings.amount),
    "accept_licenses": ("accept_licenses", policy_settings.licenses),
    "placement": (
        "placement",
        lambda value: placement(
            value, targets=policy_settings.hosted, size=size_bytes, amount=policy_settings.amount
        ),
    ),
    "weights": ("weights", lambda v: weights(v, size_bytes, boolean, policy_settings.amount)),
    "share": ("share", lambda value: share(value, boolean)),
    "trust": ("trust", trust),
    "names": ("names", names),
}
_SPELLED = {
    "AIGRID_": {key: key.upper() for key in _FIELDS},
    "--": {
        "trusted_publishers": "trust-publisher",
        "accept_licenses": "accept-license",
        **{key: key.replace("_", "-") for key in ("gateway_name", "tls_cert", "tls_key")},
    },
}
"""How a key is spelled where that is another way; see `load` for the prefixes."""
