"""The method behind `aigrid policy explain`."""

from dataclasses import asdict
from typing import Any

import msgspec

from aigrid.metagraph.index import Candidate
from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.credential_terms import check_did
from aigrid.node.policy.deciding import Wish
from aigrid.node.policy.explaining import Holder
from aigrid.node.policy.links import in_order
from aigrid.node.policy.policy_file import policy_json
from aigrid.protocol.credential_kinds import ACTIONS, Action
from aigrid.protocol.errors import UsageError, VerificationError
from aigrid.protocol.identity import did_of_peer_id, peer_id_of_did
from aigrid.protocol.policy import Decision, rules_of
from aigrid.protocol.presentation import Binding
from aigrid.protocol.record import Record, verify_form_and_signature

_NO_HASH = "0" * 64


class Explain(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What somebody wants to do with a model, and where.

    Attributes:
        model: a name or an id.
        action: one of `ACTIONS`.
        holder: a DID; "" stands for this node, or whoever `credentials` end at.
        credentials: a chain to show, each as its canonical JSON; none: what is known here.
        node: where: a PeerId or a DID; "": wherever the model is offered.
        purpose, accepts: as whoever asks would say.
    """

    model: str
    action: str = "invoke"
    holder: str = ""
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
    decisions = [
        _decided(node, wish, holder, did, manifest)
        for did, manifest in _places(node, params, wish.action, model)
    ]
    allowed = any(one["allowed"] for one in decisions)
    return {
        "model": model,
        "action": wish.action,
        "holder": holder.did,
        "allowed": allowed,
        "code": "" if allowed or not decisions else decisions[0]["code"],
        "decisions": decisions,
    }


def _holder(node: Node, params: Explain) -> Holder:
    if params.holder:
        check_did(params.holder)
    if not params.credentials:
        return node.policy.foresight.holder(params.holder or node.identity.did)
    chain = in_order(
        [verify_form_and_signature(text.strip().encode("utf-8")) for text in params.credentials]
    )
    return Holder(params.holder or chain[-1].subject, (chain,))


def _wish(node: Node, params: Explain, model: str, *, own: bool) -> Wish:
    """Raises UsageError for words that no presentation could hold."""
    action = next((one for one in ACTIONS if one == params.action), None)
    if action is None:
        raise UsageError(f"there is no action {params.action[:64]!r}: {', '.join(ACTIONS)}")
    accepts = {*params.accepts, *(node.config.accept_licenses if own else ())}
    said = {"purpose": params.purpose, "accepts": sorted(accepts)}
    ids = {"action": action, "model": model, "manifest": ""}
    try:
        binding = msgspec.convert(
            {**said, **ids, "requestHash": _NO_HASH, "prefixHash": _NO_HASH}, Binding
        )
    except msgspec.ValidationError as error:
        raise UsageError(f"this is no purpose or licence: {error}") from None
    return Wish(action, model, "", binding.purpose, binding.accepts)


def _places(
    node: Node, params: Explain, action: Action, model: str
) -> list[tuple[str, Record | None]]:
    """Who would act, by DID, and under which manifest; this node first."""
    own, now_ms = node.identity.did, node.now_ms()
    offers = {c.signer: _manifest(node, c) for c in node.router.offers() if c.model == model}
    newest = max(node.graph.manifests_of(model, now_ms), key=lambda m: m.rank, default=None)
    if params.node:
        did = _did_of(params.node)
        return [(did, offers.get(did) or newest)]
    if action in ("host", "publish") or not offers:
        return [(own, offers.get(own) or newest)]
    return sorted(offers.items(), key=lambda place: (place[0] != own, place[0]))


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
    node: Node, wish: Wish, holder: Holder, did: str, manifest: Record | None
) -> dict[str, Any]:
    foresight = node.policy.foresight
    decision = foresight.decide(wish, holder, manifest=manifest, place=foresight.place(did))
    own = did == node.identity.did
    return {
        "node": did,
        "peer_id": peer_id_of_did(did),
        "own": own,
        "allowed": decision.allowed,
        "code": "" if decision.code is None else decision.code.value,
        "manifest": "" if manifest is None else manifest.content_id,
        "owner": "" if manifest is None else manifest.issuer,
        "policy": [] if manifest is None else policy_json(rules_of(manifest)),
        **_reasons(decision),
        "unknown": [] if own else ["what that node's operator has configured"],
    }


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
