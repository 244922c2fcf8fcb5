"""The methods behind the control socket: what the command line can ask of a running node."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from aigrid.metagraph.query import AnswerFormat, formats_of
from aigrid.metagraph.terms import RECORD_URN
from aigrid.node.app import Node
from aigrid.node.commands import credentials as credential_commands
from aigrid.node.commands.ask import Ask, ask
from aigrid.node.commands.credential_terms import check_did
from aigrid.node.commands.delegates import Delegates, delegates
from aigrid.node.commands.evaluating import evaluation_methods
from aigrid.node.commands.experience import experience_methods
from aigrid.node.commands.finding import (
    Find,
    check_capability,
    check_new_capability,
    find,
)
from aigrid.node.commands.keys import key_methods
from aigrid.node.commands.misfit import misfit
from aigrid.node.commands.model_views import ShowModel, models_of, show_model
from aigrid.node.commands.outcomes import outcome_methods
from aigrid.node.commands.policy import Explain, explain
from aigrid.node.commands.pool import methods as pool_methods
from aigrid.node.commands.publishing import (
    Publish,
    PublishRemote,
    Remote,
    list_hub,
    propose,
    propose_hub,
    publish,
    publish_hub,
)
from aigrid.node.commands.receipts import methods as receipt_methods
from aigrid.node.commands.record_view import describe
from aigrid.node.commands.status import engines_of, peers_of, status_of
from aigrid.node.commands.top import Top, top
from aigrid.node.commands.upstreams import (
    PublishUpstream,
    propose_upstream,
    publish_upstream,
)
from aigrid.node.commands.weights import DropModel, FetchModel, drop_model, fetch_model
from aigrid.node.control import Emit
from aigrid.node.outcome.contract import check_schema
from aigrid.protocol.errors import (
    AigridError,
    Code,
    InvalidRequestError,
    NoCandidateError,
    PolicyDeniedError,
    UsageError,
    VerificationError,
)
from aigrid.protocol.identity import did_of_peer_id, peer_id_of_did
from aigrid.protocol.kinds import CapabilityBody, Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import invitation_text
from aigrid.protocol.record import check_time, verify_form_and_signature
from aigrid.protocol.timestamp import format_ms

Method = Callable[[Any, Emit], Awaitable[dict[str, Any]]]
_EXPORT_RECORDS = 64  # in one event; of up to `record_max_bytes` each
_FORMATS: dict[str, tuple[AnswerFormat, ...]] = {
    "": (),
    "json": (AnswerFormat.JSON, AnswerFormat.JSONLD),
    "csv": (AnswerFormat.CSV,),
    "tsv": (AnswerFormat.TSV,),
    "xml": (AnswerFormat.XML,),
    "turtle": (AnswerFormat.TURTLE,),
    "nquads": (AnswerFormat.NQUADS,),
    "jsonld": (AnswerFormat.JSONLD,),
}


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


class Did(msgspec.Struct, forbid_unknown_fields=True):
    """A DID."""

    did: str


class Name(msgspec.Struct, forbid_unknown_fields=True):
    """The name of a capability of our own."""

    name: str


class Id(msgspec.Struct, forbid_unknown_fields=True):
    """A content id, or a join request's id."""

    id: str


class Join(msgspec.Struct, forbid_unknown_fields=True):
    """An invitation as printed."""

    invitation: str


class JoinGrid(msgspec.Struct, forbid_unknown_fields=True):
    """The DID of a grid seen nearby."""

    grid: str


class Model(msgspec.Struct, forbid_unknown_fields=True):
    """A model's name or id."""

    model: str


class Raw(msgspec.Struct, forbid_unknown_fields=True):
    """A record's canonical JSON."""

    raw: str


class NewCapability(msgspec.Struct, forbid_unknown_fields=True):
    """A capability for this node's own namespace."""

    name: str
    broader: tuple[str, ...]
    labels: dict[str, str]
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    parameters_schema: dict[str, Any] = {}


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """A SPARQL query, and the name of a format; without one, the usual one."""

    query: str
    format: str = ""


class NodeCommands:
    """Implements `control.Commands` over a `Node`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._methods: dict[str, tuple[type[msgspec.Struct], Method]] = {
            "status": (Nothing, self._status),
            "peers": (Nothing, self._peers),
            "top": (Top, partial(top, node)),
            "engines": (Nothing, self._list_engines),
            "models": (Nothing, self._models),
            "models_show": (ShowModel, partial(show_model, node)),
            "models_fetch": (FetchModel, partial(fetch_model, node)),
            "models_drop": (DropModel, partial(drop_model, node)),
            "propose": (Publish, partial(propose, node)),
            "publish": (Publish, partial(publish, node)),
            "list_hub": (Remote, partial(list_hub, node)),
            "propose_hub": (PublishRemote, partial(propose_hub, node)),
            "publish_hub": (PublishRemote, partial(publish_hub, node)),
            "propose_upstream": (PublishUpstream, partial(propose_upstream, node)),
            "publish_upstream": (PublishUpstream, partial(publish_upstream, node)),
            **pool_methods(node),
            "withdraw": (Model, self._withdraw),
            "find": (Find, self._find),
            "ask": (Ask, partial(ask, node)),
            **outcome_methods(node),
            **evaluation_methods(node),
            **experience_methods(node),
            "capability_publish": (NewCapability, self._capability_publish),
            "capability_withdraw": (Name, self._capability_withdraw),
            "query": (Query, self._query),
            "export": (Nothing, self._export),
            "record_show": (Id, self._record_show),
            "record_import": (Raw, self._record_import),
            "invite": (Did, self._invite),
            "join": (Join, self._join),
            "nearby": (Nothing, self._nearby),
            "join_request": (JoinGrid, self._join_request),
            "requests": (Nothing, self._requests),
            "approve": (Id, self._approve),
            "remove": (Did, self._remove),
            **key_methods(node),
            "policy_explain": (Explain, partial(explain, node)),
            **credential_commands.methods(node),
            **receipt_methods(node),
            "delegates": (Delegates, partial(delegates, node)),
        }

    async def call(self, method: str, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Run one method. Raises AigridError."""
        entry = self._methods.get(method)
        if entry is None:
            raise UsageError(f"this node has no command {method[:64]!r}")
        schema, run = entry
        try:
            msgspec.json.encode(params)  # half surrogate pairs: how bytes that are no text arrive
            arguments = msgspec.convert(params, schema)
        except UnicodeEncodeError:
            raise UsageError(f"{method}: not UTF-8; give it as UTF-8 text") from None
        except msgspec.ValidationError as error:
            raise UsageError(f"{method}: {misfit(str(error))}") from None
        return await run(arguments, emit)

    async def _status(self, _: Nothing, __: Emit) -> dict[str, Any]:
        return status_of(self._node)

    async def _peers(self, _: Nothing, __: Emit) -> dict[str, Any]:
        return {"peers": peers_of(self._node)}

    async def _list_engines(self, _: Nothing, __: Emit) -> dict[str, Any]:
        return engines_of(self._node, await self._node.find_devices())

    async def _models(self, _: Nothing, __: Emit) -> dict[str, Any]:
        trouble = self._node.router.own_trouble()
        said = "" if trouble is None else trouble.message
        own = self._node.identity.peer_id
        return {"models": models_of(self._node), "trouble": said, "peer_id": own}

    async def _withdraw(self, params: Model, _: Emit) -> dict[str, Any]:
        return {"model": await self._node.hosting.withdraw(params.model)}

    async def _find(self, params: Find, _: Emit) -> dict[str, Any]:
        return await find(self._node, params)

    async def _capability_publish(self, params: NewCapability, _: Emit) -> dict[str, Any]:
        node, now_ms = self._node, self._node.now_ms()
        languages = {language.lower(): label for language, label in params.labels.items()}
        check_new_capability(params.name, tuple(languages))
        for name in params.broader:
            check_capability(node.graph.index.concepts, name, now_ms)
        for schema in (params.input_schema, params.output_schema, params.parameters_schema):
            if problem := check_schema(schema):
                raise UsageError(f"nothing could be checked by that schema: {problem}")
        body = CapabilityBody(
            id=f"{node.identity.did}#{params.name}",
            broader=params.broader,
            labels=languages,
            input_schema=params.input_schema,
            output_schema=params.output_schema,
            parameters_schema=params.parameters_schema,
        )
        ttl_ms = LIMITS.capability_ttl_seconds * 1000
        try:
            record = node.graph.issue(
                Kind.CAPABILITY, body, node.identity, now_ms=now_ms, ttl_ms=ttl_ms
            )
        except VerificationError as error:
            if error.code not in (Code.MALFORMED, Code.ISSUER_NOT_KEY):
                raise
            raise UsageError(f"this is no capability: {misfit(error.message)}") from None
        return {"capability": body.id, "record": record.content_id}

    async def _capability_withdraw(self, params: Name, _: Emit) -> dict[str, Any]:
        node = self._node
        namespace, name = params.name.rpartition("#")[::2]
        iri = f"{node.identity.did}#{name}"
        if namespace not in ("", node.identity.did):
            raise UsageError(f"{params.name[:160]} is another node's; only that can withdraw it")
        record = node.graph.withdraw(Kind.CAPABILITY, iri, node.identity, now_ms=node.now_ms())
        if record is None:
            raise InvalidRequestError(
                f"this node has not published {iri[:160]}; `aigrid capability publish` would",
                Code.NOT_FOUND,
            )
        return {"capability": iri, "record": record.content_id}

    async def _query(self, params: Query, _: Emit) -> dict[str, Any]:
        wanted = _FORMATS.get(params.format)
        if wanted is None:
            raise UsageError(f"there is no format {params.format!r}: {', '.join(_FORMATS)}")
        answer = await self._node.querying.query(params.query, wanted)
        if wanted and answer.answer_format not in wanted:
            allowed = formats_of(answer.form)
            names = [name for name, formats in _FORMATS.items() if set(formats) & set(allowed)]
            raise UsageError(f"{answer.form} is answered as {' or '.join(names)}")
        return {"media_type": answer.answer_format.value, "text": answer.body.decode("utf-8")}

    async def _export(self, _: Nothing, emit: Emit) -> dict[str, Any]:
        graph, count = self._node.graph, 0
        believed = graph.believed(self._node.now_ms())
        for start in range(0, len(believed), _EXPORT_RECORDS):
            records = graph.store.records(believed[start : start + _EXPORT_RECORDS])
            said = [(r.content_id, r.raw.decode("utf-8")) for r in records if not r.withdrawn]
            count += len(said)
            await emit({"records": said})
        return {"records": count}

    async def _record_show(self, params: Id, _: Emit) -> dict[str, Any]:
        return describe(
            self._node.graph, params.id.removeprefix(RECORD_URN), now_ms=self._node.now_ms()
        )

    async def _record_import(self, params: Raw, _: Emit) -> dict[str, Any]:
        raw = params.raw.strip().encode("utf-8", "replace")
        record = verify_form_and_signature(raw)
        check_time(record, self._node.now_ms())
        if self._node.statuses.may_sponsor(record):
            self._node.statuses.sponsor(record)
        changed = self._node.graph.ingest(raw, now_ms=self._node.now_ms(), received_from=None)
        if changed is not None:
            self._node.gossip.spread(changed)
        return {"ok": True, "code": "", "record": record.content_id}

    async def _invite(self, params: Did, _: Emit) -> dict[str, Any]:
        check_did(params.did)
        invitation = self._node.grid.invite(params.did)
        return {
            "invitation": invitation_text(invitation),
            "expires": format_ms(invitation.valid_until_ms),
        }

    async def _join(self, params: Join, _: Emit) -> dict[str, Any]:
        grid = await self._node.join_client.redeem(params.invitation)
        return {"grid": grid, "state": "member"}

    async def _nearby(self, _: Nothing, __: Emit) -> dict[str, Any]:
        grids: dict[str, dict[str, Any]] = {}
        for seen in self._node.transport.nearby():
            if seen.grid != self._node.grid.did:
                entry = grids.setdefault(seen.grid, {"grid": seen.grid, "name": seen.name})
                entry.setdefault("peers", []).append(seen.peer.peer_id)
        return {"grids": [grids[grid] for grid in sorted(grids)]}

    async def _join_request(self, params: JoinGrid, emit: Emit) -> dict[str, Any]:
        async def show(code: str) -> None:
            await emit({"state": "waiting", "code": code})

        check_did(params.grid)
        hosts = [s.peer for s in self._node.transport.nearby() if s.grid == params.grid]
        hosts += self._node.known.bootstrap  # of whichever grid: each says which before we reveal
        problem: AigridError = NoCandidateError(
            "no node of that grid is seen here: name one with `aigrid up --bootstrap ADDRESS`"
        )
        for host in hosts:
            try:
                await self._node.join_client.ask(host, params.grid, show)
            except AigridError as error:  # a host may be gone or lack the key: the next may not
                problem = error
                continue
            return {"grid": params.grid, "state": "member"}
        raise problem

    async def _requests(self, _: Nothing, __: Emit) -> dict[str, Any]:
        return {
            "requests": [
                {
                    "id": asking.request,
                    "did": did_of_peer_id(asking.peer_id),
                    "peer_id": asking.peer_id,
                    "name": asking.name,
                    "code": asking.code,
                }
                for asking in self._node.join_host.waiting()
            ]
        }

    async def _approve(self, params: Id, _: Emit) -> dict[str, Any]:
        did = self._node.join_host.approve(params.id)
        return {"did": did, "peer_id": peer_id_of_did(did), "state": "member"}

    async def _remove(self, params: Did, _: Emit) -> dict[str, Any]:
        newest = self._node.local.successor_of(params.did)
        if newest is not None and params.did not in self._node.grid.members():
            raise PolicyDeniedError(
                f"{params.did} has changed its key: `aigrid remove {newest}`", Code.NOT_MEMBER
            )
        self._node.grid.remove(params.did)
        return {"did": params.did, "state": "removed"}
