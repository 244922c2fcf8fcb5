"""Model files from people who mean harm, made here: name -> what writes one.

`REFUSED` are those that no check lets through. `CONTAINED` look honest, because what they do is
known only to who runs them; they have to end in a worker, with everything else untouched.
`write` puts one into a folder whose neighbour `outside` is none of its business.
"""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.engines import hostile_onnx
from tests.engines.gguf_writer import ARRAY, STRING, TYPES, Gguf, Tensor, text, tiny_llama
from tests.engines.hostile_onnx import Make

SECRET: Final = b"canary: no model may ever say this. "
STOLEN: Final = "stolen"
"""The file that hidden code would write, into the folder `outside`."""


@dataclass(frozen=True)
class Place:
    """A folder for the hostile file, and beside it one with something to steal or to spoil."""

    models: Path
    outside: Path


def make_place(directory: Path) -> Place:
    place = Place(directory / "models", directory / "outside")
    place.models.mkdir()
    place.outside.mkdir()
    (place.outside / "secret.bin").write_bytes(SECRET * 30)
    return place


def write(name: str, place: Place) -> Path:
    """Make a hostile file; its ending is the one that a stranger would give it."""
    kind, _, what = name.partition(": ")
    path = place.models / f"model.{kind}"
    path.write_bytes(HOSTILE[kind][what](place.models))
    return path


# -- GGUF

WHOLE: Final = tiny_llama("Q4_1").build()
HEADER: Final = WHOLE.index(b"output_norm.weight")


def _cut(data: bytes, size: int) -> Make:
    return lambda _: data[:size]


def _gguf(made: Gguf) -> Make:
    return lambda _: made.build()


def _llama(**metadata: Any) -> Make:
    return _gguf(tiny_llama(metadata={k.replace("__", "."): v for k, v in metadata.items()}))


def _tensor(**changes: Any) -> Make:
    """A model whose last tensor is not what it should be."""
    made = tiny_llama()
    for name, item in changes.items():
        setattr(made.tensors[-1], name, item)
    return _gguf(made)


def _offset(offset: int) -> Make:
    return _tensor(offset=offset)


def _weights(item: float) -> Make:
    made = tiny_llama()
    for tensor in made.tensors:
        if "output_norm" in tensor.name:
            tensor.data = struct.pack("<f", item) * (len(tensor.data) // 4)
    return _gguf(made)


def _array(kind: int, count: int) -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, count)


GGUF_REFUSED: Final[dict[str, Make]] = {
    **{f"cut at {size}": _cut(WHOLE, size) for size in (4, 12, 24, 400, HEADER, len(WHOLE) - 1)},
    "an offset beyond the end": _offset(1 << 40),
    "an offset before the beginning": _offset(2**64 - 32),
    "an offset into another tensor": _offset(0),
    "an offset between": _offset(1),
    "2 TB in a tensor": _tensor(dims=(1 << 39,)),
    "sizes that overflow": _tensor(dims=(2**62, 2**62)),
    "a type that there is not": _tensor(kind=4_000_000_000),
    "2^63 tensors": _gguf(Gguf(tensor_count=2**63)),
    "2^64 keys": _gguf(Gguf(key_count=2**64 - 1)),
    "a string of all memory": _gguf(Gguf({"k": struct.pack("<IQ", STRING, 2**64 - 1)})),
    "a list of all memory": _gguf(Gguf({"k": _array(10, 2**61)})),
    "a list of lists": _gguf(Gguf({"k": _array(ARRAY, 1) + _array(0, 0)})),
    "an alignment of 2 GB": _gguf(Gguf({"general.alignment": 1 << 31})),
    "a name twice": _gguf(Gguf(tensors=[Tensor("w", (32,), TYPES["F32"], bytes(128))] * 2)),
    "a key that is no text": _gguf(
        Gguf(key_count=1, extra_keys=text(b"\xff\xfe") + struct.pack("<IB", 0, 1))
    ),
    "a file of the future": _gguf(Gguf(version=99)),
}
_FOR, _END = "{% for a in range(99999) %}", "{% endfor %}"
GGUF_CONTAINED: Final[dict[str, Make]] = {
    "weights that are no numbers": _weights(float("nan")),
    "weights without end": _weights(float("inf")),
    "a template that never ends": _llama(tokenizer__chat_template=3 * _FOR + 3 * _END),
    "a template that writes all memory": _llama(
        tokenizer__chat_template="{{ 'x' * 100000000000 }}"
    ),
    "a template that looks for the interpreter": _llama(
        tokenizer__chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"
    ),
    "a template that reads files": _llama(
        tokenizer__chat_template="{% include '../outside/secret.bin' %}"
    ),
    "no heads": _llama(llama__attention__head_count=0),
    "four billion layers": _llama(llama__block_count=2**32 - 1),
    "a context of four billion": _llama(llama__context_length=2**32 - 1),
    "a width that is not its own": _llama(llama__embedding_length=2**31),
    "an ending that is no token": _llama(tokenizer__ggml__eos_token_id=2**31),
    "a norm that is no number": _llama(llama__attention__layer_norm_rms_epsilon=float("nan")),
}


# -- safetensors


def _safetensors(header: Any, data: bytes = b"", *, size: int | None = None) -> Make:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(raw) if size is None else size
    return lambda _: struct.pack("<Q", length) + raw + data


def _entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16), **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


_HEADER = json.dumps({"w": _entry()}).encode()
GOOD: Final = struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(16)
SAFETENSORS: Final[dict[str, Make]] = {
    **{f"cut at {size}": _cut(GOOD, size) for size in (4, 8, 40, len(GOOD) - 1)},
    "a header of all memory": _safetensors({"w": _entry()}, bytes(16), size=2**63),
    "a header beyond the end": _safetensors({"w": _entry()}, size=10_000),
    "a header of nothing": _safetensors(b""),
    "a header that is a list": _safetensors([]),
    "a header of lists in lists": _safetensors(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a header that is no text": _safetensors(b'{"\xff": 1}'),
    "a name twice": _safetensors(
        b'{"w":%b,"w":%b}' % ((json.dumps(_entry()).encode(),) * 2), bytes(16)
    ),
    "2 TB in a tensor": _safetensors({"w": _entry(shape=[1 << 39])}, bytes(16)),
    "sizes that overflow": _safetensors({"w": _entry(shape=[2**62, 2**62])}, bytes(16)),
    "a negative size": _safetensors({"w": _entry(shape=[-4])}, bytes(16)),
    "an offset beyond the end": _safetensors({"w": _entry(offsets=[1 << 40, (1 << 40) + 16])}),
    "an offset backwards": _safetensors({"w": _entry(offsets=[16, 0])}, bytes(16)),
    "an offset before the beginning": _safetensors({"w": _entry(offsets=[-16, 0])}, bytes(16)),
    "tensors that overlap": _safetensors(
        {"a": _entry(), "b": _entry(offsets=[8, 24])}, bytes(24)
    ),
    "a gap to hide in": _safetensors({"w": _entry(offsets=[64, 80])}, bytes(80)),
    "an archive at the end": lambda _: GOOD + _archive({"data.pkl": _evil(Path("x"))}),
    "a type that there is not": _safetensors({"w": _entry(dtype="PICKLE")}, bytes(16)),
    "members that there are not": _safetensors({"w": _entry(code="import os")}, bytes(16)),
}  # fmt: skip


# -- code that pretends to be data


class _Payload:
    """Unpickled, it writes the file that shows that it ran."""

    def __init__(self, models: Path) -> None:
        self._target = models.parent / "outside" / STOLEN

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self._target}'",)


def _evil(models: Path, protocol: int = 2) -> bytes:
    return pickle.dumps(_Payload(models), protocol)


def _archive(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _pickled(protocol: int) -> Make:
    return lambda models: _evil(models, protocol)


def _zipped(*names: str) -> Make:
    return lambda models: _archive(dict.fromkeys(names, _evil(models)))


def _pt2(models: Path) -> bytes:
    """An exported program in whose constants there is code: `torch.export.load` would run it."""
    files = {
        "model/archive_format": b"pt2", "model/byteorder": b"little", "model/version": b"6",
        "model/models/model.json": b"{}", "model/data/constants/model.pt": _evil(models),
        "model/data/weights/model.pt": _archive({"w/data.pkl": _evil(models)}),
    }  # fmt: skip
    return _archive(files)


def _bomb(_: Path) -> bytes:
    return _archive({f"weights{index}": bytes(1 << 24) for index in range(4)}, zipfile.ZIP_DEFLATED)


def _nested_bomb(models: Path) -> bytes:
    data = _bomb(models)
    for _ in range(3):
        data = _archive({f"{index}.zip": data for index in range(4)}, zipfile.ZIP_DEFLATED)
    return data


def _tar(models: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in (f"../outside/{STOLEN}", "/etc/aigrid-stolen"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
    return stream.getvalue()


def _objects(models: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([_Payload(models)], dtype=object), allow_pickle=True)
    return stream.getvalue()


CODE: Final[dict[str, Make]] = {
    **{f"a pickle of protocol {protocol}": _pickled(protocol) for protocol in range(6)},
    "a pickle in an archive": _zipped("archive/data.pkl"),
    "the malicious .pt2": _pt2,
    "TorchScript": _zipped("archive/data.pkl", "archive/code/__torch__.py", "archive/version"),
    "a bomb": _bomb,
    "a bomb of bombs": _nested_bomb,
    "an archive of other folders": _zipped(f"../outside/{STOLEN}", "/etc/aigrid-stolen"),
    "a tape of other folders": _tar,
    "compressed": lambda models: gzip.compress(_evil(models)),
    "an array of objects": _objects,
    "a library": lambda _: b"\x7fELF\x02\x01\x01" + bytes(400),
    "a script": lambda _: b"#!/bin/sh\ntouch stolen\n",
    "a text": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "nothing": lambda _: b"",
    "one byte": lambda _: b"\x80",
}
NAMED: Final = {"onnx": CODE, "gguf": {k: CODE[k] for k in list(CODE)[2:8]}}

REFUSED_BY_KIND: Final[dict[str, dict[str, Make]]] = {
    "onnx": hostile_onnx.REFUSED | NAMED["onnx"],
    "gguf": GGUF_REFUSED | NAMED["gguf"],
    "safetensors": SAFETENSORS | NAMED["gguf"],
}
CONTAINED_BY_KIND: Final[dict[str, dict[str, Make]]] = {
    "onnx": hostile_onnx.CONTAINED,
    "gguf": GGUF_CONTAINED,
}
HOSTILE: Final[dict[str, dict[str, Callable[[Path], bytes]]]] = {
    kind: found | CONTAINED_BY_KIND.get(kind, {}) for kind, found in REFUSED_BY_KIND.items()
}
REFUSED: Final = [f"{kind}: {what}" for kind, found in REFUSED_BY_KIND.items() for what in found]
CONTAINED: Final = [
    f"{kind}: {what}" for kind, found in CONTAINED_BY_KIND.items() for what in found
]
