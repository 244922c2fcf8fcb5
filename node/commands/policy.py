"""The method behind `aigrid policy explain`."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from aigrid.metagraph.index import Candidate
from aigrid.node.app import Node
from aigrid.node.commands.credential_terms import check_did, check_purpose
from aigrid.node.control import Emit
from aigrid.node.policy.deciding import Wish
from aigrid.node.policy.explaining import Holder
from aigrid.node.policy.links import in_order
from aigrid.node.policy.policy_file import policy_json
from aigrid.protocol.credential_kinds import ACTIONS
from aigrid.protocol.errors import Code, PolicyDeniedError, UsageError, VerificationError
from aigrid.protocol.identity import did_of_peer_id, peer_id_of_did
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.policy import Decision, Reason, rules_of
from aigrid.protocol.presentation import Binding
from aigrid.protocol.record import Record, verify_form_and_signature

_NO_HASH = "0" * 64
_BY_ITSELF = ("host", "publish")  # what a node does, whoever offers the model


class Explain(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What somebody wants to do with a model, and where.

    Attributes:
        model: a name or an id.
        action: one of `ACTIONS`.
        holder: a DID; "" stands for this node, or whoever `credentials` end at.
        on_behalf: a DID whose request the holder would pass on, with what that has lent it.
        credentials: a chain to show, each as its canonical JSON; none: what is known here.
        node: where: a PeerId or a DID; "": wherever the model is offered, or at the holder, which
            hosts and publishes itself.
        purpose, accepts: as whoever asks would say.
    """

    model: str
    action: str = "invoke"
    holder: str = ""
    on_behalf: str = ""
    credentials: tuple[str, ...] = ()
    node: str = ""
    purpose: str = ""
    accepts: tuple[str, ...] = ()


async def explain(node: Node, params: Explain, _: Emit) -> dict[str, Any]:
    """What each node that would act decides, as far as this one knows, and every reason.

    Raises:
        UsageError, InvalidRequestError: for what cannot be asked.
    """
    model = node.router.resolve(params.model)
    holder = _holder(node, params)
    wish = _wish(node, params, model, own=holder.did == node.identity.did)
    places = _places(node, params, wish, holder)
    decisions = [_decided(node, params, wish, holder, place) for place in places]
    allowed = any(one["allowed"] for one in decisions)
    return {
        "model": model,
        "action": wish.action,
        "holder": holder.did,
        "on_behalf": params.on_behalf,
        "allowed": allowed,
        "offered": any(one["offered"] for one in decisions),
        "code": "" if allowed or not decisions else decisions[0]["code"],
        "decisions": decisions,
        "trouble": _trouble(node) if holder.did == node.identity.did else "",
    }


def _trouble(node: Node) -> str:
    """Why this node itself is no member, where it is none."""
    trouble = node.router.own_trouble()
    return trouble.message if trouble is not None and trouble.code is Code.NOT_MEMBER else ""


def _holder(node: Node, params: Explain) -> Holder:
    for did in filter(None, (params.holder, params.on_behalf)):
        check_did(did)
    if not params.credentials:
        did = params.holder or node.identity.did
        return node.policy.foresight.holder(did, params.on_behalf)
    chain = in_order(
        [verify_form_and_signature(text.strip().encode("utf-8")) for text in params.credentials]
    )
    return Holder(params.holder or chain[-1].subject, (chain,), shown=True)


def _wish(node: Node, params: Explain, model: str, *, own: bool) -> Wish:
    """Raises UsageError for words that no presentation could hold."""
    action = next((one for one in ACTIONS if one == params.action), None)
    if action is None:
        raise UsageError(f"there is no action {params.action[:64]!r}: {', '.join(ACTIONS)}")
    accepts = {*params.accepts, *(node.config.accept_licenses if own else ())}
    purpose, accepted = wishes(params.purpose, accepts)
    return Wish(action, model, "", purpose, accepted)


def wishes(purpose: str, accepts: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """A purpose and licences as a presentation holds them. Raises UsageError if none could."""
    if purpose:
        check_purpose(purpose)
    said = {"action": "invoke", "model": "", "manifest": "", "purpose": purpose}
    hashes = {"requestHash": _NO_HASH, "prefixHash": _NO_HASH}
    try:
        binding = msgspec.convert({**said, **hashes, "accepts": sorted({*accepts})}, Binding)
    except msgspec.ValidationError:
        most = LIMITS.presentation_licenses_max
        problem = f"accepted licences are at most {most} SPDX ids, such as `Apache-2.0`"
        raise UsageError(problem) from None
    return binding.purpose, binding.accepts


@dataclass(frozen=True, slots=True)
class _Where:
    """A node that would act, by DID; the manifest that binds it; whether it offers the model."""

    did: str
    manifest: Record | None
    offered: bool


def _places(node: Node, params: Explain, wish: Wish, holder: Holder) -> list[_Where]:
    """This node first."""
    own, now_ms = node.identity.did, node.now_ms()
    model = wish.model
    offers = {c.signer: _manifest(node, c) for c in node.router.offers() if c.model == model}
    newest = max(node.graph.manifests_of(model, now_ms), key=lambda m: m.rank, default=None)
    dids = [own] if not offers else sorted(offers, key=lambda did: (did != own, did))
    if wish.action in _BY_ITSELF:
        dids = [holder.did]
    if params.node:
        dids = [_did_of(params.node)]
    return [_Where(did, offers.get(did) or newest, did in offers) for did in dids]


def _manifest(node: Node, candidate: Candidate) -> Record | None:
    return node.graph.index.manifest(candidate.manifest, node.now_ms())


def _did_of(text: str) -> str:
    try:
        if not text.startswith("did:"):
            return did_of_peer_id(text)
        peer_id_of_did(text)
    except VerificationError:
        raise UsageError(
            f"{text[:80]!r} is neither a PeerId nor a DID: `aigrid peers` lists both"
        ) from None
    return text


def _decided(
    node: Node, params: Explain, wish: Wish, holder: Holder, where: _Where
) -> dict[str, Any]:
    foresight, manifest = node.policy.foresight, where.manifest
    own = where.did == node.identity.did
    if own and wish.action == "publish":
        body = None if manifest is None else manifest.body
        capabilities = body.capabilities if isinstance(body, ModelBody) else ()
        manifest, decision = foresight.may_publish(wish, holder, capabilities)
    else:
        place = foresight.place(where.did)
        decision = foresight.decide(wish, holder, manifest=manifest, place=place)
    decision = _with_use(node, decision) if own else decision
    return {
        "node": where.did,
        "peer_id": peer_id_of_did(where.did),
        "own": own,
        "offered": where.offered,
        "allowed": decision.allowed,
        "code": "" if decision.code is None else decision.code.value,
        "manifest": "" if manifest is None else manifest.content_id,
        "owner": "" if manifest is None else manifest.issuer,
        "policy": [] if manifest is None else policy_json(rules_of(manifest)),
        **_reasons(decision),
        "unknown": _unknown(node, params, wish, holder, where, decision),
    }


def _with_use(node: Node, decision: Decision) -> Decision:
    """The same, unless the limits that this node would have to hold are used up."""
    try:
        node.policy.budgets.check(decision.obligations)
    except PolicyDeniedError as error:
        reason = Reason(error.message, error.code)
        return replace(decision, code=error.code, reasons=(*decision.reasons, reason))
    return decision


def _unknown(  # noqa: PLR0917 - everything that there is
    node: Node, params: Explain, wish: Wish, holder: Holder, where: _Where, decision: Decision
) -> list[str]:
    """What may make it otherwise than it is said here."""
    own, found = node.identity.did, list[str]()
    if wish.action in ("fetch", "host"):
        found.append("whether it will be asked: no node of this version gets weights from another")
    if where.did != own:
        found.append("what that node's operator has configured")
        if wish.action == "publish" and where.manifest is not None:
            owner = where.manifest.issuer
            found.append(f"whether that node trusts {owner} as a publisher: only then it is bound")
        if decision.obligations:
            found.append("what of the limits is used up there")
    if holder.did != own and not params.credentials:
        found.append("what the holder was granted by others: show it with `--credential`")
    return found


def _reasons(decision: Decision) -> dict[str, Any]:
    return {
        "reasons": [
            {
                "text": reason.text,
                "code": "" if reason.code is None else reason.code.value,
                "record": reason.record,
            }
            for reason in decision.reasons
        ],
        "obligations": [asdict(obligation) for obligation in decision.obligations],
        "relied_on": list(decision.relied_on),
    }
