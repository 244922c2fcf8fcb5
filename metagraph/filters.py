"""What somebody looks for: filters over offers, and why each offer passed or did not. Pure.

A filter is about what records state, but for latency: there an observation of our own counts more.
What is not stated satisfies no filter. The same questions in SPARQL: SPEC.md, section 13.3.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from aigrid.metagraph.index import Candidate, Index
from aigrid.metagraph.selection import Dropped, Kept, Observation, Ranking, Reason, known_latency
from aigrid.protocol.errors import UsageError, VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.kinds import ModelBody, NodeBody
from aigrid.protocol.limits import LIMITS

_LANGUAGE_RANGE = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")  # RFC 4647, basic, without `*`
_CAPABILITY = re.compile(r"(did:key:z[1-9A-HJ-NP-Za-km-z]+#)?[a-z0-9]+(-[a-z0-9]+)*")
_LATENCY_MS_MAX: Final = 2**53 - 1  # as an offer may declare
_FILTERS: Final = (
    Reason.LANGUAGE,
    Reason.FORMAT,
    Reason.PRECISION,
    Reason.LICENSE,
    Reason.REGION,
    Reason.WARM,
    Reason.LATENCY,
    Reason.ISSUER,
    Reason.SIGNER,
)


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for; None where it does not matter. Text is compared without regard to case.

    Attributes:
        capability: its name or IRI; whatever is narrower satisfies it.
        language: a language range of RFC 4647, basic filtering: `en` matches en and en-GB.
        format: of the model's files, such as gguf.
        precision: of the weights, as the format names it, such as q4_1.
        license: SPDX id; an expression is compared as a whole.
        region: as the node states it.
        warm: only what is loaded already.
        latency_ms_max: of the time to the first chunk, observed here or else declared by the node.
            Where neither is known it is not within any bound.
        issuer: DID that signed the model's manifest.
        signer: DID that signed the offer: the node's.
    """

    capability: str
    language: str | None = None
    format: str | None = None
    precision: str | None = None
    license: str | None = None
    region: str | None = None
    warm: bool = False
    latency_ms_max: int | None = None
    issuer: str | None = None
    signer: str | None = None

    def check(self) -> None:
        """Raises UsageError: which value cannot be meant, and what to give instead."""
        if len(self.capability) > LIMITS.capability_max_chars or not _fits(
            _CAPABILITY, self.capability
        ):
            raise UsageError(
                f"{self.capability[:64]!r} is no capability's name: give one such as "
                "`text-generation`, or the IRI that `aigrid capability publish` printed"
            )
        for name in ("format", "precision", "license", "region"):
            text: str | None = getattr(self, name)
            if text is not None and not (
                1 <= len(text) <= LIMITS.name_max_chars and text.isprintable()
            ):
                raise UsageError(
                    f"{name} has 1 to {LIMITS.name_max_chars} characters that can be shown: "
                    f"leave `--{name}` out to find any"
                )
        if self.language is not None:
            check_language(self.language)
        if self.latency_ms_max is not None and not 1 <= self.latency_ms_max <= _LATENCY_MS_MAX:
            raise UsageError("the latency is in milliseconds, at least 1: such as `500`")
        for did in (self.issuer, self.signer):
            if did is not None and not _is_did(did):
                raise UsageError(
                    f"{did[:64]!r} is no DID: give one such as `aigrid id` prints (did:key:z...)"
                )


@dataclass(frozen=True, slots=True)
class Found:
    """What filters and selection made of the offers of a capability.

    Attributes:
        kept: best first.
        dropped: with the first filter that it failed, or why it cannot serve; the explanation has
            every filter.
        removed: how many offers each filter removed, by its name; one that fails several counts
            for the first.
        more: how many that fit were not ranked, for there are too many.
    """

    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]
    removed: Mapping[str, int]
    more: int


def check_language(tag: str) -> None:
    """Raises UsageError for what has not the form of a BCP 47 tag."""
    if len(tag) > LIMITS.name_max_chars or not _fits(_LANGUAGE_RANGE, tag):
        raise UsageError(
            f"{tag[:64]!r} is no language tag (BCP 47): give one such as `en` or `pt-BR`"
        )


class Sieve:
    """Takes the offers of a capability one by one and says what filters leave of them.

    Of those that fit, and of those that do not, `limit` are kept; the others are counted.
    """

    def __init__(
        self,
        index: Index,
        filters: Filters,
        observe: Callable[[str], Observation | None],
        *,
        now_ms: int,
        limit: int = LIMITS.find_offers_max,
    ) -> None:
        """Start with nothing.

        Args:
            index: where manifests, nodes and capabilities are looked up.
            filters: checked.
            observe: what was seen of the node with this PeerId.
            now_ms: wall time.
            limit: see above.
        """
        self._index = index
        self._filters = filters
        self._observe = observe
        self._now_ms = now_ms
        self._limit = limit
        self._fitting: dict[tuple[str, str], Kept] = {}
        self._unfit: list[Dropped] = []
        self._removed: Counter[Reason] = Counter()
        self._more = 0

    def add(self, candidate: Candidate) -> None:
        """Consider an offer of `filters.capability`."""
        result = self._sift(candidate)
        if isinstance(result, Dropped):
            self._removed[result.reason] += 1
            if len(self._unfit) < self._limit:
                self._unfit.append(result)
        elif len(self._fitting) < self._limit:
            self._fitting[candidate.signer, candidate.model] = result
        else:
            self._more += 1

    def found(self, rank: Callable[[tuple[Candidate, ...]], Ranking]) -> Found:
        """Order what is left by `rank`: `selection.rank` with all that it needs besides."""
        ranking = rank(tuple(kept.candidate for kept in self._fitting.values()))
        return Found(
            tuple(replace(kept, explanation=self._whole(kept)) for kept in ranking.kept),
            (
                *self._unfit,
                *(replace(one, explanation=self._whole(one)) for one in ranking.dropped),
            ),
            {name.value: self._removed[name] for name in _FILTERS if self._removed[name]},
            self._more,
        )

    def _whole(self, ranked: Kept | Dropped) -> tuple[str, ...]:
        sifted = self._fitting[ranked.candidate.signer, ranked.candidate.model]
        return sifted.explanation + ranked.explanation

    def _sift(self, candidate: Candidate) -> Kept | Dropped:
        manifest = self._index.manifest(candidate.manifest, self._now_ms)
        if manifest is None or not isinstance(manifest.body, ModelBody):
            return Dropped(candidate, Reason.EXPIRED, ("its manifest is not believed any more",))
        node = self._index.node(candidate.signer, self._now_ms)
        about = node.body if node is not None else None
        region = about.region if isinstance(about, NodeBody) else ""
        known = _Known(
            candidate,
            manifest.issuer,
            manifest.body,
            region,
            known_latency(candidate, self._observe(candidate.node)),
        )
        reason: Reason | None = None
        explanation = [
            _why(self._index, self._filters.capability, candidate.capabilities, self._now_ms)
        ]
        for of, holds, text in _checks(self._filters, known):
            explanation.append(text)
            if not holds and reason is None:
                reason = of
        if reason is not None:
            return Dropped(candidate, reason, tuple(explanation))
        return Kept(candidate, tuple(explanation))


def _why(index: Index, asked: str, declared: tuple[str, ...], now_ms: int) -> str:
    """Which of the declared capabilities satisfy the one that was asked for."""
    if asked in declared:
        return f"{asked} is declared"
    above = index.concepts.ancestors
    narrower = [name for name in declared if above(name).get(asked, 0) > now_ms]
    verb = "is" if len(narrower) == 1 else "are"
    return f"{', '.join(narrower)} {verb} narrower than {asked}"


@dataclass(frozen=True, slots=True)
class _Known:
    """What filters look at; `latency` with its source, `region` of the node, "" where unstated."""

    candidate: Candidate
    issuer: str
    body: ModelBody
    region: str
    latency: tuple[float, str] | None


def _checks(filters: Filters, known: _Known) -> Iterator[tuple[Reason, bool, str]]:
    """Of each filter that is set: whether it holds, and a sentence with what is known."""
    body, state, signer = known.body, known.candidate.state, known.candidate.signer
    if filters.language is not None:
        spoken = any(_in_range(tag, filters.language) for tag in body.languages)
        yield _stated(Reason.LANGUAGE, ", ".join(body.languages), filters.language, holds=spoken)
    for reason, stated, wanted in (
        (Reason.FORMAT, body.model.format, filters.format),
        (Reason.PRECISION, body.model.precision, filters.precision),
        (Reason.LICENSE, body.license, filters.license),
        (Reason.REGION, known.region, filters.region),
    ):
        if wanted is not None:
            yield _stated(reason, stated, wanted, holds=stated.lower() == wanted.lower())
    if filters.warm:
        yield _stated(Reason.WARM, state.replace("_", " "), "warm", holds=state == "warm")
    if filters.latency_ms_max is not None:
        yield _latency(known.latency, filters.latency_ms_max)
    if filters.issuer is not None:
        holds = known.issuer == filters.issuer
        yield _stated(Reason.ISSUER, known.issuer, filters.issuer, holds=holds)
    if filters.signer is not None:
        yield _stated(Reason.SIGNER, signer, filters.signer, holds=signer == filters.signer)


def _stated(reason: Reason, stated: str, wanted: str, *, holds: bool) -> tuple[Reason, bool, str]:
    text = f"{reason.value}: {stated or 'not stated'}"
    return reason, holds, text if holds else f"{text}, wanted {wanted}"


def _latency(known: tuple[float, str] | None, most_ms: int) -> tuple[Reason, bool, str]:
    if known is None:
        text = f"latency: neither observed nor declared, wanted at most {most_ms} ms"
        return Reason.LATENCY, False, text
    latency_ms, source = known
    holds = latency_ms <= most_ms
    text = f"latency: {source} {latency_ms:.0f} ms"
    return Reason.LATENCY, holds, text if holds else f"{text}, wanted at most {most_ms} ms"


def _in_range(tag: str, language_range: str) -> bool:
    """Basic filtering of RFC 4647: the range is the tag or a prefix of it that ends at a hyphen."""
    wanted = language_range.split("-")
    head = "-".join(tag.split("-")[: len(wanted)])
    return head.isascii() and head.lower() == language_range.lower()


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text) is not None


def _is_did(text: str) -> bool:
    try:
        public_key_of_did(text)
    except VerificationError:
        return False
    return True
