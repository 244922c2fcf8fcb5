"""The gateway of a node, as its configuration wants it: on which port, with TLS, and for whom."""

import functools

from aigrid.node.app import Node
from aigrid.node.commands.model_views import whereabouts
from aigrid.node.commands.status import status_of
from aigrid.node.gateway.auth.authenticator import Authenticator
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.http.tls import ServerTls, load, self_signed
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.network.tcp import addresses_of
from aigrid.node.observing.observer import Observer
from aigrid.node.observing_setup import readings_of
from aigrid.node.outcome_setup import contracts_of, misfit_of, outcomes_of
from aigrid.node.repository_setup import PoolRepository, manifest_of
from aigrid.node.settings.config import NodeConfig
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS

_PORTS_TRIED = 32
_EVERYWHERE = {  # and what is listened on then: of IPv6, IPv4 is a part
    "0.0.0.0": ("0.0.0.0",),  # noqa: S104 - compared
    "::": ("0.0.0.0", "::"),  # noqa: S104
}


def gateway_of(node: Node, config: NodeConfig) -> tuple[Gateway, dict[str, str]]:
    """The gateway, its port taken; and what to tell of it: `gateway`, and `tls_fingerprint`.

    Raises:
        UsageError: `port_in_use`, `unsafe_binding`, or what is wrong with the certificate.
    """
    core = GatewayCore(
        node.audited,
        status=functools.partial(status_of, node),
        now_ms=node.now_ms,
        token=node.new_request_id,
        broader=functools.partial(_broader, node),
        whereabouts=functools.partial(whereabouts, node),
        contract=contracts_of(node).of,
        misfit=misfit_of(node),
    )
    observer = Observer(
        readings=lambda: readings_of(node, core, gateway.counters()), tracer=node.tracer
    )
    auth = Authenticator(node.policy.access, keyless=config.keyless, now_ms=node.now_ms)
    gateway = _bound(core, auth, _tls(node, config), node, config, observer=observer)
    said = {"gateway": f"{gateway.scheme}://{gateway.address}"}
    if gateway.fingerprint:
        said["tls_fingerprint"] = gateway.fingerprint
    node.policy.access.gateway = lambda: {
        **said,
        "keyless": auth.keyless,
        "counters": gateway.counters(),
    }
    return gateway, said


def _broader(node: Node, capability: str) -> list[str]:
    """What is above a capability now: records that say so may have ended."""
    now_ms = node.now_ms()
    above = node.graph.index.concepts.ancestors(capability)
    return [name for name, until_ms in above.items() if until_ms > now_ms]


def _tls(node: Node, config: NodeConfig) -> ServerTls | None:
    if config.tls_cert is not None and config.tls_key is not None:
        return load(config.tls_cert, config.tls_key)
    if not config.tls:
        return None
    names, own = certified(config.gateway[0])
    names = (*names, *config.gateway_names)
    return self_signed(config.data_dir, names, also=own, now_ms=node.now_ms())


def certified(host: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a certificate for a gateway on `host` has to name; and what else this machine is."""
    if host not in _EVERYWHERE:
        return (host,), ()
    own = [one for family in _EVERYWHERE[host] for one in addresses_of(family)]
    return (), tuple(own[: LIMITS.config_addresses_max])


def _bound(
    core: GatewayCore,
    auth: Authenticator,
    tls: ServerTls | None,
    node: Node,
    config: NodeConfig,
    *,
    observer: Observer,
) -> Gateway:
    """Take the gateway's port; the default one yields to the next free one."""
    host, port = config.gateway
    last = port if config.gateway_explicit else port + _PORTS_TRIED
    while True:
        gateway = Gateway(
            core,
            host=host,
            port=port,
            auth=auth,
            queries=node.querying,
            manifest=functools.partial(manifest_of, node),
            repository=PoolRepository(node),
            outcomes=outcomes_of(node, core),
            tls=tls,
            names=config.gateway_names,
            observer=observer,
            limits=GatewayLimits(
                patience_seconds=config.patience_seconds,
                stream_patience_seconds=max(
                    config.patience_seconds, LIMITS.stream_patience_seconds
                ),
            ),
        )
        try:
            gateway.bind()
        except UsageError as error:
            if error.code is not Code.PORT_IN_USE or port >= last:
                raise
            port += 1
            continue
        return gateway
