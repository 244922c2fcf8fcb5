"""Options that models of text have in common, whatever runs them."""

from aigrid.engines.base import ModelSource
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS


def context_tokens(source: ModelSource, most: int) -> int:
    """The option `context`, by default the model's own `most`, within a bound.

    Raises:
        EngineError: `unsupported_model` if it is no number of tokens; so with `flag`.
    """
    wanted = source.options.get("context", min(most, LIMITS.context_default_tokens))
    if type(wanted) is not int or wanted < 1:
        raise EngineError("the option context must be a number of tokens", Code.UNSUPPORTED_MODEL)
    return min(wanted, most)


def flag(source: ModelSource, name: str, *, default: bool) -> bool:
    """An option that is true or false."""
    value = source.options.get(name, default)
    if not isinstance(value, bool):
        raise EngineError(f"the option {name} must be true or false", Code.UNSUPPORTED_MODEL)
    return value


def slots_of(source: ModelSource) -> int:
    """The option `slots`: how many conversations are answered at once."""
    most = LIMITS.batch_slots_max
    wanted = source.options.get("slots", LIMITS.batch_slots)
    if type(wanted) is not int or not 1 <= wanted <= most:
        raise EngineError(
            f"the option slots must be a number from 1 to {most}", Code.UNSUPPORTED_MODEL
        )
    return wanted
