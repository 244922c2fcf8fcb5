"""What a failure says of the node that was asked, and of the request. Pure."""

from collections.abc import Collection, Sequence

from aigrid.metagraph.selection import (
    UNWANTED,
    Ranking,
    Reason,
    nearest_miss,
    what_would_admit,
)
from aigrid.node.mesh.routing.summoning import Unmet
from aigrid.node.policy.explaining import nearness
from aigrid.protocol.errors import (
    CODES,
    POLICY,
    AigridError,
    Code,
    InvalidRequestError,
    NoCandidateError,
    RemoteError,
)
from aigrid.protocol.inference import TEXT_GENERATION
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import not_taken, untaken

# The other node's program is wrong: it is there, and waiting brings nobody who would do better.
BROKEN = frozenset({Code.PROTOCOL_VIOLATION, Code.FRAME_TOO_LARGE, Code.INTERNAL})

# Of these the client hears, when no other candidate did better: the node is there.
TOLD = BROKEN | frozenset(
    {
        Code.BUSY,
        Code.LOADING,
        Code.QUARANTINED,
        Code.OUT_OF_MEMORY,
        Code.ENGINE_CRASHED,
        Code.ENGINE_FAILED,
        Code.ENGINE_TIMEOUT,
        Code.UNSUPPORTED_PARAMETER,
    }
)

# A node that says so is sound and has no room now; it may say when it will.
NO_ROOM = frozenset({Code.BUSY, Code.LOADING, Code.QUARANTINED})

# After these a worker has to be started anew, and a request may be what kills them.
ENGINE_DIED = frozenset(
    {Code.ENGINE_CRASHED, Code.ENGINE_FAILED, Code.ENGINE_TIMEOUT, Code.OUT_OF_MEMORY}
)

# Said of a model that was running, it is so wherever that runs.
_OF_THE_MODEL = frozenset({Code.UNSUPPORTED_MODEL, Code.UNSUPPORTED_QUANTISATION})

# Codes that say something about the node that was asked rather than about the request.
_OF_THE_NODE = frozenset(
    {
        Code.PROTOCOL_VIOLATION,
        Code.FRAME_TOO_LARGE,
        Code.INTERNAL,
        Code.ENGINE_FAILED,
        Code.MODEL_FILE_MISSING,
        Code.HASH_MISMATCH,
        Code.NOT_MEMBER,
        Code.DENIED,
        Code.MODEL_NOT_FOUND,
        Code.UNSUPPORTED_MODEL,
        Code.UNSUPPORTED_QUANTISATION,
        Code.UNSUPPORTED_PARAMETER,
        Code.DATA_DIRECTORY_UNUSABLE,
    }
)

# What a sound node says when it has no room: the next one is asked, and this one keeps its name.
_NO_FAULT = NO_ROOM | {
    Code.RATE_LIMITED,
    Code.OVER_RATE,
    Code.OUT_OF_MEMORY,
    Code.NO_CANDIDATE,
    Code.SHUTTING_DOWN,
}
_TOLD_MAX = 4


def worth_another(error: AigridError) -> bool:
    """Whether the next candidate may do better than the one that failed so."""
    # By policy: another may be permitted to serve it.
    return error.code in POLICY or CODES[error.code].retry or error.code in _OF_THE_NODE


def is_busy(error: AigridError) -> bool:
    """Whether a sound node has no room for this model now."""
    return error.code in NO_ROOM or error.code in (Code.OUT_OF_MEMORY, Code.SHUTTING_DOWN)


def may_go_on(error: AigridError) -> bool:
    """Whether another node may go on with an answer that broke off so."""
    return error.code not in POLICY and worth_another(error)


def is_its_fault(error: AigridError) -> bool:
    """Whether the failure counts against the other node."""
    if error.code in POLICY or error.code in _NO_FAULT:
        return False
    return isinstance(error, RemoteError) and worth_another(error)


def more_telling(before: AigridError | None, error: AigridError) -> AigridError:
    """Of two reasons the one to tell: of policies' that nearest to permission; any other first.

    Of what another node did wrong only where nobody failed otherwise, who may do better yet.
    """
    if before is None:
        return error
    if error.code in BROKEN and before.code not in POLICY:
        return before
    if error.code not in POLICY:
        return error
    nearer = before.code in POLICY and nearness(error.code) >= nearness(before.code)
    return error if nearer else before


def unmet(
    ranking: Ranking,
    problem: AigridError | None,
    *,
    model: str,
    capability: str,
    name: str,
    ran: bool = False,
) -> Unmet | None:
    """What to summon somebody for; None where those who were asked have answered for good.

    Args:
        ranking: of the candidates there were.
        problem: the most telling failure, if any was asked.
        model: model id, or "".
        capability: that was asked for, or "".
        name: that the client used, or "".
        ran: whether the request had begun to run where that happened: what it took then was its
            own doing, and anybody who came would lose a worker to it, too.
    """
    if problem is not None and (problem.code in POLICY or not worth_another(problem)):
        return None
    if problem is None and (not wants_some(ranking) or all_broken(ranking)):
        return None
    told = None if problem is None else problem.code
    if ran and told in _OF_THE_MODEL:
        return None
    no_room = NO_ROOM if ran else NO_ROOM | {Code.OUT_OF_MEMORY}
    if told in TOLD and told not in no_room:
        return None
    busy = told in no_room or any(one.reason is Reason.BUSY for one in ranking.dropped)
    return Unmet(model, capability, name, "busy" if busy else "nobody offers")


def of_another_kind(does: Sequence[str], asked: str, *, tensors: bool) -> InvalidRequestError:
    """The error for models that do something else than what they are asked.

    Args:
        does: what they do, at least one.
        asked: the capability that was asked for.
        tensors: whether they take these, and neither text nor a task's input.
    """
    paths = {TEXT_GENERATION: "/v1/chat/completions", "feature-extraction": "/v1/embeddings"}
    path = "/v2/models" if tensors else paths.get(does[0], f"/aigrid/v1/tasks/{does[0]}")
    return InvalidRequestError(
        f"The model does {', '.join(does)}, and what is asked is {asked}: name another model, or "
        f"ask for that at {path}.",
        param="model",
    )


def nobody_wanted(ranking: Ranking, what: str, needed: Collection[str]) -> AigridError | None:
    """The error where there are offers, and none is what the request wants; None elsewhere."""
    if wants_some(ranking):
        return None
    lacking = [
        untaken(needed, one.candidate.takes)
        for one in ranking.dropped
        if one.reason is Reason.PARAMETER
    ]
    if lacking:
        return not_taken(min(lacking, key=len), f"any node that may be asked for {what}")
    told = unwanted_ones(ranking)
    if nearest_miss(ranking.dropped) is not None:
        return NoCandidateError(f"no node that offers {what} is one that may be asked: {told}")
    return InvalidRequestError(
        f"No node that offers {what} is one that `provider` permits: {told}.", param="provider"
    )


def nobody_now(ranking: Ranking, what: str, *, busy: bool, own_problem: str) -> NoCandidateError:
    """The error where there are candidates, or may be soon, and none can serve now.

    Args:
        ranking: of the candidates there were.
        what: was asked for, for people.
        busy: whether some said that they have no room.
        own_problem: why this node does not serve it, "" where it cannot be told.
    """
    retry_after_seconds = ranking.retry_after_seconds or LIMITS.retry_after_seconds
    if busy or any(one.reason is Reason.BUSY for one in ranking.dropped):
        return NoCandidateError(
            f"every node that can serve {what} is busy",
            Code.BUSY,
            retry_after_seconds=retry_after_seconds,
        )
    others = unwanted_ones(ranking)
    if all_broken(ranking):
        told = [one for one in ranking.dropped if one.reason is Reason.BROKEN][:_TOLD_MAX]
        others = "; ".join(f"{one.candidate.node} {', '.join(one.explanation)}" for one in told)
    why = (f"; this node: {own_problem}" if own_problem else "") + (f"; {others}" if others else "")
    return NoCandidateError(
        f"no live node can serve {what} now{why}", retry_after_seconds=retry_after_seconds
    )


def unwanted_ones(ranking: Ranking) -> str:
    """Who is not asked because the request wants something else, and why; "" where nobody is.

    Of those that fail constraints the nearest miss alone, and what would admit it.
    """
    of = [one for one in ranking.dropped if one.reason in UNWANTED and not one.missed]
    told = [f"{one.candidate.node} {', '.join(one.explanation)}" for one in of[:_TOLD_MAX]]
    miss = nearest_miss(ranking.dropped)
    return "; ".join(told if miss is None else [what_would_admit(miss), *told])


def all_broken(ranking: Ranking) -> bool:
    """Whether all who could be asked, were it not for that, broke the protocol again and again."""
    wanted = [one.reason for one in ranking.dropped if one.reason not in UNWANTED]
    return bool(wanted) and not ranking.kept and set(wanted) == {Reason.BROKEN}


def wants_some(ranking: Ranking) -> bool:
    """Whether a request wants some of those who offer, or there are none yet."""
    unwanted = all(one.reason in UNWANTED for one in ranking.dropped)
    return bool(ranking.kept) or not ranking.dropped or not unwanted
