"""Values that do not fit, in words for whoever typed them."""

import re


def misfit(problem: str) -> str:
    """`problem` is msgspec's: "Expected `int` >= 1 - at `$.limits.tokens_per_day`"."""
    _, _, expected = problem.partition("Expected ")
    expected, _, path = expected.partition(" - at `$")
    names = re.findall(r"[A-Za-z_]+", path)
    if not expected or not names:
        return problem
    return f"`{names[-1]}` cannot have this value: expected {expected}"
