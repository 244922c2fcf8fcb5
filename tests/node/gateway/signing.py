"""Signs requests by RFC 9421 from its text alone: an outside judge of the verifier.

It knows nothing of the library that the gateway verifies with.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.node.gateway.double import NOW_MS

from aigrid.protocol.identity import Identity

COVERED = ("@method", "@authority", "@target-uri", "content-digest")


@dataclass
class Draft:
    """A request to be signed. Whatever is wrong with one, a test puts here."""

    identity: Identity
    authority: str
    path: str = "/v1/models"
    method: str = "GET"
    body: bytes = b""
    scheme: str = "http"
    covered: tuple[str, ...] = COVERED
    parameters: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    label: str = "sig1"

    def signed(self) -> dict[str, str]:
        """All headers of the request, signature included."""
        digest = base64.b64encode(hashlib.sha256(self.body).digest()).decode()
        headers = {"content-digest": f"sha-256=:{digest}:", **self.headers}
        parameters = {
            "created": NOW_MS // 1000,
            "keyid": self.identity.did,
            "nonce": "n-1",
            "alg": "ed25519",
            **self.parameters,
        }
        names = " ".join(f'"{name}"' for name in self.covered)
        said = "".join(
            f";{name}={_item(value)}" for name, value in parameters.items() if value is not None
        )
        inner = f"({names}){said}"
        lines = [f'"{name}": {self._value(name, headers)}' for name in self.covered]
        base = "\n".join([*lines, f'"@signature-params": {inner}'])
        signature = base64.b64encode(self.identity.sign(base.encode("ascii"))).decode()
        return {
            **headers,
            "signature-input": f"{self.label}={inner}",
            "signature": f"{self.label}=:{signature}:",
        }

    def _value(self, name: str, headers: Mapping[str, str]) -> str:
        derived = {
            "@method": self.method,
            "@authority": self.authority,
            "@target-uri": f"{self.scheme}://{self.authority}{self.path}",
            "@path": self.path.partition("?")[0],
        }
        return derived[name] if name in derived else headers[name]


def _item(value: object) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'
