"""A node with a new key says again what it said under its former one.

What the former key signed disappears with its membership. The models are still on this disk, so
their manifests are signed anew, and so are the capabilities that this node published, which are in
the namespace of whoever publishes them. Where a policy names the former key, it names the new one.
"""

import msgspec
import structlog
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.local import LocalState
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.protocol.credential_kinds import Rule
from aigrid.protocol.errors import AigridError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Body, CapabilityBody, Kind, ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import Serves
from aigrid.protocol.model import MODEL_URN, model_id

log = structlog.get_logger()
_SETTING = "did"


async def take_over(
    local: LocalState, graph: Metagraph, models: LocalModels, identity: Identity, now_ms: int
) -> None:
    """From the key that this data directory had at its last start to the one it has now.

    To be done before anything is served. After a crash it goes on where it was broken off.
    """
    former, own = local.get(_SETTING) or "", identity.did
    if former == own:
        return
    if former:
        log.info("key_changed_since_last_start", former=former, own=own)
        saying = _SayingAgain(former, graph, models, identity, now_ms)
        for record in graph.store.of_issuer(former):
            if not record.withdrawn and record.valid_until_ms > now_ms:
                try:
                    await saying.say(record.body)
                except AigridError as error:  # one model less: it can be published again
                    log.warning("not_taken_over", subject=record.subject, code=error.code.value)
    local.set(_SETTING, own)


class _SayingAgain:
    def __init__(
        self, former: str, graph: Metagraph, models: LocalModels, identity: Identity, now_ms: int
    ) -> None:
        self._former = former
        self._graph = graph
        self._models = models
        self._identity = identity
        self._now_ms = now_ms

    async def say(self, body: Body) -> None:
        if isinstance(body, CapabilityBody):
            again = msgspec.structs.replace(
                body, id=self._ours(body.id), broader=tuple(map(self._ours, body.broader))
            )
            self._issue(Kind.CAPABILITY, again, LIMITS.capability_ttl_seconds)
        elif isinstance(body, ModelBody):
            model = body.id.removeprefix(MODEL_URN)
            if model not in self._models.list():
                return
            body = await self._with_us_as_publisher(body, model)
            again_model = msgspec.structs.replace(
                body,
                capabilities=tuple(map(self._ours, body.capabilities)),
                serves=body.serves if body.serves is UNSET else self._served(body.serves),
                policy=body.policy if body.policy is UNSET else tuple(map(self._rule, body.policy)),
            )
            self._issue(Kind.MODEL, again_model, LIMITS.manifest_ttl_seconds)
            if body.id != MODEL_URN + model:
                await self._models.discard(model)

    async def _with_us_as_publisher(self, body: ModelBody, model: str) -> ModelBody:
        """A model behind a server is named after its publisher: it becomes another model."""
        upstream = body.model.upstream
        if upstream is UNSET:
            return body
        described = msgspec.structs.replace(
            body.model,
            upstream=msgspec.structs.replace(upstream, publisher=self._identity.did),
        )
        await self._models.add(described, {}, endpoint=self._models.endpoint(model))
        return msgspec.structs.replace(body, id=MODEL_URN + model_id(described), model=described)

    def _issue(self, kind: Kind, body: Body, ttl_seconds: int) -> None:
        """Unless it has been said already, and perhaps taken back since."""
        key = (self._identity.did, kind.value, body.id)
        if self._graph.store.newest(key) is None:
            self._graph.issue(
                kind, body, self._identity, now_ms=self._now_ms, ttl_ms=ttl_seconds * 1000
            )

    def _rule(self, rule: Rule) -> Rule:
        """Our grants count where those of the former key did: that one issues no more."""
        assignees = (self._identity.did if one == self._former else one for one in rule.assignees)
        return msgspec.structs.replace(rule, assignees=tuple(sorted(set(assignees))))

    def _served(self, serves: Serves) -> Serves:
        """In ascending order again, once own capabilities have other names."""
        ours = (msgspec.structs.replace(s, capability=self._ours(s.capability)) for s in serves)
        return tuple(sorted(ours, key=lambda served: served.capability))

    def _ours(self, name: str) -> str:
        """A capability of the former key's namespace, in ours; any other as it is."""
        namespace, mark, own = name.partition("#")
        return self._identity.did + mark + own if mark and namespace == self._former else name
