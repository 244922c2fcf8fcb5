"""How images become pixels, as `preprocessor_config.json` of transformers says it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aigrid.engines.small_files import read_json
from aigrid.protocol.errors import Code, EngineError

FILE: Final = "preprocessor_config.json"
_LEAST: Final = 1e-8
_RESAMPLING: Final = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's `Image.Resampling`."""


def image_input(folder: Path) -> dict[str, Any] | None:
    """The parts of an `ImageInput`; None where the folder says nothing of images.

    Raises:
        EngineError: `unsupported_model` for what no mapping can express.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    said = read_json(path)
    size = _size(said.get("size"))
    crop = _size(said.get("crop_size")) if said.get("do_center_crop") else {}
    made = _fitted(size if said.get("do_resize", True) else {}, crop)
    resample = said.get("resample", 2)
    if type(resample) is not int or resample not in _RESAMPLING:
        raise _unsupported(f"the resampling {repr(resample)[:64]} of {FILE} is not supported")
    made["resample"] = _RESAMPLING[resample]
    if said.get("do_rescale", True):
        factor = said.get("rescale_factor", 1 / 255)
        if type(factor) not in (int, float) or not _LEAST < factor < 1 / _LEAST:
            raise _unsupported(f"rescale_factor of {FILE} is no sensible number")
        made["divisor"] = decimal(1 / factor)
    else:
        made["divisor"] = "1"
    if said.get("do_normalize", True):
        made["mean"] = _numbers(said.get("image_mean", ()))
        made["std"] = _numbers(said.get("image_std", ()))
    return made


def decimal(value: float) -> str:
    """A number as decimal text, to 9 significant digits: enough for any float32."""
    text = f"{value:.9g}"
    return str(round(value)) if abs(value - round(value)) < 1e-6 * abs(value) else text


def _fitted(size: Mapping[str, int], crop: Mapping[str, int]) -> dict[str, Any]:
    """Width, height and how an image gets there.

    With a crop, the shorter side is scaled first; both sides, if `size` names them.
    """
    shortest = size.get("shortest_edge", 0)
    if crop and not {"width", "height"} <= crop.keys():
        raise _unsupported(f"crop_size of {FILE} names no width and height")
    if crop:
        made: dict[str, Any] = {"width": crop["width"], "height": crop["height"], "resize": "crop"}
        both = {size.get("width", 0), size.get("height", 0)} - {0}
        if len(both) > 1:
            raise _unsupported(f"{FILE} scales to another shape than it crops to")
        shortest = shortest or max(both, default=0)
        return {**made, "shorter": shortest} if shortest else made
    if shortest:
        raise _unsupported(f"{FILE} leaves open how large an image is: it has no crop_size")
    if not size:
        raise _unsupported(f"{FILE} does not say how large an image is")
    return {"width": size["width"], "height": size["height"], "resize": "stretch"}


def _size(said: Any) -> dict[str, int]:
    if type(said) is int:
        return {"width": said, "height": said} if said > 0 else {}
    if not isinstance(said, dict):
        return {}
    found = {k: v for k, v in said.items() if type(v) is int and v > 0}
    whole = {"width", "height"} <= found.keys() or "shortest_edge" in found
    return found if whole else {}


def _numbers(said: Any) -> tuple[str, ...]:
    given = said if isinstance(said, list) else [said]
    if not all(type(one) in (int, float) and abs(one) < 1 / _LEAST for one in given):
        raise _unsupported(f"mean or deviation in {FILE} are no numbers")
    return tuple(decimal(one) for one in given)


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
