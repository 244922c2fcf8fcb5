"""`models` and `provider` of a request, as OpenRouter has them: decoded and checked. Pure.

Source: https://openrouter.ai/docs/features/provider-routing. A member that would promise what is
not kept here is refused by name.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.more import is_neutral, members

_Name = Annotated[str, Meta(min_length=1, max_length=LIMITS.model_field_max_chars)]
_Names = Annotated[list[_Name], Meta(max_length=LIMITS.preferred_max)]


_By = Literal["latency", "throughput", "price"]


class _Sort(msgspec.Struct):
    by: _By | None = None
    partition: Literal["model", "none"] | None = None


class _Provider(msgspec.Struct):
    order: _Names | None = None
    only: _Names | None = None
    ignore: _Names | None = None
    sort: _By | _Sort | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    quantizations: _Names | None = None


_DECODER: msgspec.json.Decoder[_Provider] = msgspec.json.Decoder(_Provider)
# With the values that promise nothing.
_OTHERS: Final[dict[str, tuple[Any, ...]]] = {
    "data_collection": ("allow",),
    "zdr": (False,),
    "enforce_distillable_text": (False,),
}


def models_of(model: str, models: Sequence[str] | None) -> tuple[str, ...]:
    """The models that a request names, each once: `model` before those that may stand in for it.

    Raises:
        InvalidRequestError: none, one without a name, or too many.
    """
    named = tuple(dict.fromkeys((*((model,) if model or not models else ()), *(models or ()))))
    for name in named:
        if not 0 < len(name) <= LIMITS.model_field_max_chars:
            param = "model" if name == model else "models"
            raise InvalidRequestError(f"`{param}` must name a model.", param=param)
    if len(named) > LIMITS.models_asked_max:
        raise InvalidRequestError(
            f"`models` holds more than {LIMITS.models_asked_max}.", param="models"
        )
    return named


def preferences_of(provider: bytes | msgspec.Raw) -> Preferences:
    """What `provider` says, as JSON text; nothing where it is absent or null.

    Raises:
        InvalidRequestError: it is wrong; `unsupported_parameter` for what there is none of here.
    """
    text = bytes(provider)
    if is_neutral(text, ({},)):
        return ANY
    said = members(text, "provider")
    for name, value in said.items():
        if name not in _Provider.__struct_fields__ and not is_neutral(value, _OTHERS.get(name, ())):
            raise _unsupported(name)
    try:
        parsed = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        what, _, where = str(error).partition(" - at `$")
        param = "provider" + where.rstrip("`")
        what = what[:300]  # it names members that are none, however long
        raise InvalidRequestError(f"`{param}` is wrong: {what}.", param=param) from None
    return Preferences(
        order=tuple(parsed.order or ()),
        only=tuple(parsed.only or ()),
        ignore=tuple(parsed.ignore or ()),
        sort=_sorted_by(parsed.sort),
        allow_fallbacks=parsed.allow_fallbacks is not False,
        require_parameters=bool(parsed.require_parameters),
        precisions=tuple(parsed.quantizations or ()),
    )


def _sorted_by(sort: _By | _Sort | None) -> Literal["latency", "throughput"] | None:
    if isinstance(sort, _Sort):
        if sort.partition == "none":
            raise _unsupported(
                "sort.partition", "is `model` here: `models` are asked in their order"
            )
        sort = sort.by
    if sort == "price":
        raise _unsupported("sort", "cannot be by price: there are no prices here")
    return sort


def _unsupported(name: str, what: str = "is not kept here: leave it out") -> InvalidRequestError:
    param = f"provider.{name[:64]}"
    return InvalidRequestError(f"`{param}` {what}.", Code.UNSUPPORTED_PARAMETER, param=param)
