"""Whether a run may be called well: as many answers as the scenario states, and nothing vacuous.

A run that was to check something, and never came to it, shows nothing of it: it is not well.
"""

from collections.abc import Iterator

from scripts.simulation.checks.promptly import kept_from_all
from scripts.simulation.checks.properties import Watch
from scripts.simulation.options import Options
from scripts.simulation.workload import Request

ALWAYS_CHECKED = ("never_back", "members_only", "answered")
NOBODY_KILLED = "nobody was killed: is it too short?"
CHECKED_UNDER_ATTACK = {
    "flood": ("bounded",),
    "replay": ("once", "genuine"),
    "censor": ("heard",),
    "poison": ("weights", "avoided"),
    "eclipse": ("found", "eclipsed"),
    "resend": ("again", "resent"),
}
"""What an attack of each kind is looked at by, where that is counted."""


def judge(
    options: Options, watch: Watch, requests: list[Request], *, cut_off: int, killed: int
) -> None:
    """Once all is over; `cut_off` nodes were on the other side of a partition."""
    for after, success_min, wrong_max in (
        (False, options.success_min, options.wrong_max),
        (True, options.success_after_min, options.wrong_after_max),
    ):
        success, wrong, count = rates(requests, after=after)
        if count and success < success_min:
            watch.violated("served", f"{_when(after)} {success:.1%} of {count} were answered")
        if count and wrong > wrong_max:
            watch.violated("right", f"{_when(after)} {wrong:.1%} of the answers were wrong")
        _judge_spread(options, watch, after=after)
    _judge_quickness(options, watch, requests)
    for what in _unchecked(options, watch, requests, cut_off, killed):
        watch.violated("checked", what)


def _judge_quickness(options: Options, watch: Watch, requests: list[Request]) -> None:
    """Whether those were asked who answer, and answer soon: others may have stood in for them."""
    answered = [one for one in requests if one.outcome == "ok" and not one.after]
    if not answered:
        return
    for share_min, count, what in (
        (options.first_min, sum(one.attempts <= 1 for one in answered), "by the first one asked"),
        (
            options.quick_min,
            sum(one.took_seconds <= options.quick_seconds for one in answered),
            f"within {options.quick_seconds:g} s",
        ),
    ):
        share = count / len(answered)
        if share < share_min:
            watch.violated("quick", f"{share:.1%} of {len(answered)} were answered {what}")


def _judge_spread(options: Options, watch: Watch, *, after: bool) -> None:
    """Whether gossip did its part, where nothing keeps it from that."""
    said = watch.promptly[after]
    if kept_from_all(options, after=after) or not (after or options.publish):
        return
    if not said.due:
        watch.violated("checked", f"{_when(after)} nothing was said: nothing says `spread`")
    elif said.share < options.spread_min:
        what = f"{said.share:.1%} of {said.due} records reached everybody"
        watch.violated("spread", f"{_when(after)} {what} within {said.seconds:g} s")


def _unchecked(
    options: Options, watch: Watch, requests: list[Request], cut_off: int, killed: int
) -> Iterator[str]:
    """What the run was to look at, and had none of."""
    for after in (False, True) if options.rate else (True,):
        success, _, count = rates(requests, after=after)
        if not count:
            yield f"{_when(after)} no request was made that counts: nothing says `served`"
        elif not success:
            yield f"{_when(after)} no request was answered: nothing says `right`"
    under_attack = CHECKED_UNDER_ATTACK.get(options.kind, ()) if options.attackers else ()
    under_faults = ("clock",) * bool(options.skewed) + ("kept",) * bool(killed)
    for name in (*ALWAYS_CHECKED, *under_faults, *under_attack):
        if not watch.checks[name]:
            yield nothing_for(name)
    if options.publish and not watch.propagation.issued:
        yield "no record was issued under faults"
    if options.partition and not cut_off:
        yield "nobody was cut off"
    if options.churn and not killed:
        yield NOBODY_KILLED


def nothing_for(name: str) -> str:
    """What is said of a property that no event of the run could have broken."""
    return f"nothing came by which `{name}` could have been broken"


def rates(requests: list[Request], *, after: bool) -> tuple[float, float, int]:
    """(share answered, share of answers that are wrong, requests), of those that count.

    A request whose asker was killed has nobody to be answered.
    """
    counted = [one for one in requests if one.after is after and one.outcome != "asker_killed"]
    answered = [one for one in counted if one.outcome == "ok"]
    wrong = sum(not one.right for one in answered)
    count = len(counted)
    return len(answered) / max(1, count), wrong / max(1, len(answered)), count


def _when(after: bool) -> str:  # noqa: FBT001
    return "after the faults" if after else "under faults"
