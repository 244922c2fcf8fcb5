"""Pictures and sounds from people who mean harm, made here: name -> bytes."""

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
import soundfile
from PIL import Image

SVG: Final = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text>&b;&x;</text></svg>"""


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, pixels: bytes = b"", extra: bytes = b"") -> bytes:
    """A grey PNG that says it has this size, whatever is in it."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + head + extra + data + _chunk(b"IEND", b"")


def noise() -> Any:
    return Image.effect_noise((32, 32), 90).convert("RGB")


def saved(kind: str, image: Any = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or Image.new("RGB", (32, 32), "red")).save(stream, kind, **options)
    return stream.getvalue()


def _gif(width: int, height: int) -> bytes:
    """The screen is small, the picture on it is not."""
    made = bytearray(saved("GIF", Image.new("P", (8, 8))))
    at = made.index(b",", 13)
    struct.pack_into("<HH", made, at + 5, width, height)
    return bytes(made)


def _webp(width: int, height: int) -> bytes:
    made = bytearray(saved("WEBP", lossless=True))
    at = made.index(b"VP8L") + 9
    struct.pack_into("<I", made, at, (width - 1) | (height - 1) << 14)
    return bytes(made)


def _bmp(width: int, height: int) -> bytes:
    made = bytearray(saved("BMP"))
    struct.pack_into("<ii", made, 18, width, height)
    return bytes(made)


def _jpeg(width: int, height: int) -> bytes:
    made = bytearray(saved("JPEG"))
    struct.pack_into(">HH", made, made.index(b"\xff\xc0") + 5, height, width)
    return bytes(made)


_BOMB: Final = zlib.compress(bytes(1 << 26), 9)
PICTURES: Final[dict[str, bytes]] = {
    "a PNG of 100,000 x 100,000": png(100_000, 100_000),
    "a PNG of 2^31 x 2^31": png(2**31 - 1, 2**31 - 1),
    "a PNG of no width": png(0, 8),
    "a PNG whose text unfolds": png(8, 8, extra=_chunk(b"zTXt", b"k\0\0" + _BOMB) * 4),
    "a PNG whose profile unfolds": png(8, 8, extra=_chunk(b"iCCP", b"k\0\0" + _BOMB)),
    "a PNG of a chunk that never ends": png(8, 8)[:33] + b"\x7f\xff\xff\xffIDAT",
    "a GIF larger than its screen": _gif(65_535, 65_535),
    "a WebP of 16,384 x 16,384": _webp(16_384, 16_384),
    "a BMP of 65,000 x 65,000": _bmp(65_000, 65_000),
    "a BMP of a negative width": _bmp(-8, 8),
    "a JPEG of 65,535 x 65,535": _jpeg(65_535, 65_535),
    "a vector graphic that reads files": SVG,
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "a link to elsewhere": b"data:image/png;base64,../../etc/passwd",
    **{
        f"a {kind} that is cut at {share:.0%}": data[: int(len(data) * share)]
        for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP")
        for data in [saved(kind, noise())]
        for share in (0.1, 0.5)
    },
}


def animation(frames: int) -> bytes:
    """A GIF whose frames are red, then blue."""
    images = [Image.new("RGB", (32, 32), "red" if n == 0 else "blue") for n in range(frames)]
    stream = io.BytesIO()
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:])
    return stream.getvalue()


def sound(kind: str, samples: Any, rate: int = 16_000, subtype: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


_WAV: Final = sound("WAV", np.zeros(800, np.float32))


def wav(**changes: int) -> bytes:
    """A sound whose header says something else: rate, channels, size of the data."""
    made = bytearray(_WAV)
    places = {"channels": ("<H", 22), "rate": ("<I", 24), "riff": ("<I", 4), "data": ("<I", 40)}
    for name, value in changes.items():
        code, at = places[name]
        struct.pack_into(code, made, at, value)
    return bytes(made)


def _flac(samples: int) -> bytes:
    """A FLAC whose header says how many samples there are."""
    made = bytearray(sound("FLAC", np.zeros(4096, np.float32)))
    at = 4 + 4 + 13
    made[at] = made[at] & 0xF0 | samples >> 32
    struct.pack_into(">I", made, at + 1, samples & 0xFFFFFFFF)
    return bytes(made)


SOUNDS: Final[dict[str, bytes]] = {
    "a WAV of one sample a second": sound("WAV", np.zeros(100_000, np.float32), 1),
    "a WAV of no rate": wav(rate=0),
    "a WAV of no channels": wav(channels=0),
    "a WAV without a sound": sound("WAV", np.zeros(0, np.float32)),
    "a WAV that is cut": _WAV[:30],
    "a WAV of infinity": sound("WAV", np.full(800, np.inf, np.float32), subtype="FLOAT"),
    "a WAV of no numbers": sound("WAV", np.full(800, np.nan, np.float32), subtype="FLOAT"),
    "a WAV louder than any": sound("WAV", np.full(800, 3e38, np.float32), 8_000, subtype="FLOAT"),
    "a FLAC of 2^36 samples": _flac(2**36 - 1),
    "a FLAC of an hour of silence": sound("FLAC", np.zeros((1 << 23, 8), np.float32)),
    "a FLAC that is cut": sound("FLAC", np.zeros(4096, np.float32))[:60],
    "an Ogg that is none": b"OggS" + bytes(200),
    "a list of other files": b"#EXTM3U\nfile:///etc/passwd\n",
    "a picture": saved("PNG"),
    "nothing": b"",
}
