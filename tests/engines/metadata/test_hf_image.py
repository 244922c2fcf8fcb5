"""Images become the pixels that transformers' own processors make of them."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from aigrid.engines.metadata.hf_image import decimal, image_input
from aigrid.engines.tasks.image import read_image
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.task import ImageInput

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VIT: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 24, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": MEAN,
    "image_std": STD,
}
RESNET: dict[str, Any] = {
    **VIT,
    "size": {"shortest_edge": 40},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
}


def saved(folder: Path, said: dict[str, Any]) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def picture(width: int, height: int) -> bytes:
    rng = np.random.default_rng(width)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def by_definition(data: bytes, said: dict[str, Any]) -> np.ndarray:
    """What the configuration asks for, step by step, with Pillow and numpy."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    size = said["size"]
    if "shortest_edge" in size:
        short = min(image.size)
        wide, high = (int(size["shortest_edge"] * side / short) for side in image.size)
        target = (wide, high)
    else:
        target = (size["width"], size["height"])
    image = image.resize(target, said["resample"])
    pixels = np.asarray(image, np.float64)
    if said.get("do_center_crop"):
        high, wide = said["crop_size"]["height"], said["crop_size"]["width"]
        top, left = (pixels.shape[0] - high) // 2, (pixels.shape[1] - wide) // 2
        pixels = pixels[top : top + high, left : left + wide]
    pixels = pixels * said["rescale_factor"]
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("said", [VIT, RESNET], ids=["stretch", "crop"])
@pytest.mark.parametrize("size", [(100, 60), (41, 97), (40, 40), (640, 480)])
def test_pixels_are_what_the_configuration_asks_for(tmp_path: Path, said, size) -> None:
    made = image_input(saved(tmp_path, said))
    mapping = msgspec.convert(made, ImageInput)
    data = picture(*size)
    assert np.allclose(read_image(data, mapping), by_definition(data, said), atol=1e-5)


def test_without_rescaling_or_normalising_pixels_stay(tmp_path: Path) -> None:
    said = {"size": 8, "do_rescale": False, "do_normalize": False, "resample": 0}
    mapping = msgspec.convert(image_input(saved(tmp_path, said)), ImageInput)
    assert (mapping.divisor, mapping.mean, mapping.width, mapping.height) == ("1", (), 8, 8)
    assert mapping.resample == "nearest"
    assert read_image(picture(8, 8), mapping).max() > 200


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"size": {"shortest_edge": 224}},
        {"size": {"shortest_edge": 224}, "resample": 9},
        {"size": {"shortest_edge": 224}, "resample": ["a" * 5000]},
        {**VIT, "rescale_factor": 0},
        {**VIT, "rescale_factor": "1e-999"},
        {**VIT, "image_mean": ["a"]},
        {**RESNET, "size": {"height": 40, "width": 50}},
    ],
)
def test_what_no_mapping_can_say_is_refused(tmp_path: Path, said: dict[str, Any]) -> None:
    with pytest.raises(EngineError) as caught:
        image_input(saved(tmp_path, said))
    assert caught.value.code is Code.UNSUPPORTED_MODEL
    assert len(caught.value.message) < 200


def test_a_folder_that_says_nothing_of_images_has_none(tmp_path: Path) -> None:
    assert image_input(tmp_path) is None


def test_a_narrow_image_does_not_become_a_huge_one() -> None:
    mapping = ImageInput(32, 32, resize="crop", shorter=4096)
    file = io.BytesIO()
    Image.new("RGB", (1, 20_000)).save(file, "PNG")
    with pytest.raises(EngineError) as caught:
        read_image(file.getvalue(), mapping)
    assert caught.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize("value", [255.0, 1 / 0.00392156862745098, 0.5, 127.5, 1e-9, 0.1])
def test_decimal_text_has_a_form_that_a_mapping_takes(value: float) -> None:
    made = ImageInput(1, 1, divisor=decimal(value))
    again = msgspec.convert(msgspec.to_builtins(made), ImageInput)
    assert np.float32(float(again.divisor)) == pytest.approx(np.float32(value))


@pytest.mark.parametrize(
    ("kind", "said"), [("ViTImageProcessorPil", VIT), ("CLIPImageProcessorPil", RESNET)]
)
def test_transformers_processors_agree(tmp_path: Path, kind: str, said: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")
    processor = getattr(transformers, kind)(**said)
    data = picture(97, 53)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"])
    mapping = msgspec.convert(image_input(saved(tmp_path, said)), ImageInput)
    assert np.allclose(read_image(data, mapping), theirs, atol=1e-4)
