"""The methods behind `aigrid publish` for a model whose files are at hand, or on a hub."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aigrid.node.app import Node
from aigrid.node.commands.finding import check_capability, check_languages
from aigrid.node.commands.serves import parse_serves, serves_said
from aigrid.node.control import Emit
from aigrid.node.mesh.shelf.bringing import Proposal, Wishes
from aigrid.node.mesh.shelf.copying import Progress
from aigrid.node.mesh.shelf.hosting import Published
from aigrid.node.policy.policy_file import parse_policy, policy_json
from aigrid.protocol.canonical import canonical, content_id
from aigrid.protocol.credential_kinds import Rules
from aigrid.protocol.errors import Code, LocalError, UsageError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.task import TaskMapping


class Said(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a person says of a model; what is empty its files say.

    Attributes:
        mapping: a task mapping as SPEC.md describes it, or {}.
        policy: a policy file's text, or "": as it was published before.
        serves: see `parse_serves`; none: as it was published before.
        confirmed: the id of the proposal that somebody agreed to, or "".
    """

    capability: str = ""
    name: str = ""
    license: str = ""
    languages: tuple[str, ...] = ()
    mapping: dict[str, Any] = {}
    policy: str = ""
    serves: tuple[str, ...] = ()
    confirmed: str = ""


class Publish(Said, kw_only=True):
    """The model in a file or a folder; `path` is absolute."""

    path: str


class Remote(msgspec.Struct, forbid_unknown_fields=True):
    """A model on the Hugging Face Hub: what stands after `hf:`."""

    source: str
    token: str = ""


class PublishRemote(Said, kw_only=True):
    """The same, to be brought and published."""

    source: str
    token: str = ""


async def propose(node: Node, params: Publish, _: Emit) -> dict[str, Any]:
    """What publishing would say; nothing is changed."""
    return proposal_body(await _proposal(node, params, Path(params.path)))


async def publish(node: Node, params: Publish, emit: Emit) -> dict[str, Any]:
    """Publish, and say what was signed.

    Raises:
        UsageError: `hash_mismatch` where not all of this was agreed to: what is said of the model,
            the names of its files and their sizes. Their bytes were not read then.
    """
    proposal = await _proposal(node, params, Path(params.path))
    said = proposal_body(proposal)
    check_confirmed(params.confirmed, said)
    published = await node.bringing.publish(proposal, progress=progress_of(emit))
    return published_body(node, published, said=said)


async def list_hub(node: Node, params: Remote, _: Emit) -> dict[str, Any]:
    """What a model on the hub consists of, and how much of it is not here; nothing is brought."""
    listing = await node.hub.list(params.source, token=params.token)
    wanted = listing.wanted
    return {
        "repo": wanted.repo,
        "revision": wanted.revision,
        "source": str(wanted),
        "files": {name: file.bytes for name, file in sorted(listing.choice.files.items())},
        "left_out": dict(listing.choice.left_out),
        "missing_bytes": listing.missing_bytes,
    }


async def propose_hub(node: Node, params: PublishRemote, emit: Emit) -> dict[str, Any]:
    """Bring the model, and say what publishing would say."""
    listing = await node.hub.list(params.source, token=params.token)
    await node.hub.fetch(listing, progress_of(emit), token=params.token)
    return proposal_body(await _proposal(node, params, listing.path, listing.name, own=False))


async def publish_hub(node: Node, params: PublishRemote, emit: Emit) -> dict[str, Any]:
    """Bring the model and publish it; what was brought becomes the node's copy."""
    progress = progress_of(emit)
    listing = await node.hub.list(params.source, token=params.token)
    await node.hub.fetch(listing, progress, token=params.token)
    proposal = await _proposal(node, params, listing.path, listing.name, own=False)
    said = proposal_body(proposal)
    check_confirmed(params.confirmed, said)
    try:
        published = await node.bringing.publish(
            proposal, take=True, sha256_of=listing.sha256, progress=progress
        )
    except LocalError as error:
        if error.code is Code.HASH_MISMATCH:
            await node.hub.forget(listing)  # or it would be taken for good at the next attempt
        raise
    await node.hub.forget(listing)
    return published_body(node, published, said=said)


def published_body(node: Node, published: Published, **more: Any) -> dict[str, Any]:
    """What was signed; its `policy` may be one from before."""
    manifest = node.hosting.manifest(published.model)
    body = None if manifest is None else manifest.body
    policy = body.policy if isinstance(body, ModelBody) else UNSET
    return {
        "model": published.model,
        "name": published.name,
        "record": published.record,
        **({"before": published.before} if published.before else {}),
        "policy": policy_said(policy),
        **more,
    }


async def _proposal(
    node: Node, params: Said, path: Path, usual: str = "", *, own: bool = True
) -> Proposal:
    concepts, now_ms = node.graph.index.concepts, node.now_ms()
    if params.capability:
        check_capability(concepts, params.capability, now_ms)
    wishes = Wishes(
        params.name,
        params.capability,
        params.license,
        check_languages(params.languages),
        check_mapping(params.mapping),
        check_policy(node, params.policy),
        parse_serves(params.serves, concepts, now_ms),
    )
    proposal = await node.bringing.propose(path, wishes, name=usual, own=own)
    check_capability(concepts, proposal.capability, now_ms)
    return proposal


def progress_of(emit: Emit) -> Progress:
    """A `Progress` that tells whoever runs the command."""

    async def progress(text: str) -> None:
        await emit({"progress": text})

    return progress


def proposal_id(said: dict[str, Any]) -> str:
    """What somebody agrees to who was shown this."""
    return content_id(canonical(said))


def check_confirmed(confirmed: str, body: dict[str, Any]) -> None:
    """Raises UsageError unless nothing was agreed to, or this was."""
    if confirmed and confirmed != body["proposal"]:
        raise UsageError(
            "the model is no longer what was shown: look at it again", Code.HASH_MISMATCH
        )


def check_mapping(given: dict[str, Any]) -> TaskMapping | UnsetType:
    """A task mapping as a person wrote it; unset where there is none. Raises UsageError."""
    try:
        return msgspec.convert(given, TaskMapping) if given else UNSET
    except msgspec.ValidationError as error:
        raise UsageError(f"the task mapping: {error}") from None


def check_policy(node: Node, text: str) -> Rules | UnsetType:
    """The rules in a policy file; unset where there is none. Raises UsageError."""
    return parse_policy(text, me=node.identity.did) if text else UNSET


def policy_said(policy: Rules | UnsetType) -> list[dict[str, Any]] | None:
    """Rules in JSON; None where there are none, and in a proposal where they stay as they are."""
    return None if policy is UNSET else policy_json(policy)


def proposal_body(proposal: Proposal) -> dict[str, Any]:
    """A proposal as JSON; `proposal` in it is its id."""
    draft, fit = proposal.draft, proposal.fit
    files = dict(proposal.sizes)
    said: dict[str, Any] = {
        "name": proposal.name,
        "capability": proposal.capability,
        "capabilities": list(proposal.capabilities),
        "format": draft.format,
        "precision": draft.precision,
        "parameters": draft.parameters,
        "files": files,
        "bytes": sum(files.values()),
        "tokenizer": draft.tokenizer,
        "context_tokens": draft.context_tokens,
        "license": draft.license_id,
        "languages": list(draft.languages),
        "mapping": {} if draft.mapping is UNSET else msgspec.to_builtins(draft.mapping),
        "inputs": msgspec.to_builtins(draft.inputs),
        "outputs": msgspec.to_builtins(draft.outputs),
        "left_out": dict(draft.left_out),
        "origins": dict(draft.origins),
        "policy": policy_said(proposal.policy),
        "serves": serves_said(proposal.serves),
    }
    return {
        **said,
        "proposal": proposal_id(said),
        "engine": fit.engine if fit is not None else "",
        "memory_bytes": fit.estimate.memory_bytes if fit is not None else 0,
        "problem": proposal.problem.message if proposal.problem is not None else "",
    }
