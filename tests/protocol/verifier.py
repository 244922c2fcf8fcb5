"""The reference verifier of W3C credentials, which knows nothing of us but the JSON-LD context.

`@digitalbazaar/vc` under Node, with the same house's reader of status lists.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from scripts.policy_world import EVERYBODY
from tests.protocol import judges
from tests.protocol.credential_strategies import WHO
from tests.protocol.strategies import NOW_MS

from aigrid.protocol.credential_kinds import StatusListBody, status_list_of
from aigrid.protocol.identity import Identity, multibase
from aigrid.protocol.kinds import Kind
from aigrid.protocol.record import CONTEXTS, build
from aigrid.protocol.status import encode_bits, no_bits, with_bit

PACKAGES = (
    "@digitalbazaar/vc@7.3.0",
    "@digitalbazaar/vc-bitstring-status-list@2.0.1",
    "@digitalbazaar/data-integrity@2.5.0",
    "@digitalbazaar/eddsa-jcs-2022-cryptosuite@1.0.0",
    "@digitalbazaar/ed25519-multikey@1.3.1",
    "canonicalize@2.1.0",
    "jsonld@9.0.0",
    "jsonld-signatures@11.6.0",
)
SCRIPT = Path(__file__).with_name("credential_judge.mjs")
CREDENTIALS = Path(__file__).with_name("credentials.mjs")
CONTEXT = Path(__file__).parents[2] / "metagraph" / "vocabulary" / "context.jsonld"
SECRET_KEY_MULTICODEC = b"\x80\x26"
AT_MS = NOW_MS + 60_000  # every example is valid then
DAY_MS = 86_400_000
NOBODY: Mapping[str, Collection[int]] = {}


class Verifier:
    def __init__(self, judge: judges.Judge) -> None:
        self.judge = judge
        judge.ask("context", url=CONTEXTS[1], document=json.loads(CONTEXT.read_text()))

    def lists(self, revoked: Mapping[str, Collection[int]], at_ms: int) -> None:
        """From now on it has a list of everybody, with these entries revoked."""
        documents = []
        for who in (*WHO, *EVERYBODY):
            bits = no_bits()
            for index in revoked.get(who.did, ()):
                bits = with_bit(bits, index)
            body = StatusListBody(status_list_of(who.did), encode_bits(bits))
            until_ms = at_ms + DAY_MS
            record = build(
                Kind.STATUS_LIST, body, who, valid_from_ms=at_ms, valid_until_ms=until_ms
            )
            documents.append(record.raw.decode())
        self.judge.ask("lists", documents=documents)

    def refusals(
        self,
        raws: list[bytes],
        *,
        at_ms: int = AT_MS,
        revoked: Mapping[str, Collection[int]] = NOBODY,
        matching: bool = False,
    ) -> list[str | None]:
        """For each credential None if it verifies, else why it does not.

        `matching`: its status list has to be of its own issuer.
        """
        self.lists(revoked, at_ms)
        answers: list[str | None] = self.judge.ask(
            "verify",
            credentials=[raw.decode() for raw in raws],
            now=iso(at_ms),
            matching=matching,
        )
        return answers

    def presented(
        self,
        raws: list[bytes],
        *,
        challenge: str,
        domain: str,
        at_ms: int = NOW_MS,
        revoked: Mapping[str, Collection[int]] = NOBODY,
    ) -> list[str | None]:
        """The same for presentations, each to be for `domain` and with the nonce `challenge`."""
        self.lists(revoked, at_ms)
        answers: list[str | None] = self.judge.ask(
            "verifyPresentations",
            presentations=[raw.decode() for raw in raws],
            challenge=challenge,
            domain=domain,
            now=iso(at_ms),
        )
        return answers


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def keys_of(who: Identity) -> dict[str, str]:
    """A key as the judge takes it, to sign with."""
    return {
        "did": who.did,
        "publicKeyMultibase": who.did.removeprefix("did:key:"),
        "secretKeyMultibase": multibase(SECRET_KEY_MULTICODEC + who.seed),
    }


@contextlib.contextmanager
def running() -> Iterator[Verifier]:
    with judges.judge(SCRIPT, PACKAGES, beside=[CREDENTIALS]) as judge:
        yield Verifier(judge)
