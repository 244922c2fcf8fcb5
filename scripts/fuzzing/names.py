"""Names of keys, and times: each is spelled in one way alone."""

from collections.abc import Callable
from random import Random

from scripts.fuzzing import vectors
from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import Target

from aigrid.protocol.errors import VerificationError
from aigrid.protocol.identity import (
    did_of,
    peer_id_of,
    public_key_of_did,
    public_key_of_peer_id,
)
from aigrid.protocol.timestamp import format_ms, parse_ms


def _names(data: bytes) -> None:
    """Names of keys, and times: no two texts stand for the same one. Raises what the last did."""
    text = data.decode("utf-8", "surrogateescape")
    looks: tuple[Callable[[str], str], ...] = (
        lambda said: did_of(public_key_of_did(said)),
        lambda said: peer_id_of(public_key_of_peer_id(said)),
        lambda said: format_ms(parse_ms(said)),
    )
    refused, read = None, False
    for again in looks:
        try:
            written = again(text)
        except VerificationError as error:
            refused = error
            continue
        read = True
        assert written == text, "two texts stand for the same"
    if refused is not None and not read:
        raise refused


def _name_seeds() -> list[bytes]:
    cases = vectors.vector("identities")
    times = [b"2026-09-21T14:13:20.000Z", b"1970-01-01T00:00:00.000Z", b"9999-12-31T23:59:59.999Z"]
    return [*(case[form].encode() for case in cases for form in ("did", "peer_id")), *times]


class Spelled(Text):
    """Half of the time with a little more somewhere, which a careless reader overlooks."""

    def make(self, rng: Random) -> bytes:
        if rng.getrandbits(1):
            return super().make(rng)
        text = rng.choice(self.seeds)
        at = rng.choice((0, len(text), rng.randrange(len(text))))
        return text[:at] + rng.choice(_OVERLOOKED) + text[at:]


_OVERLOOKED = (*(b" ", b"\n", b"\0", b"0", b"1", b"=", b"_", b"+"), "\uff11\u200b".encode())


TARGETS = (
    Target(
        "names-and-times",
        lambda: Spelled(_name_seeds(), (), b":"),
        _names,
        (VerificationError,),
    ),
)
