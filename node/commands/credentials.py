"""The methods behind `aigrid credential`: issue, pass on, revoke, show, verify, list, import."""

from functools import partial
from typing import Any

import msgspec

from aigrid.node.app import Node
from aigrid.node.commands.credential_notes import notes_of, unheard_of
from aigrid.node.commands.credential_terms import (
    Worded,
    check_did,
    narrowed,
    permission_of,
    permission_said,
    terms_of,
)
from aigrid.node.control import Emit
from aigrid.node.policy.links import Chain, in_order, on_behalf_of
from aigrid.node.policy.wallet import Kept
from aigrid.protocol import chain as chains
from aigrid.protocol.chain import Broken
from aigrid.protocol.errors import Code, InvalidRequestError, PolicyDeniedError, UsageError
from aigrid.protocol.record import Record, verify_form_and_signature
from aigrid.protocol.status import Standing, standing
from aigrid.protocol.timestamp import format_ms


class Issue(Worded, kw_only=True):
    """A grant to the DID `to`, by this node's key or, `as_authority`, by the grid's."""

    to: str
    as_authority: bool = False


class PassOn(Worded, kw_only=True):
    """A delegation of the credential `id` to the DID `to`; what is not said stays as it is."""

    id: str
    to: str
    on_behalf: bool = False


class Id(msgspec.Struct, forbid_unknown_fields=True):
    """A credential's content id, or the end of it: see `Wallet.get`."""

    id: str


class OneCredential(msgspec.Struct, forbid_unknown_fields=True):
    """A credential by its content id or the end of it, or as its canonical JSON."""

    id: str = ""
    raw: str = ""


class Credentials(msgspec.Struct, forbid_unknown_fields=True):
    """A chain, each credential as its canonical JSON."""

    credentials: tuple[str, ...]


class Which(msgspec.Struct, forbid_unknown_fields=True):
    """Which credentials to list; neither: all."""

    held: bool = False
    issued: bool = False


async def issue(node: Node, params: Issue, _: Emit) -> dict[str, Any]:
    """Sign a grant, and send it to its holder's node if that is connected."""
    check_did(params.to)
    permission, terms = permission_of(node, params), terms_of(params)
    signer = node.identity
    if params.as_authority:
        if node.grid.authority is None:
            raise PolicyDeniedError(
                "this node does not hold the authority key of its grid", Code.NOT_AUTHORITY
            )
        signer = node.grid.authority
    grant = node.policy.wallet.issue(signer, params.to, permission, terms)
    return await _handed_over(node, (grant,), params)


async def delegate(node: Node, params: PassOn, _: Emit) -> dict[str, Any]:
    """Sign a delegation of what is held, and send it to its holder's node."""
    check_did(params.to)
    wallet = node.policy.wallet
    parents = wallet.chain(params.id)
    problem = _problem(node, parents)
    if problem is not None and problem.code is not Code.STATUS_STALE:  # that may pass
        raise PolicyDeniedError(f"nothing to pass on: {problem.text}", problem.code)
    chain = wallet.delegate(
        parents[-1].content_id,
        params.to,
        narrowed(node, chains.permission_of(parents[-1]), params),
        terms_of(params),
        on_behalf=params.on_behalf,
    )
    return await _handed_over(node, chain, params)


async def revoke(node: Node, params: OneCredential, _: Emit) -> dict[str, Any]:
    """Put a credential in its issuer's status list, which this node may sign."""
    record = _record(node, params)
    if record.status is None:
        raise UsageError("it has no place in a status list, and only ever expires")
    signed = node.statuses.revoke(record.status)
    return {"credential": record.content_id, "state": "revoked", "record": signed.content_id}


async def show(node: Node, params: Id, _: Emit) -> dict[str, Any]:
    """A credential after all that it comes from, and what this node makes of each."""
    return _said(node, node.policy.wallet.chain(params.id))


async def verify(node: Node, params: Credentials, _: Emit) -> dict[str, Any]:
    """What this node makes of a chain: form, signatures, narrowing, dates, and revocation."""
    chain = in_order([_parsed(text) for text in params.credentials])
    return _said(node, chain)


async def list_credentials(node: Node, params: Which, _: Emit) -> dict[str, Any]:
    """What is held, and what was issued here."""
    found = node.policy.wallet.all(held=params.held, issued=params.issued)
    return {"credentials": [_listed(node, kept) for kept in found]}


async def take(node: Node, params: Credentials, _: Emit) -> dict[str, Any]:
    """Hold a chain that ends at this node."""
    raws = [text.strip().encode("utf-8", "replace") for text in params.credentials]
    kept = node.policy.wallet.take(raws)
    held = [node.policy.wallet.chain(one) for one in kept]
    links = [link for chain in held for link in chain]
    return {"credentials": [_about(node, one) for one in held], "notes": unheard_of(node, links)}


async def forget(node: Node, params: Id, _: Emit) -> dict[str, Any]:
    """Hold a credential no longer."""
    credential = node.policy.wallet.get(params.id).record.content_id
    if not node.policy.wallet.forget(credential):
        raise InvalidRequestError(
            f"no credential {params.id[:64]} is held here; `aigrid credential list --held` shows "
            "those that are",
            Code.NOT_FOUND,
        )
    return {"credential": credential, "state": "forgotten"}


def methods(node: Node) -> dict[str, tuple[type[msgspec.Struct], Any]]:
    """For `NodeCommands`."""
    return {
        "credential_issue": (Issue, partial(issue, node)),
        "credential_delegate": (PassOn, partial(delegate, node)),
        "credential_revoke": (OneCredential, partial(revoke, node)),
        "credential_show": (Id, partial(show, node)),
        "credential_verify": (Credentials, partial(verify, node)),
        "credential_list": (Which, partial(list_credentials, node)),
        "credential_import": (Credentials, partial(take, node)),
        "credential_forget": (Id, partial(forget, node)),
    }


async def _handed_over(node: Node, chain: Chain, given: Worded) -> dict[str, Any]:
    """`because`: why the holder's node does not have it now."""
    last = chain[-1]
    own = last.subject == node.identity.did
    problem = "" if own else await node.policy.giving.give(chain)
    return {
        "credential": last.content_id,
        "to": last.subject,
        "valid_until": format_ms(last.valid_until_ms),
        "delivered": not problem,
        "because": problem,
        "notes": notes_of(node, chain, given),
        "chain": [link.raw.decode("utf-8") for link in chain],
    }


def _record(node: Node, params: OneCredential) -> Record:
    if bool(params.id) == bool(params.raw):
        raise UsageError("name a credential by its id, or give it")
    return _parsed(params.raw) if params.raw else node.policy.wallet.get(params.id).record


def _parsed(text: str) -> Record:
    return verify_form_and_signature(text.strip().encode("utf-8", "replace"))


def _said(node: Node, chain: Chain) -> dict[str, Any]:
    """A chain, and whether it holds for whoever it ends at."""
    broken = _problem(node, chain)
    return {
        "ok": broken is None,
        "code": broken.code.value if broken is not None else "",
        "message": broken.text if broken is not None else "",
        "because_of": broken.record if broken is not None else "",
        "owner": chain[0].issuer,
        "holder": chain[-1].subject,
        "on_behalf": on_behalf_of(chain[-1]),
        "links": [_about(node, chain[:end]) for end in range(1, len(chain) + 1)],
    }


def _problem(node: Node, chain: Chain) -> Broken | None:
    """Why a chain does not count now for whoever it ends at, or None."""
    found = chains.check(chain, chain[-1].subject, node.statuses.known(), node.now_ms())
    if isinstance(found, Broken):
        return found
    name, newest = chain[-1].content_id, node.local.successor_of(chain[-1].subject)
    if newest is None and not node.policy.wallet.is_stray(name):
        return None
    text = f"its holder has changed its key, and is {newest or node.identity.did} now"
    return Broken(Code.NOT_HOLDER, text, name)


def _listed(node: Node, kept: Kept) -> dict[str, Any]:
    about = _about(node, node.policy.wallet.chain(kept.record))
    del about["record"]  # `show` has it
    return {
        **about,
        "held": kept.held,
        "issued": kept.issued,
        "given_by": kept.given_by,
    }


def _about(node: Node, chain: Chain) -> dict[str, Any]:
    """The last of a chain."""
    record = chain[-1]
    return {
        "id": record.content_id,
        "kind": record.kind.value,
        "issuer": record.issuer,
        "holder": record.subject,
        **permission_said(record),
        "valid_until": format_ms(record.valid_until_ms),
        "standing": _standing(node, chain),
        "record": msgspec.json.decode(record.raw),
    }


def _standing(node: Node, chain: Chain) -> str:
    """`good`, `revoked`, `stale`, or the code of what is wrong with it or what it comes from.

    What is revoked stays so when it expires.
    """
    statuses, now_ms = node.statuses.known(), node.now_ms()
    if any(standing(link, statuses, now_ms) is Standing.REVOKED for link in chain):
        return Standing.REVOKED.value
    problem = _problem(node, chain)
    if problem is None:
        return Standing.GOOD.value
    stale = problem.code is Code.STATUS_STALE
    return Standing.STALE.value if stale else problem.code.value
