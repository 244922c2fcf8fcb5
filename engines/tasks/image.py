"""Images: base64 of a PNG, JPEG, WebP, GIF or BMP file to a tensor, scores to labels."""

import base64
import binascii
import io
from typing import Any, Final

import numpy as np
from msgspec import UNSET

from aigrid.engines.tasks.base import (
    Array,
    Setup,
    TaskCall,
    activate,
    classes,
    invalid,
    ranked,
    unsupported,
)
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import ImageInput

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MODES: Final = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}


class ImageClassification:
    """Labels of an image by score."""

    parameters = frozenset({"top_k"})

    def __init__(self, setup: Setup) -> None:
        if setup.mapping.image is UNSET:
            raise unsupported(f"{setup.name} needs a mapping of an image")
        self._image = setup.mapping.image
        self._output = setup.output
        self._runner = setup.runner
        self._tensor = setup.input_name(self._image.tensor)
        self._result = setup.output_name()
        self._labels = setup.labels()

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        pixels = read_image(decode_base64(call, "an image"), self._image)
        top = call.whole("top_k", self._output.top, low=0, high=LIMITS.task_labels_max)
        found = call.run(self._runner, {self._tensor: pixels})[self._result]
        return ranked(
            classes(found.ravel(), self._labels, self._output.activation), self._labels, top
        )


class ImageEmbedding(ImageClassification):
    """An image to one vector."""

    parameters = frozenset[str]()

    def __call__(self, call: TaskCall) -> list[float]:  # type: ignore[override]
        pixels = read_image(decode_base64(call, "an image"), self._image)
        vector = call.run(self._runner, {self._tensor: pixels})[self._result].ravel()
        length = float(np.linalg.norm(vector))
        scale = 1 / length if self._output.normalize and length > 0 else 1.0
        return [float(x) for x in activate(vector * scale, "none")]


def decode_base64(call: TaskCall, what: str) -> bytes:
    """The file in a request: base64, or a `data:` URL of it.

    Raises:
        EngineError: `invalid_request`.
    """
    text = call.input(str, f"{what} in base64")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"the input of {call.request.task} is {what} in base64") from None


def read_image(data: bytes, mapping: ImageInput) -> Array:
    """float32 [1, channels, height, width] of a file, or with the channels last.

    Raises:
        EngineError: `invalid_request` for what is no image, or one that is too large.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width * image.height)  # before anything is decoded
            upright = ImageOps.exif_transpose(image).convert(_MODES[mapping.channels])
            fitted = _fit(upright, mapping)
    except (EngineError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 -- boundary: decoders raise whatever they stumble on
        raise invalid(f"the image cannot be read: {error}") from None
    pixels = np.asarray(fitted, np.float32)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if mapping.channels == "bgr":
        pixels = pixels[:, :, ::-1]
    pixels = pixels / np.float32(mapping.divisor)
    for numbers, apply in ((mapping.mean, np.subtract), (mapping.std, np.divide)):
        if numbers:
            pixels = apply(pixels, np.asarray(numbers, np.float32))
    if mapping.layout == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None])


def _check_size(pixels: int) -> None:
    if pixels > LIMITS.image_pixels_max:
        raise invalid(f"an image has at most {LIMITS.image_pixels_max} pixels")


def _fit(image: Any, mapping: ImageInput) -> Any:
    from PIL import Image, ImageOps

    size, way = (mapping.width, mapping.height), Image.Resampling[mapping.resample.upper()]
    match mapping.resize:
        case "crop" if mapping.shorter:
            return _middle(image.resize(_scaled(image.size, mapping.shorter), way), size)
        case "crop":
            return ImageOps.fit(image, size, way)
        case "pad":
            return ImageOps.pad(image, size, way)
    return image.resize(size, way)


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) with the shorter side as wanted and the longer one in proportion.

    Raises:
        EngineError: `invalid_request` for an image so narrow that it would become too large.
    """
    least = min(size)
    width, height = (shorter * side // least for side in size)
    if width * height > LIMITS.image_pixels_max:
        raise invalid(f"scaled to the model's size, the image has {width} x {height} pixels")
    return width, height


def _middle(image: Any, size: tuple[int, int]) -> Any:
    """The middle of an image; black where it is smaller."""
    left, top = ((whole - part) // 2 for whole, part in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))
