"""Who a request comes from, as whatever is below the gateway sees it."""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. To other nodes only `did` is proof; `actor` is what this node calls its caller.

    Attributes:
        actor: a name given by the operator of this node; for receipts and sums of usage.
        kind: how this node knows: by its own socket or interface, a bearer key, or a signature.
        did: of the key that the caller has proved to hold, with `signature` only.
        purpose: what the answer is for, in the caller's words; "" says nothing.
        accepts: ids of the licences that the caller accepts, as in SPDX.
    """

    actor: str
    kind: Literal["local", "key", "signature"]
    did: str = ""
    purpose: str = ""
    accepts: tuple[str, ...] = ()


OPERATOR: Final = Caller("operator", "local")
LOOPBACK: Final = Caller("loopback", "local")
