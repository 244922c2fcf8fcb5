"""What `torch.export.save` writes, looked at without torch: nothing in it is run or unpickled.

Source: `torch/export/pt2_archive` of torch 2.8 to 2.13. It is a zip whose entries lie below one
folder and are stored as they are: `archive_format` says "pt2", `models/NAME.json` is a program,
`data/weights/NAME_weights_config.json` says of each weight its type and its file. A program's
sample inputs are a pickle that loading runs, so only a trusted publisher's file is loaded at all.
"""

import struct
import zipfile
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import KIB, LIMITS

FORMAT: Final = "pt2"
_MARK: Final = "archive_format"
_NATIVE: Final = ("data/aotinductor/", "executorch/", "mtia/")
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_TAIL_BYTES: Final = 66 * KIB  # the longest comment, and the records before it
# `ScalarType` of torch/_export/serde/schema.py
_TYPES: Final = {
    1: ("uint8", 1), 2: ("int8", 1), 3: ("int16", 2), 4: ("int32", 4), 5: ("int64", 8),
    6: ("float16", 2), 7: ("float32", 4), 8: ("float64", 8), 12: ("bool", 1), 13: ("bfloat16", 2),
    28: ("uint16", 2), 29: ("float8_e4m3fn", 1), 30: ("float8_e5m2", 1),
}  # fmt: skip


class _Size(msgspec.Struct):
    as_int: int


class _Meta(msgspec.Struct):
    dtype: int
    sizes: list[_Size]


class _Weight(msgspec.Struct):
    tensor_meta: _Meta | None = None


class _Config(msgspec.Struct):
    config: dict[str, _Weight]


@dataclass(frozen=True, slots=True)
class Archive:
    """An exported program: the type that most of its weights have, and the file's size."""

    precision: str
    size_bytes: int


def looks_like_pt2(path: Path) -> bool:
    """Whether a zip calls itself an archive of this kind; it may still be damaged."""
    try:
        with path.open("rb") as stream:
            _names(stream)
    except (EngineError, OSError):
        return False
    return True


def read_archive(path: Path) -> Archive:
    """Check sizes and kinds of everything inside.

    Raises:
        EngineError: `unsafe_file` for another zip, compiled code, and sizes that do not fit;
            `unsupported_model` for several programs; `model_file_missing`.
    """
    try:
        with path.open("rb") as stream:
            entries, archive = _names(stream)
            size = path.stat().st_size
            _check(entries, size)
            programs = [n for n in entries if n.startswith("models/") and n.endswith(".json")]
            if len(programs) != 1:
                raise EngineError(
                    f"a .pt2 has one exported program, this one has {len(programs)}",
                    Code.UNSUPPORTED_MODEL,
                )
            name = programs[0].removeprefix("models/").removesuffix(".json")
            config = entries.get(f"data/weights/{name}_weights_config.json")
            return Archive(_precision(archive, config), size)
    except OSError as error:
        raise EngineError(
            f"cannot read {path.name}: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None


def _names(stream: BinaryIO) -> tuple[dict[str, zipfile.ZipInfo], zipfile.ZipFile]:
    """The entries below the one folder of an archive of this kind."""
    _bound_directory(stream)
    try:
        archive = zipfile.ZipFile(stream)
        listed = archive.infolist()
        entries = {info.filename.partition("/")[2]: info for info in listed}
        mark = entries.get(_MARK)
        said = archive.read(mark) if mark is not None and mark.file_size <= 16 else b""
    except Exception as error:  # noqa: BLE001 -- boundary: the module for zips raises many kinds
        raise _unsafe(f"its directory is damaged ({type(error).__name__})") from None
    roots = {info.filename.partition("/")[0] for info in listed}
    if said != b"pt2" or len(roots) != 1 or len(entries) != len(listed):
        raise _unsafe("it is another kind of zip")
    return entries, archive


def _bound_directory(stream: BinaryIO) -> None:
    """Refuse a directory that would be an object for each of too many entries."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _TAIL_BYTES))
    tail = stream.read(_TAIL_BYTES)
    at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        raise _unsafe("it has no directory")
    (entries,) = struct.unpack_from("<H", tail, at + 10)
    (directory,) = struct.unpack_from("<I", tail, at + 12)
    wide = tail.rfind(_END_64, 0, at)
    if wide >= 0 and wide + 56 <= len(tail):
        entries, directory = struct.unpack_from("<QQ", tail, wide + 32)
    elif tail[at - 20 : at - 16] == b"PK\x06\x07":
        raise _unsafe("its directory is not where it belongs")
    if entries > LIMITS.pt2_entries_max or directory > LIMITS.pt2_directory_max_bytes:
        raise _unsafe(f"it has more than {LIMITS.pt2_entries_max} entries")


def _check(entries: dict[str, zipfile.ZipInfo], size: int) -> None:
    stored = 0
    for name, info in entries.items():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _unsafe(f"{name[:64]!r} is compressed, which torch does not do")
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise _unsafe(f"{name[:64]!r} is a path to elsewhere")
        if name.startswith(_NATIVE) or name.endswith((".so", ".o", ".cubin", ".dll", ".dylib")):
            raise _unsafe("it holds compiled code (AOTInductor): publish the exported program")
        stored += info.file_size
    if stored > size:
        raise _unsafe(f"its entries have {stored} bytes, the file {size}")


def _precision(archive: zipfile.ZipFile, config: zipfile.ZipInfo | None) -> str:
    """The type that most bytes of weights have; "none" for a program without weights."""
    if config is None or config.file_size > LIMITS.pt2_directory_max_bytes:
        raise _unsafe("nothing says of which type its weights are")
    try:
        said = msgspec.json.decode(archive.read(config), type=_Config)
    except Exception as error:  # noqa: BLE001 -- boundary: a damaged entry, or no such JSON
        raise _unsafe(f"the list of its weights is damaged ({type(error).__name__})") from None
    by_type: Counter[str] = Counter()
    for weight in said.config.values():
        if weight.tensor_meta is not None:
            name, item = _TYPES.get(weight.tensor_meta.dtype, ("unknown", 1))
            by_type[name] += item * prod(size.as_int for size in weight.tensor_meta.sizes)
    common = by_type.most_common(1)
    return common[0][0] if common else "none"


def _unsafe(message: str) -> EngineError:
    return EngineError(f"not a .pt2 that can be loaded: {message}", Code.UNSAFE_FILE)
