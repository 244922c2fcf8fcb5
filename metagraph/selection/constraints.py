"""What a candidate has to be: hard constraints, and why one that does not fulfil them is not asked.

A constraint is about what records state, but for time: there an observation of our own counts more.
What is not stated fulfils none. The same questions in SPARQL: SPEC.md, section 13.3. Pure.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from aigrid.metagraph.index import Candidate
from aigrid.protocol.errors import UsageError, VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS

_LANGUAGE_RANGE = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")  # RFC 4647, basic, without `*`
_CAPABILITY = re.compile(r"(did:key:z[1-9A-HJ-NP-Za-km-z]+#)?[a-z0-9]+(-[a-z0-9]+)*")
_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NUMBER_MAX: Final = 2**53 - 1  # as an offer may declare


class Reason(StrEnum):
    """Why a candidate is not asked: it cannot serve, or is not what somebody wants."""

    EXPIRED = "expired"
    DEAD = "dead"
    FULL = "full"
    COOLING = "cooling"
    BROKEN = "broken"
    BUSY = "busy"
    LANGUAGE = "language"
    FORMAT = "format"
    PRECISION = "precision"
    LICENSE = "license"
    REGION = "region"
    WARM = "warm"
    LATENCY = "latency"
    ISSUER = "issuer"
    SIGNER = "signer"
    SOURCE = "source"
    TARGET = "target"
    SERVES = "serves"
    SIZE = "size"
    DEADLINE = "deadline"
    PARAMETER = "parameter"
    PREFERENCE = "preference"
    FALLBACK = "fallback"


CONSTRAINTS: Final = (
    Reason.LANGUAGE,
    Reason.FORMAT,
    Reason.PRECISION,
    Reason.LICENSE,
    Reason.REGION,
    Reason.WARM,
    Reason.LATENCY,
    Reason.ISSUER,
    Reason.SIGNER,
    Reason.SOURCE,
    Reason.TARGET,
    Reason.SERVES,
    Reason.SIZE,
    Reason.DEADLINE,
)
# These stay as they are however long one waits, and whoever is summoned.
UNWANTED = frozenset({Reason.PARAMETER, Reason.PREFERENCE, *CONSTRAINTS})


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
        source, target: language ranges: of what goes in, and of what comes out.
        parameters: further selecting parameters, by name: the model's manifest says for which
            values of them it serves the capability. They choose, and are not passed to engines.
        size_bytes_max: of the model's files together.
        deadline_ms: for a whole answer, as predicted; where nothing was observed, from what is
            assumed of everybody.
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
    source: str | None = None
    target: str | None = None
    parameters: dict[str, str] = {}
    size_bytes_max: int | None = None
    deadline_ms: int | None = None

    @property
    def selecting(self) -> dict[str, str]:
        """All selecting parameters: `source` and `target` among them."""
        named = {"source": self.source, "target": self.target}
        return {name: value for name, value in named.items() if value} | self.parameters

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
        for tag in (self.language, self.source, self.target):
            if tag is not None:
                check_language(tag)
        check_selecting(self.parameters)
        for what, unit, most in (
            ("latency", "milliseconds", self.latency_ms_max),
            ("deadline", "milliseconds", self.deadline_ms),
            ("size", "bytes", self.size_bytes_max),
        ):
            if most is not None and not 1 <= most <= _NUMBER_MAX:
                raise UsageError(f"the {what} is in {unit}, at least 1: such as `500`")
        for did in (self.issuer, self.signer):
            if did is not None and not _is_did(did):
                raise UsageError(
                    f"{did[:64]!r} is no DID: give one such as `aigrid id` prints (did:key:z...)"
                )


def check_language(tag: str) -> None:
    """Raises UsageError for what has not the form of a BCP 47 tag."""
    if len(tag) > LIMITS.name_max_chars or not _fits(_LANGUAGE_RANGE, tag):
        raise UsageError(
            f"{tag[:64]!r} is no language tag (BCP 47): give one such as `en` or `pt-BR`"
        )


def check_selecting(parameters: Mapping[str, str]) -> None:
    """Raises UsageError for selecting parameters that no manifest can state."""
    if len(parameters) > LIMITS.selecting_parameters_max:
        raise UsageError(f"give at most {LIMITS.selecting_parameters_max} selecting parameters")
    for name, value in parameters.items():
        if not _fits(_PARAMETER, name) or not (
            1 <= len(value) <= LIMITS.name_max_chars and value.isprintable()
        ):
            raise UsageError(
                f"{name[:64]!r} is no selecting parameter with a value that can be shown: "
                "give them such as `source=en`"
            )


@dataclass(frozen=True, slots=True)
class Stated:
    """What records state beside an offer.

    Attributes:
        issuer: DID that signed the manifest.
        manifest: its body.
        region: of the node, "" where it states none.
        serves: for which values of selecting parameters the model serves the capability that was
            asked for, or one that is narrower: each of these stands for itself.
        how: which of its capabilities is the one that was asked for, in words.
    """

    issuer: str
    manifest: ModelBody
    region: str = ""
    serves: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    how: str = ""


Facts = Callable[[Candidate], Stated | None]


class Check(msgspec.Struct, frozen=True, gc=False):
    """One constraint: whether it holds, what is known, and what to ask so that it would hold.

    `beyond`: how many times its bound it would take; infinite where that is no matter of more.
    """

    reason: Reason
    holds: bool
    text: str
    admits: str
    beyond: float = math.inf


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: `latency` to the first chunk, with its source, if known; `answer_ms` in all."""

    latency: tuple[float, str] | None
    answer_ms: float


def checks(
    filters: Filters, candidate: Candidate, stated: Stated, timing: Callable[[], Timing]
) -> Iterator[Check]:
    """Of each constraint that is set, in the order of `CONSTRAINTS`."""
    body, state, signer = stated.manifest, candidate.state, candidate.signer
    if filters.language is not None:
        spoken = any(_in_range(tag, filters.language) for tag in body.languages)
        yield _stated(Reason.LANGUAGE, ", ".join(body.languages), filters.language, holds=spoken)
    for reason, said, wanted in (
        (Reason.FORMAT, body.model.format, filters.format),
        (Reason.PRECISION, body.model.precision, filters.precision),
        (Reason.LICENSE, body.license, filters.license),
        (Reason.REGION, stated.region, filters.region),
    ):
        if wanted is not None:
            yield _stated(reason, said, wanted, holds=said.lower() == wanted.lower())
    if filters.warm:
        text = state.replace("_", " ")
        holds = state == "warm"
        yield _check(Reason.WARM, text, "warm", "do not ask for `warm`", holds=holds)
    if filters.latency_ms_max is not None:
        yield _latency(timing().latency, filters.latency_ms_max)
    if filters.issuer is not None:
        holds = stated.issuer == filters.issuer
        yield _stated(Reason.ISSUER, stated.issuer, filters.issuer, holds=holds)
    if filters.signer is not None:
        yield _stated(Reason.SIGNER, signer, filters.signer, holds=signer == filters.signer)
    yield from _selecting(filters, stated)
    if filters.size_bytes_max is not None:
        yield _size(sum(file.bytes for file in body.model.files), filters.size_bytes_max)
    if filters.deadline_ms is not None:
        yield _deadline(timing().answer_ms, filters.deadline_ms)


def _selecting(filters: Filters, stated: Stated) -> Iterator[Check]:
    """What of the capability's selecting parameters is served, where most of them are.

    Language ranges for `source` and `target`; other values are compared as they are. A parameter
    that a manifest does not name, where it names any, may have any value.
    """
    wanted = filters.selecting
    if not wanted:
        return
    best: Mapping[str, tuple[str, ...]] = stated.serves[0] if stated.serves else {}
    if len(stated.serves) > 1:
        best = max(
            stated.serves,
            key=lambda one: sum(_serves(one, name, value) for name, value in wanted.items()),
        )
    for name, value in wanted.items():
        holds = bool(best) and _serves(best, name, value)
        said = ", ".join(best.get(name, ("any",) if best else ()))
        reason = _SELECTING.get(name, Reason.SERVES)
        yield _stated(reason, said, value, holds=holds, name=name)


_SELECTING: Final = {"source": Reason.SOURCE, "target": Reason.TARGET}


def _serves(served: Mapping[str, tuple[str, ...]], name: str, wanted: str) -> bool:
    if name not in served:
        return True
    if name in _SELECTING:
        return any(_in_range(said, wanted) for said in served[name])
    return wanted in served[name]


def _stated(reason: Reason, said: str, wanted: str, *, holds: bool, name: str = "") -> Check:
    name = name or reason.value
    admits = f"ask for {name} {said}" if said else f"do not ask for `{name}`"
    return _check(reason, said or "not stated", wanted, admits, holds=holds, name=name)


def _latency(known: tuple[float, str] | None, most_ms: int) -> Check:
    wanted = f"at most {most_ms} ms"
    if known is None:
        admits = "leave the bound of the latency out"
        return _check(Reason.LATENCY, "neither observed nor declared", wanted, admits, holds=False)
    latency_ms, source = known
    text = f"{source} {latency_ms:.0f} ms"
    admits = f"allow a latency of {math.ceil(latency_ms)} ms"
    return _bound(Reason.LATENCY, (text, wanted, admits), latency_ms, most_ms)


def _size(size_bytes: int, most_bytes: int) -> Check:
    wanted = f"at most {most_bytes} bytes"
    if not size_bytes:
        admits = "leave the bound of the size out"
        return _check(Reason.SIZE, "not stated", wanted, admits, holds=False)
    text, admits = f"{size_bytes} bytes", f"allow {size_bytes} bytes"
    return _bound(Reason.SIZE, (text, wanted, admits), size_bytes, most_bytes)


def _deadline(answer_ms: float, most_ms: int) -> Check:
    text, wanted = f"predicted {answer_ms:.0f} ms for an answer", f"at most {most_ms} ms"
    admits = f"allow {math.ceil(answer_ms)} ms"
    return _bound(Reason.DEADLINE, (text, wanted, admits), answer_ms, most_ms)


def _bound(reason: Reason, words: tuple[str, str, str], known: float, most: float) -> Check:
    made = _check(reason, *words, holds=known <= most)
    return msgspec.structs.replace(made, beyond=known / most)


def _check(
    reason: Reason, said: str, wanted: str, admits: str, *, holds: bool, name: str = ""
) -> Check:
    text = f"{name or reason.value}: {said}"
    return Check(reason, holds, text if holds else f"{text}, wanted {wanted}", admits)


def _in_range(tag: str, language_range: str) -> bool:
    """Basic filtering of RFC 4647: the range is the tag or a prefix of it that ends at a hyphen."""
    if tag == language_range:
        return tag.isascii()
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
