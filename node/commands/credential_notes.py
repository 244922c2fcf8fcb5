"""What a person should know of a credential that was signed or taken, though nothing is wrong."""

from collections.abc import Iterable

from aigrid.node.app import Node
from aigrid.node.commands.credential_terms import Worded
from aigrid.node.policy.links import Chain
from aigrid.protocol import chain as chains
from aigrid.protocol.credential_kinds import ANYONE
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import rules_of
from aigrid.protocol.record import Record
from aigrid.protocol.timestamp import format_ms

_CLOSE_MS = 60_000  # what was said and what came of it differ by the time that signing takes


def notes_of(node: Node, chain: Chain, given: Worded) -> list[str]:
    """Of the last link of a chain, signed for what was `given`; one sentence each."""
    notes = []
    least = 2 * LIMITS.status_renew_seconds
    if given.status_age_seconds is not None and given.status_age_seconds < least:
        notes.append(
            f"it will often not be honoured: word of revocations comes every"
            f" {LIMITS.status_renew_seconds} s, so `--max-status-age {least}s` is the least that"
            " is safe"
        )
    until_ms = chain[-1].valid_until_ms
    wished_ms = node.now_ms() + (given.valid_seconds or 0) * 1000
    if given.valid_seconds and until_ms < wished_ms - _CLOSE_MS:
        notes.append(
            f"it ends before `--valid` says, at {format_ms(until_ms)}, as what it comes from does"
        )
    return [*notes, *unheard_of(node, chain), *_in_vain(node, chain)]


def unheard_of(node: Node, links: Iterable[Record]) -> list[str]:
    """Of each issuer of whose revocations nothing is known here, nor will be: one sentence."""
    statuses, comes = node.statuses.known(), {*node.graph.members(node.now_ms()), node.grid.did}
    issuers = dict.fromkeys(link.status.issuer for link in links if link.status is not None)
    return [
        f"no status list of {issuer} is known here, and until one is, this counts for nothing here"
        " (`status_stale`). It is no member, so none comes by itself: import its StatusDelegation"
        " that names this node, `aigrid record import FILE`"
        for issuer in issuers
        if issuer not in statuses and issuer not in comes
    ]


def _in_vain(node: Node, chain: Chain) -> list[str]:
    """Of each model that it names, whether its owner's policy knows of such a grant at all."""
    owner, permission = chain[0].issuer, chains.permission_of(chain[-1])
    notes = []
    for target in permission.targets:
        if not target.startswith(MODEL_URN):
            continue
        model = target.removeprefix(MODEL_URN)
        manifests = node.graph.manifests_of(model, node.now_ms())
        counts = any(
            not {owner, ANYONE}.isdisjoint(rule.assignees)
            and not set(permission.actions).isdisjoint(rule.actions)
            for manifest in manifests
            for rule in rules_of(manifest)
        )
        if manifests and not counts:
            notes.append(
                f"the policy of {model} permits none of this to holders of a grant from {owner}:"
                ' `aigrid publish --policy FILE` changes it (`assignees = ["me"]`)'
            )
    return notes
