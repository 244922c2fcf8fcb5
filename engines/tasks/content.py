"""What kind of file some bytes are: their beginning and end to a tensor, scores to labels."""

from typing import Any

import numpy as np
from msgspec import UNSET

from aigrid.engines.tasks.base import (
    Array,
    Setup,
    TaskCall,
    classes,
    invalid,
    ranked,
    unsupported,
)
from aigrid.engines.tasks.image import decode_base64
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import BytesInput


class FileType:
    """Labels of a file by score."""

    parameters = frozenset({"top_k"})

    def __init__(self, setup: Setup) -> None:
        if setup.mapping.bytes is UNSET:
            raise unsupported(f"{setup.name} needs a mapping of bytes")
        self._bytes = setup.mapping.bytes
        self._output = setup.output
        self._runner = setup.runner
        self._tensor = setup.input_name(self._bytes.tensor)
        self._result = setup.output_name()
        self._labels = setup.labels()

    def __call__(self, call: TaskCall) -> list[dict[str, Any]]:
        data = decode_base64(call, "a file")
        if not data:
            raise invalid("the file is empty")
        top = call.whole("top_k", self._output.top, low=0, high=LIMITS.task_labels_max)
        features = ends(data, self._bytes)
        found = call.run(self._runner, {self._tensor: features[None]})[self._result]
        return ranked(
            classes(found.ravel(), self._labels, self._output.activation), self._labels, top
        )


def ends(data: bytes, mapping: BytesInput) -> Array:
    """int32 [begin + end]: the first bytes, and the last, white space around them left out.

    Of each end `block` bytes are looked at (0: all), as Magika's feature extraction does.
    """
    block = mapping.block or len(data)
    head = data[:block].lstrip()[: mapping.begin]
    tail = data[-block:].rstrip()
    tail = tail[max(0, len(tail) - mapping.end) :] if mapping.end else b""
    made = np.full(mapping.begin + mapping.end, mapping.padding, np.int32)
    made[: len(head)] = np.frombuffer(head, np.uint8)
    if tail:
        made[-len(tail) :] = np.frombuffer(tail, np.uint8)
    return made
