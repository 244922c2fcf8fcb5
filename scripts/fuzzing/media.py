"""Pictures and sounds in requests, as the worker of a model reads them.

What is read is bounded more tightly than for requests, so that an execution that takes much memory
stands out.
"""

import base64
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import soundfile
from PIL import Image
from scripts.fuzzing.inputs import Named, ask_each, tasks_of
from scripts.fuzzing.mutations import mutated
from scripts.fuzzing.target import Target

from aigrid.engines.tasks import audio, image
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import AudioInput, ImageInput

PIXELS_MAX, SAMPLES_MAX = 1 << 18, 1 << 16


@cache
def _seers() -> tuple[Named, ...]:
    """Each way in which a picture is made to fit."""
    ways = (
        ImageInput(8, 8),
        ImageInput(8, 6, resize="crop", shorter=9, resample="bicubic", mean=("0.5",) * 3),
        ImageInput(8, 8, resize="crop", channels="bgr", layout="nhwc", resample="nearest"),
        ImageInput(6, 9, resize="pad", channels="gray", std=("0.5",), resample="lanczos"),
    )
    task = "image-classification"
    return tuple((task, tasks_of(task, image=way)) for way in ways)


@cache
def _hearers() -> tuple[Named, ...]:
    ways = (AudioInput(16_000, window_samples=512, context_samples=64), AudioInput(8_000))
    task = "audio-classification"
    return (
        *((task, tasks_of(task, audio=way)) for way in ways),
        ("voice-activity-detection", tasks_of("voice-activity-detection", 1, audio=ways[0])),
    )


@cache
def _small() -> None:
    """Bounds under which no valid input is as large as what a bad one may be made into."""
    limits = replace(LIMITS, image_pixels_max=PIXELS_MAX, audio_samples_max=SAMPLES_MAX)
    for module in (image, audio):
        module.LIMITS = limits  # type: ignore[attr-defined]


def _text_of(data: bytes) -> bytes:
    """A file in base64, as JSON; what is no file of a kind known here is the text itself."""
    if data.startswith(b'"'):
        return data
    return json.dumps(base64.b64encode(data).decode()).encode()


def _picture(data: bytes) -> None:
    _small()
    ask_each(_seers(), _text_of(data))


def _sound(data: bytes) -> None:
    _small()
    ask_each(_hearers(), _text_of(data))


class Files:
    """Files changed byte by byte, most of them near their head; some as text in base64."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self.seeds = tuple(seeds)

    def make(self, rng: Random) -> bytes:
        data = rng.choice(self.seeds)
        match rng.getrandbits(3):
            case 0:
                return data
            case 1:
                return mutated(rng, _text_of(data), ())
            case 2 | 3 | 4:
                head = mutated(rng, data[:64], ())
                return head + data[64:]
        return mutated(rng, data, self.seeds)


def _picture_seeds() -> list[bytes]:
    noise = Image.frombytes("RGB", (9, 7), bytes(range(189)))
    made = []
    for mode in ("RGB", "RGBA", "L", "P", "1", "I;16", "CMYK"):
        for kind in image.FORMATS:
            stream = io.BytesIO()
            try:
                noise.convert("I" if mode == "I;16" else mode).convert(mode).save(stream, kind)
            except (OSError, ValueError):
                continue  # there is no such file
            made.append(stream.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    for kind, more in (
        ("JPEG", {"exif": exif, "progressive": True}),
        ("PNG", {"exif": exif, "interlace": 1}),
        ("WEBP", {"exif": exif, "lossless": True}),
        ("GIF", {"save_all": True, "append_images": [noise.rotate(90)]}),
        ("WEBP", {"save_all": True, "append_images": [noise.rotate(180)]}),
    ):
        stream = io.BytesIO()
        noise.save(stream, kind, **more)
        made.append(stream.getvalue())
    return made


def _numbered(ogg: bytes) -> bytes:
    """The same stream under the number 1: its writer draws one, and seeds are the same each time.

    A page has its number at 14, its CRC at 22, at 26 how many sizes follow (RFC 3533, 6).
    """
    made, at = bytearray(ogg), 0
    while at < len(made):
        sizes = made[at + 27 : at + 27 + made[at + 26]]
        end = at + 27 + len(sizes) + sum(sizes)
        struct.pack_into("<I", made, at + 14, 1)
        struct.pack_into("<I", made, at + 22, 0)
        struct.pack_into("<I", made, at + 22, _crc(made[at:end]))
        at = end
    return bytes(made)


def _undated(sound: bytes) -> bytes:
    """Without the time that WAVs of floats have in their chunk of peaks, eight bytes into it."""
    at = sound.find(b"PEAK")
    return sound if at < 0 else sound[: at + 12] + bytes(4) + sound[at + 16 :]


def _crc(data: bytes | bytearray) -> int:
    """That of Ogg: the usual polynomial, from the highest bit on, from 0."""
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


def _sound_seeds() -> list[bytes]:
    wave = np.sin(np.arange(1200) / 9).astype(np.float32)
    made = []
    for kind, subtype in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "ULAW"), ("FLAC", None),
        ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", "PCM_24"), ("AU", "ALAW"), ("WAVEX", None),
    ):  # fmt: skip
        for rate, channels in ((16_000, 1), (8_000, 2)):
            samples = wave if channels == 1 else np.stack([wave, -wave], axis=1)
            stream = io.BytesIO()
            soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
            data = stream.getvalue()
            made.append(_numbered(data) if kind == "OGG" else _undated(data))
    return made


REFUSED = (EngineError,)
TARGETS = (
    Target("pictures", lambda: Files(_picture_seeds()), _picture, REFUSED),
    Target("sounds", lambda: Files(_sound_seeds()), _sound, REFUSED),
)
