"""Names of models that the operator gives to model ids, whoever else uses them: `[names]`."""

from collections.abc import Mapping
from typing import Any

from aigrid.node.settings.setting import BadValueError, kind_of, table
from aigrid.protocol.limits import LIMITS


def names(value: Any) -> Mapping[str, str]:
    """A table, or `llama=bagaaiera...,tiny=bagaaiera...`. Raises BadValueError."""
    value = table(value, '[names] with llama = "bagaaiera..."')
    if len(value) > LIMITS.names_pinned_max:
        raise BadValueError(f"holds more than {LIMITS.names_pinned_max} names")
    return {name: _model(name, said) for name, said in value.items()}


def _model(name: str, said: Any) -> str:
    from aigrid.protocol.canonical import is_content_id  # `--help` needs no JSON

    if not name or len(name) > LIMITS.name_max_chars or is_content_id(name):
        raise BadValueError(f"{name[:80]!r} is no name of a model")
    if not isinstance(said, str):
        raise BadValueError(f"{name[:80]!r} must be a model id, and is {kind_of(said)}")
    if not is_content_id(said):
        raise BadValueError(
            f"{name[:80]!r} must be a model id such as bagaaiera... (`aigrid models`)"
        )
    return str(said)
