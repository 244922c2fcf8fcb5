"""Every target, by name."""

from scripts.fuzzing import credentials, dialects, files, http, planted, settings, upstream, wire
from scripts.fuzzing.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (wire, credentials, files, dialects, upstream, http, settings)
    for target in module.TARGETS
}
PLANTED: dict[str, Target] = {target.name: target for target in planted.TARGETS}


def target_of(name: str) -> Target:
    """The target of that name, one of those that test the fuzzer included."""
    return TARGETS.get(name) or PLANTED[name]
