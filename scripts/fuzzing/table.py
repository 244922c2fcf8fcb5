"""Every target, by name."""

from functools import cache

from scripts.fuzzing import planted
from scripts.fuzzing.target import Target


@cache
def targets() -> dict[str, Target]:
    """All that are fuzzed; imports all that they decode with."""
    from scripts.fuzzing import (
        answers,
        capabilities,
        credentials,
        dialects,
        files,
        folders,
        gossip,
        headers,
        http,
        inputs,
        media,
        names,
        peers,
        servers,
        settings,
        templates,
        upstream,
        wire,
        workers,
        yamux,
    )

    modules = (
        *(
            wire,
            gossip,
            peers,
            yamux,
            inputs,
            media,
            credentials,
            names,
            headers,
            servers,
            templates,
            files,
            folders,
            workers,
        ),
        *(dialects, capabilities, answers, upstream, http, settings),
    )
    return {target.name: target for module in modules for target in module.TARGETS}


def target_of(name: str) -> Target:
    """The target of that name, one of those that test the fuzzer included."""
    known = {target.name: target for target in planted.TARGETS}
    return known.get(name) or targets()[name]
