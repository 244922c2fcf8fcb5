"""What a file is, by its content and never by its name, and whether it may come near a runtime."""

import mmap
import pickletools
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from aigrid.engines import gguf, pt2, safetensors
from aigrid.engines.onnx_check import check_onnx, looks_like_onnx
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import KIB

_ZIPS: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_PICKLE_PROTOCOL: Final = 0x80
_OLD_PICKLES: Final = b"(c]}"
_SAMPLE_BYTES: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class FileReport:
    """A file that is allowed: its format, the precision of most of its weights, its size."""

    format: str
    precision: str
    size_bytes: int


def detect(path: Path) -> str:
    """The kind of a file: "gguf", "onnx", "safetensors", "pt2", "zip", "pickle" or "other".

    Raises:
        EngineError: `model_file_missing`.
    """
    try:
        if not path.is_file():
            raise EngineError(f"{path} is not a file", Code.MODEL_FILE_MISSING)
        with path.open("rb") as stream:
            head = stream.read(16)
            if len(head) < 2:
                return "other"
            if head[:4] in _ZIPS:
                return pt2.FORMAT if pt2.looks_like_pt2(path) else "zip"
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                with memoryview(mapped) as view:
                    return _detect(head, view)
    except OSError as error:
        raise EngineError(
            f"cannot read {path}: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None


def _detect(head: bytes, view: memoryview) -> str:
    if head[:4] == b"GGUF":
        return "gguf"
    if head[0] == _PICKLE_PROTOCOL and 2 <= head[1] <= 5:
        return "pickle"
    if head[0] in _OLD_PICKLES and _is_old_pickle(view):
        return "pickle"
    declared = int.from_bytes(head[:8], "little")
    if 2 <= declared <= len(view) - 8 and head[8:9] == b"{":
        return "safetensors"
    return "onnx" if looks_like_onnx(view) else "other"


def _is_old_pickle(view: memoryview) -> bool:
    """Whether this is a pickle of protocol 0 or 1, which have no mark of their own."""
    try:
        operations = list(islice(pickletools.genops(bytes(view[:_SAMPLE_BYTES])), 16))
    except Exception:  # noqa: BLE001 - boundary: whatever the disassembler says, it is none
        return False
    return view[-1] == ord(".") and len(operations) > 1


def inspect(path: Path, *, trusted: bool = False) -> FileReport:
    """Detect, check, and say what is in a model file that an engine here can take.

    `trusted`: whether this node lets its publisher run code here.

    Raises:
        EngineError: `unsafe_file`, `unsupported_model`, `unsupported_quantisation`,
            `model_file_missing`.
    """
    kind = detect(path)
    match kind:
        case "onnx":
            facts = check_onnx(path)
            return FileReport(kind, facts.precision, facts.size_bytes)
        case "gguf":
            return _inspect_gguf(path)
        case "safetensors":
            return _inspect_safetensors(path)
        case "pt2" if trusted:
            archive = pt2.read_archive(path)
            return FileReport(kind, archive.precision, archive.size_bytes)
        case "pt2":
            raise EngineError(
                f"{path.name} is a program of torch.export: loading one can run code that is "
                "hidden in it, so this node takes it only from publishers that it trusts "
                "(`aigrid up --trust-publisher DID`; `aigrid id` tells your own)",
                Code.UNSAFE_FILE,
            )
        case "zip" | "pickle":
            raise EngineError(
                f"{path.name} is a {kind} file: loading one can run code that is hidden in it",
                Code.UNSAFE_FILE,
            )
    raise EngineError(
        f"{path.name} is no GGUF, ONNX or safetensors ({kind})", Code.UNSUPPORTED_MODEL
    )


def _inspect_gguf(path: Path) -> FileReport:
    # Not in a `with`: an error of the parser holds views into the map, which then cannot be closed
    # yet; it is once nothing looks into it any more.
    mapped = gguf.map_file(path)
    size = len(mapped)
    tensors = gguf.parse(memoryview(mapped)).tensors.values()
    by_type: Counter[str] = Counter()
    for tensor in tensors:
        by_type[tensor.type.name] += tensor.size_bytes
    common = by_type.most_common(1)
    return FileReport("gguf", common[0][0].lower() if common else "", size)


def _inspect_safetensors(path: Path) -> FileReport:
    mapped = safetensors.map_file(path)  # see above
    found = safetensors.parse(mapped)
    if not found.tensors:
        raise EngineError(f"{path.name} holds no tensors", Code.UNSUPPORTED_MODEL)
    return FileReport("safetensors", found.precision, len(mapped))
