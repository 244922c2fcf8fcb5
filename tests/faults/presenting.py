"""What a gateway says with one request, honestly or not."""

import time
from dataclasses import dataclass
from typing import Any

from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import InferRequest, TextRequest
from aigrid.protocol.messages import Infer
from aigrid.protocol.presentation import Binding, present
from aigrid.protocol.receipt import prefix_hash, request_hash
from aigrid.protocol.record import Record

SALT = b"0123456789abcdef"
REQUEST = TextRequest(prompt="once upon a time", max_tokens=4, temperature=0.0, seed=1)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Said:
    """All that a gateway says with one request; tests change one thing at a time."""

    holder: Identity
    credentials: tuple[Record, ...]
    audience: str
    model: str
    manifest: str
    nonce: str = ""
    request: InferRequest = REQUEST
    presented_for: InferRequest = REQUEST
    salt: bytes = SALT
    created_ms: int = 0
    valid_ms: int = 60_000
    action: Any = "invoke"
    sent_manifest: str = ""
    sent_model: str = ""

    def message(self) -> Infer:
        binding = Binding(
            action=self.action,
            model=self.model,
            manifest=self.manifest,
            request_hash=request_hash(self.salt, self.presented_for),
            prefix_hash=prefix_hash(self.salt, self.presented_for),
        )
        raw = present(
            self.holder,
            self.credentials,
            binding,
            audience=self.audience,
            nonce=self.nonce or f"nonce-{time.perf_counter_ns():020d}",
            now_ms=self.created_ms or now_ms(),
            valid_ms=self.valid_ms,
        )
        return Infer(
            "r" * 12,
            self.sent_model or self.model,
            self.sent_manifest or self.manifest,
            self.request,
            self.salt,
            raw,
        )
