"""`find` over routing's index, and the query of SPEC.md, section 13.3, answer alike."""

import csv
import io
import random
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.metagraph.world import NOW, signed

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.dataset import Dataset
from aigrid.metagraph.filters import Filters, Sieve
from aigrid.metagraph.index import Index
from aigrid.metagraph.query import AnswerFormat
from aigrid.metagraph.selection import rank
from aigrid.metagraph.terms import CAPABILITY
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import (
    AvailabilityBody,
    CapabilityBody,
    Kind,
    ModelBody,
    NodeBody,
    Offer,
    OfferState,
)
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import Record

FORMATS, PRECISIONS = ("gguf", "onnx", "echo"), ("q4_1", "Q4_1", "float32", "")
LICENSES, REGIONS = ("Apache-2.0", "MIT", "mit", "MIT OR Apache-2.0", ""), ("eu", "EU-west", "")
LANGUAGES = ("en", "en-GB", "EN-us", "eng", "e", "pt-BR", "zh-Hant-TW", "en_US", "en-ü", "*")
STATES: tuple[OfferState, ...] = ("warm", "on_disk", "can_fetch")
WHO = [Identity(bytes([9, n]) * 16) for n in range(24)]
SHIPPED = sorted(default_taxonomy().concepts)
ASKED: dict[str, tuple[Any, ...]] = {
    "language": ("en", "EN", "en-gb", "pt", "zh-Hant", "zh-hant-tw", "e", "de"),
    "format": ("gguf", "ONNX", "echo", "safetensors"),
    "precision": ("q4_1", "FLOAT32"),
    "license": ("apache-2.0", "MIT", "mit or apache-2.0"),
    "region": ("eu", "EU", "eu-West"),
    "warm": (True,),
    "latency_ms_max": (20, 50, 150, 5000),
    "issuer": tuple(who.did for who in WHO[:6]),
    "signer": tuple(who.did for who in WHO[:6]),
}
LINES = {name: name.removesuffix("_ms_max") for name in ASKED}
QUERY = (Path(__file__).parents[2] / "SPEC.md").read_text().split("```sparql\n")[1].split("```")[0]


def drawn(rng: random.Random, published: list[str]) -> Filters:
    chosen = rng.sample(list(ASKED), rng.choice((0, 1, 1, 1, 2, 2, 3)))
    capability = rng.choice([*SHIPPED, *published * 3, *["text", "vision", "audio", "utility"] * 4])
    return Filters(capability=capability, **{name: rng.choice(ASKED[name]) for name in chosen})


def world(rng: random.Random) -> tuple[list[Record], list[str]]:
    records: list[Record] = []
    published: list[str] = []
    for n in range(8):
        iri = f"{WHO[n].did}#own-{n}"
        above = rng.sample([*SHIPPED, *published, f"{WHO[20].did}#nowhere"], 2)
        body = CapabilityBody(id=iri, broader=tuple(above), labels={"en": "own"})
        records.append(signed(body, Kind.CAPABILITY, WHO[n]))
        published.append(iri)
    manifests = []
    for n in range(60):
        of = ModelDescription(
            format=rng.choice(FORMATS),
            task="x",
            files=(),
            precision=rng.choice(PRECISIONS),
            options={"n": n // 2},
        )
        model = ModelBody(
            id=MODEL_URN + model_id(of),
            name=f"m{n}",
            capabilities=tuple(rng.choices([*SHIPPED, *published], k=rng.randint(1, 3))),
            model=of,
            license=rng.choice(LICENSES),
            languages=tuple(rng.choices(LANGUAGES, k=rng.choice((0, 1, 1, 2, 3)))),
        )
        manifests.append(signed(model, Kind.MODEL, rng.choice(WHO)))
    for who in WHO:
        offered = {m.subject: m for m in rng.sample(manifests, 12)}
        offers = tuple(
            Offer(
                model=subject.removeprefix(MODEL_URN),
                manifest=m.content_id,
                state=rng.choice(STATES),
                latency_ms=rng.choice((0, 20, 100, 500)),
            )
            for subject, m in offered.items()
        )
        records.append(signed(AvailabilityBody(id=who.did, offers=offers), Kind.AVAILABILITY, who))
        node = NodeBody(
            id=who.did,
            protocol_version=1,
            software="t",
            addresses=(),
            engines=(),
            devices=(),
            region=rng.choice(REGIONS),
        )
        if rng.random() < 0.8:  # some have not said yet where they are
            records.append(signed(node, Kind.NODE, who))
    # Some manifests never arrived.
    return records + manifests[3:], published


def by_index(index: Index, wanted: Filters) -> set[tuple[str, str, str]]:
    wanted.check()
    offers = index.offers_of_capability(wanted.capability, NOW)
    sieve = Sieve(index, wanted, lambda _: None, now_ms=NOW)
    for candidate in offers:
        sieve.add(candidate)
    found = sieve.found(partial(rank, observations={}, rng=random.Random(0), now_ms=NOW))
    assert len(found.kept) + len(found.dropped) == len(offers)
    assert sum(found.removed.values()) == len(found.dropped)
    return {(c.signer, c.model, c.manifest) for c in (kept.candidate for kept in found.kept)}


def asked(wanted: Filters) -> str:
    """The query of SPEC.md with the lines of the filters that are set, and their values."""
    name = wanted.capability
    lines = []
    for line in QUERY.splitlines():
        said, _, label = line.partition("  # ")
        value = next((getattr(wanted, of) for of in ASKED if LINES[of] == label), None)
        if label and not value:
            continue
        said = said.replace("cap:text", f"<{name if '#' in name else CAPABILITY + name}>")
        if label in {"issuer", "signer"}:
            said = re.sub(r"<did:.*?>", f"<{value}>", said)
        elif label == "latency":
            said = said.replace("500", str(value))
        elif label and label != "warm":
            said = re.sub(r'".*?"', f'"{value}"', said)
        lines.append(said)
    return "\n".join(lines)


def by_sparql(dataset: Dataset, wanted: Filters) -> set[tuple[str, str, str]]:
    text = dataset.answer(asked(wanted), AnswerFormat.CSV).decode()
    return {
        (
            row["node"],
            row["model"].removeprefix(MODEL_URN),
            row["manifest"].removeprefix("urn:aigrid:record:"),
        )
        for row in csv.DictReader(io.StringIO(text))
    }


@pytest.mark.parametrize("seed", range(5))
def test_index_and_sparql_agree_on_sixty_random_filters(seed):
    rng = random.Random(seed)
    records, published = world(rng)
    rng.shuffle(records)
    index, dataset = Index(), Dataset()
    for record in records:
        index.add(record)
    dataset.add((record.content_id, record.raw) for record in records)
    answered = 0
    for _ in range(60):
        wanted = drawn(rng, published)
        expected = by_index(index, wanted)
        assert by_sparql(dataset, wanted) == expected, wanted
        answered += bool(expected)
    assert answered > 20


def test_each_filter_is_a_line_of_the_query():
    labels = {line.partition("  # ")[2] for line in QUERY.splitlines()} - {""}
    assert labels == set(LINES.values())
    only_here = {"capability", "source", "target", "parameters", "size_bytes_max", "deadline_ms"}
    assert set(ASKED) == set(Filters.__struct_fields__) - only_here
