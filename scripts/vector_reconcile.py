"""Vectors of reconciliation: conversations, fingerprints, messages to be refused."""

import hashlib
from typing import Any

from aigrid.protocol.errors import RemoteError
from aigrid.protocol.reconcile import Reconciler
from aigrid.protocol.reconcile_items import Items, item

_START = 1_790_000_000
_FRAME_BYTES = 1 << 20


def _pair(n: int, seconds_each: int) -> tuple[int, bytes]:
    return (_START + n * seconds_each, hashlib.sha256(n.to_bytes(4, "big")).digest())


def _items(pairs: list[tuple[int, bytes]]) -> Items:
    return Items(item(timestamp, one) for timestamp, one in pairs)


def _conversation(
    what: str, ours: list[tuple[int, bytes]], theirs: list[tuple[int, bytes]]
) -> dict[str, Any]:
    initiator = Reconciler(_items(ours), frame_max_bytes=_FRAME_BYTES)
    have: list[bytes] = []
    need: list[bytes] = []
    messages: list[bytes] = []
    message: bytes | None = initiator.initiate()
    while message is not None:
        responder = Reconciler(_items(theirs), frame_max_bytes=_FRAME_BYTES)
        answer = responder.reconcile(message).reply or b""
        messages += [message, answer]
        step = initiator.reconcile(answer)
        have += step.have_ids
        need += step.need_ids
        message = step.reply
    return {
        "what": what,
        "initiator_items": [(timestamp, one.hex()) for timestamp, one in ours],
        "responder_items": [(timestamp, one.hex()) for timestamp, one in theirs],
        "messages": [one.hex() for one in messages],
        "have_ids": [one.hex() for one in have],
        "need_ids": [one.hex() for one in need],
    }


def _verdict(message: bytes) -> str:
    try:
        Reconciler(_items([])).reconcile(message)
    except RemoteError as error:
        return error.code.value
    raise AssertionError(message)


def reconcile() -> Any:
    seconds = [_pair(n, 7) for n in range(120)]
    minute = [_pair(n, 0) for n in range(1000, 1040)]
    broken = {
        "cut": "61000002010000",
        "a padded varint": "61800000",
        "an id prefix of 33 bytes": "610121" + "00" * 33 + "00",
        "descending bounds": "610101bb000101aa00",
        "a range after infinity": "61000000000000",
        "an unknown mode": "61000003",
        "not a version": "01",
    }
    return {
        "conversations": [
            _conversation("both empty", [], []),
            _conversation("a newcomer", [], seconds[:3]),
            _conversation("short enough to be listed", seconds[:5], seconds[2:9]),
            _conversation("recent ones differ", seconds[:118], seconds[:115] + seconds[118:]),
            _conversation("one timestamp", minute[1:], minute[:-1]),
        ],
        "fingerprints": [
            {
                "ids": [one.hex() for _, one in seconds[:count]],
                "fingerprint": _items(seconds[:count]).fingerprint(0, count).hex(),
            }
            for count in (0, 1, 3)
        ],
        "refused": [
            {"what": what, "bytes": text, "code": _verdict(bytes.fromhex(text))}
            for what, text in broken.items()
        ],
    }
