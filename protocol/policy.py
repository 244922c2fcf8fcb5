"""May this be done? The one decision, for whoever serves, fetches, hosts or publishes. Pure.

`decide` is asked at the gateway, early, so that nothing is sent in vain; and where it binds, at the
node that is to act, which trusts nobody. Both the operator of that node and the owner of the model
have to permit; of the owner's rules one is enough. Whatever credential is presented has to hold:
one that does not is a refusal, even where it was not needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import UNSET

from aigrid.protocol import chain as chains
from aigrid.protocol.chain import Chain
from aigrid.protocol.credential_kinds import (
    ACTIONS,
    ANYONE,
    EVERYTHING,
    MEMBERS,
    Action,
    Permission,
    Rule,
    accepts_license,
)
from aigrid.protocol.errors import Code, PolicyDeniedError, VerificationError
from aigrid.protocol.kinds import Kind, MembershipBody, ModelBody
from aigrid.protocol.membership import check_renewal
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record
from aigrid.protocol.status import Statuses

DEFAULT_RULES = (Rule(ACTIONS, (MEMBERS,)),)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to do.

    Attributes:
        holder: DID of whoever presents, having proved its key.
        node: DID of the node that decides, and would act.
        model, manifest: ids, as asked; an empty manifest stands for the node's own.
        capabilities: of the model, with everything broader: names and IRIs.
        region: where the model would be: the operator's word for it.
        purpose: what for, as the holder says; "" says nothing.
        accepts: licences that the holder says it accepts.
    """

    holder: str
    node: str
    model: str
    manifest: str = ""
    capabilities: frozenset[str] = frozenset()
    region: str = ""
    purpose: str = ""
    accepts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OperatorPolicy:
    """What the operator of a node has configured.

    Attributes:
        serves: whom: `members`, `anyone`, or holders of a grant from a DID.
        limits: of each holder: requests and tokens per day, requests at once; 0: any.
        hosts: what may be stored and served here; see `Target`.
    """

    serves: frozenset[str] = frozenset({MEMBERS})
    hosts: frozenset[str] = frozenset({EVERYTHING})
    requests_per_day: int = 0
    tokens_per_day: int = 0
    concurrency: int = 0


@dataclass(frozen=True, slots=True)
class Policies:
    """Everything that has a say.

    Attributes:
        grid: DID of the authority whose members are members.
        manifest: the record by which the node obtained the weights; None: there is none.
        operator: of the deciding node.
        narrowed: further permissions that all have to cover the request, by what to call them: a
            gateway's own actors have some.
    """

    grid: str
    manifest: Record | None
    operator: OperatorPolicy = field(default_factory=OperatorPolicy)
    narrowed: Mapping[str, Permission] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """A step of the decision; `code` is None where it speaks for the request.

    `record` is the content id of the record that it rests on, or "".
    """

    text: str
    code: Code | None = None
    record: str = ""


@dataclass(frozen=True, slots=True)
class Obligation:
    """A limit that whoever acts has to hold, counted under `key`. Days are UTC; 0: any."""

    key: str
    requests_per_day: int
    tokens_per_day: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Decision:
    """`code` is None where it is allowed. `relied_on` are content ids of credentials."""

    code: Code | None
    reasons: tuple[Reason, ...]
    obligations: tuple[Obligation, ...] = ()
    relied_on: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.code is None

    def check(self) -> None:
        """Raise PolicyDeniedError with the decisive reason unless it is allowed."""
        if self.code is None:
            return
        decisive = next((r for r in self.reasons if r.code is self.code), None)
        raise PolicyDeniedError("denied" if decisive is None else decisive.text, self.code)


class _RefusedError(Exception):
    """How far a decision got before it became a refusal, and why."""

    def __init__(self, stage: int, reason: Reason) -> None:
        super().__init__(reason.text)
        self.stage = stage
        self.reason = reason


@dataclass(slots=True)
class _Holder:
    """What a holder has shown of itself."""

    membership: Record | None = None
    chain: Chain | None = None
    for_it: list[Reason] = field(default_factory=list)

    @property
    def is_member(self) -> bool:
        return self.membership is not None

    def is_among(self, assignees: Sequence[str] | frozenset[str], own: str) -> str | None:
        """Which of the assignees the holder is; `own` is the DID that needs no grant of itself."""
        if ANYONE in assignees:
            return ANYONE
        if MEMBERS in assignees and self.is_member:
            return MEMBERS
        if self.chain is not None and self.chain.owner in assignees:
            return self.chain.owner
        return own if own in assignees else None


def decide(  # noqa: PLR0917 - these six, in this order, are what a decision is made of
    action: Action,
    asked: Asked,
    credentials: Sequence[Record],
    policies: Policies,
    statuses: Statuses,
    now_ms: int,
) -> Decision:
    """Whether `asked.holder` may do this to a model at `asked.node`, and why.

    Args:
        action: what.
        asked: by whom, to which model, where and what for.
        credentials: those presented, signatures verified: at most one Membership, and at most one
            chain, a Grant and then its Delegations in order.
        policies: the operator's, the owner's, and of actors of this node's own.
        statuses: what is known of revocations.
        now_ms: wall time.
    """
    try:
        holder = _credentials(asked, credentials, policies.grid, statuses, now_ms)
        _operator(action, asked, holder, policies.operator)
        _owner(action, asked, holder, policies.manifest)
        _permissions(action, asked, holder, policies.narrowed)
    except _RefusedError as refused:
        return Decision(refused.reason.code, (refused.reason,))
    relied = [] if holder.membership is None else [holder.membership.content_id]
    relied += [] if holder.chain is None else [link.content_id for link in holder.chain.links]
    return Decision(
        None,
        tuple(holder.for_it),
        tuple(_obligations(asked, holder, policies)),
        tuple(relied),
    )


def holder_key(did: str) -> str:
    """Under what the operator's limits for a holder are counted."""
    return f"holder {did}"


def rules_of(manifest: Record) -> tuple[Rule, ...]:
    """The owner's rules in a manifest; where it has none, the default."""
    body = manifest.body
    if not isinstance(body, ModelBody):
        return ()
    return DEFAULT_RULES if body.policy is UNSET else body.policy


def _credentials(
    asked: Asked, credentials: Sequence[Record], grid: str, statuses: Statuses, now_ms: int
) -> _Holder:
    holder = _Holder()
    memberships = [record for record in credentials if record.kind is Kind.MEMBERSHIP]
    links = [record for record in credentials if record.kind is not Kind.MEMBERSHIP]
    if len(memberships) > 1:
        raise _refused(0, "more than one membership is presented", Code.PRESENTATION_INVALID)
    for membership in memberships:
        _membership(membership, asked.holder, grid, statuses, now_ms)
        holder.membership = membership
        holder.for_it.append(Reason("a member of the grid", None, membership.content_id))
    if links:
        chain = chains.check(links, asked.holder, statuses, now_ms)
        if isinstance(chain, chains.Broken):
            raise _refused(0, chain.text, chain.code, chain.record)
        holder.chain = chain
        text = f"holds a grant from {chain.owner}"
        if len(chain.links) > 1:
            text += f", passed on {len(chain.links) - 1} times"
        holder.for_it.append(Reason(text, None, chain.links[0].content_id))
    return holder


def _membership(
    membership: Record, holder: str, grid: str, statuses: Statuses, now_ms: int
) -> None:
    body, record = membership.body, membership.content_id
    if not isinstance(body, MembershipBody) or body.grid != grid:
        raise _refused(0, "a membership of another grid", Code.NOT_MEMBER, record)
    if membership.subject != holder:
        raise _refused(0, "a membership of another key", Code.NOT_HOLDER, record)
    if membership.issuer != grid:
        known = statuses.get(grid)
        try:
            check_renewal(membership, () if known is None else known.delegates)
        except VerificationError as error:
            text = f"the membership does not hold: {error.message}"
            raise _refused(0, text, Code.NOT_MEMBER, record) from None
    problem = chains.time_and_status(membership, statuses, now_ms)
    if problem is not None:
        raise _refused(0, f"the membership {problem[1]}", problem[0], record)


def _operator(action: Action, asked: Asked, holder: _Holder, operator: OperatorPolicy) -> None:
    if action in ("invoke", "host") and not covers(operator.hosts, asked.model, asked.capabilities):
        raise _refused(1, "the node's operator does not host this model", Code.NOT_SERVED)
    if action in ("host", "publish"):
        return  # these the node does itself
    own = asked.node if asked.holder == asked.node else ""
    if own or holder.is_among(operator.serves, own) is not None:
        holder.for_it.append(Reason("the node's operator serves the holder"))
        return
    words = sorted(one for one in operator.serves if not one.startswith("did:"))
    dids = ", ".join(sorted(operator.serves.difference(words)))
    who = ", ".join(_whom(one) for one in (*words, dids) if one) or "nobody"
    raise _refused(1, f"the node's operator serves {who}", Code.NOT_SERVED)


def _owner(action: Action, asked: Asked, holder: _Holder, manifest: Record | None) -> None:
    if manifest is None:
        raise _refused(2, "there is no manifest of the model", Code.WRONG_MANIFEST)
    known = manifest.content_id
    if asked.manifest not in ("", known):
        text = f"asked under another manifest than {known}, by which it is held here"
        raise _refused(2, text, Code.WRONG_MANIFEST, known)
    if manifest.subject != MODEL_URN + asked.model:
        raise _refused(2, "the manifest is of another model", Code.WRONG_MANIFEST, known)
    if asked.holder == manifest.issuer:
        holder.for_it.append(Reason("the model's owner asks", None, known))
        return
    furthest: _RefusedError | None = None
    for number, rule in enumerate(rules_of(manifest), 1):
        try:
            who = _rule(action, asked, holder, rule, manifest)
        except _RefusedError as refused:
            if furthest is None or refused.stage > furthest.stage:
                furthest = refused
            continue
        text = f"rule {number} of the model's owner permits {action} to {_whom(who)}"
        holder.for_it.append(Reason(text, None, known))
        return
    if furthest is None:
        raise _refused(2, "the model's owner permits nobody", Code.ACTION_NOT_ALLOWED, known)
    raise furthest


def _rule(action: Action, asked: Asked, holder: _Holder, rule: Rule, manifest: Record) -> str:
    known = manifest.content_id
    if action not in rule.actions:
        text = f"the model's owner permits {', '.join(rule.actions)}, not {action}"
        raise _refused(3, text, Code.ACTION_NOT_ALLOWED, known)
    who = holder.is_among(rule.assignees, "")
    if who is None:
        grants = [did for did in rule.assignees if did.startswith("did:")]
        whom = " or ".join(map(_whom, rule.assignees))
        text = f"the model's owner permits {action} to {whom} alone"
        if grants and holder.chain is not None:
            text += f"; the grant presented is from {holder.chain.owner}"
        code = Code.NO_GRANT if grants else Code.NOT_MEMBER
        raise _refused(4, text, code, known)
    if rule.regions and asked.region not in rule.regions:
        text = f"the model may be in {', '.join(rule.regions)} alone"
        raise _refused(5, text, Code.REGION_NOT_ALLOWED, known)
    if rule.purposes and asked.purpose not in rule.purposes:
        text = f"permitted for {', '.join(rule.purposes)} alone"
        raise _refused(6, text, Code.PURPOSE_NOT_ALLOWED, known)
    body = manifest.body
    license_id = body.license if isinstance(body, ModelBody) else ""
    if rule.accept_license and not accepts_license(asked.accepts, license_id):
        text = f"the licence {license_id!r} has to be accepted first"
        raise _refused(7, text, Code.LICENSE_NOT_ACCEPTED, known)
    return who


def _whom(assignee: str) -> str:
    """An assignee in words."""
    return f"holders of a grant from {assignee}" if assignee.startswith("did:") else assignee


def _permissions(
    action: Action, asked: Asked, holder: _Holder, narrowed: Mapping[str, Permission]
) -> None:
    """Each link of the chain, and each permission besides, covers the request."""
    links = () if holder.chain is None else holder.chain.links
    for link in links:
        _permission(action, asked, chains.permission_of(link), "the credential", link.content_id)
    for name, permission in narrowed.items():
        _permission(action, asked, permission, name, "")
        holder.for_it.append(Reason(f"{name} permits {action}"))


def _permission(
    action: Action, asked: Asked, permission: Permission, name: str, record: str
) -> None:
    if action not in permission.actions:
        text = f"{name} permits {', '.join(permission.actions)}, not {action}"
        raise _refused(8, text, Code.ACTION_NOT_ALLOWED, record)
    if not covers(permission.targets, asked.model, asked.capabilities):
        text = f"{name} does not cover the model"
        raise _refused(8, text, Code.TARGET_NOT_COVERED, record)
    if permission.audience and asked.node not in permission.audience:
        text = f"{name} holds at other nodes than this"
        raise _refused(8, text, Code.AUDIENCE_NOT_ALLOWED, record)
    if permission.regions and asked.region not in permission.regions:
        text = f"{name} holds in {', '.join(permission.regions)} alone"
        raise _refused(8, text, Code.REGION_NOT_ALLOWED, record)
    if permission.purposes and asked.purpose not in permission.purposes:
        text = f"{name} is for {', '.join(permission.purposes)} alone"
        raise _refused(8, text, Code.PURPOSE_NOT_ALLOWED, record)


def covers(
    targets: Sequence[str] | frozenset[str], model: str, capabilities: frozenset[str]
) -> bool:
    """Whether a model, with its capabilities and everything broader, is among the targets."""
    return any(
        target == EVERYTHING or target == MODEL_URN + model or target in capabilities
        for target in targets
    )


def _obligations(asked: Asked, holder: _Holder, policies: Policies) -> list[Obligation]:
    links = () if holder.chain is None else holder.chain.links
    limits: list[tuple[str, Permission | OperatorPolicy]] = [
        *((link.content_id, chains.permission_of(link)) for link in links),
        *policies.narrowed.items(),
    ]
    if asked.holder != asked.node:
        limits.append((holder_key(asked.holder), policies.operator))
    return [
        Obligation(key, said.requests_per_day, said.tokens_per_day, said.concurrency)
        for key, said in limits
        if said.requests_per_day or said.tokens_per_day or said.concurrency
    ]


def _refused(stage: int, text: str, code: Code, record: str = "") -> _RefusedError:
    return _RefusedError(stage, Reason(text, code, record))
