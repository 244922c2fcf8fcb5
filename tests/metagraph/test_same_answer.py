"""Routing's index and SPARQL over the dataset answer the same question alike."""

import csv
import io
import random
from dataclasses import dataclass

import pytest
from tests.metagraph.world import NOW, signed

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.dataset import Dataset
from aigrid.metagraph.index import Index
from aigrid.metagraph.query import AnswerFormat
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

FORMATS, PRECISIONS = ("gguf", "onnx", "echo"), ("q4_1", "float32", "")
LICENSES, LANGUAGES = ("Apache-2.0", "MIT", ""), ("en", "de", "fr")
REGIONS = ("eu", "us", "")
STATES: tuple[OfferState, ...] = ("warm", "on_disk", "can_fetch")
WHO = [Identity(bytes([9, n]) * 16) for n in range(24)]
SHIPPED = sorted(default_taxonomy().concepts)


@dataclass(frozen=True)
class Filter:
    """What `aigrid find` may ask for; None where it does not matter."""

    capability: str
    format: str | None
    precision: str | None
    license: str | None
    language: str | None
    region: str | None
    warm_only: bool
    latency_ms_max: int | None
    issuer: str | None

    @classmethod
    def drawn(cls, rng: random.Random, published: list[str]) -> "Filter":
        def maybe(values):
            return rng.choice(values) if rng.random() < 0.25 else None

        return cls(
            rng.choice([*SHIPPED, *published * 3, "text", "vision", "audio", "utility"]),
            maybe(FORMATS),
            maybe(PRECISIONS),
            maybe(LICENSES),
            maybe(LANGUAGES),
            maybe(REGIONS),
            rng.random() < 0.2,
            maybe((50, 150)),
            maybe([who.did for who in WHO]),
        )


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
            languages=tuple(rng.choices(LANGUAGES, k=rng.randint(0, 3))),
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
        records.append(signed(node, Kind.NODE, who))
    # Some manifests never arrived.
    return records + manifests[3:], published


def by_index(index: Index, wanted: Filter) -> set[tuple[str, str, str]]:
    found = set()
    for candidate in index.offers_of_capability(wanted.capability, NOW):
        manifest = index.manifest(candidate.manifest, NOW)
        node = index.node(candidate.signer, NOW)
        assert manifest is not None
        assert node is not None
        body, about = manifest.body, node.body
        assert isinstance(body, ModelBody)
        assert isinstance(about, NodeBody)
        if (
            (wanted.format is None or body.model.format == wanted.format)
            and (wanted.precision is None or body.model.precision == wanted.precision)
            and (wanted.license is None or body.license == wanted.license)
            and (wanted.language is None or wanted.language in body.languages)
            and (wanted.region is None or about.region == wanted.region)
            and (not wanted.warm_only or candidate.state == "warm")
            and (wanted.latency_ms_max is None or candidate.latency_ms <= wanted.latency_ms_max)
            and (wanted.issuer is None or manifest.issuer == wanted.issuer)
        ):
            found.add((candidate.signer, candidate.model, candidate.manifest))
    return found


def by_sparql(dataset: Dataset, wanted: Filter) -> set[tuple[str, str, str]]:
    name = wanted.capability
    iri = name if "#" in name else CAPABILITY + name
    said = []
    if wanted.format is not None:
        said.append(f'?model aig:description/aig:format "{wanted.format}" .')
    if wanted.precision is not None:
        said.append(f'?model aig:description/aig:precision "{wanted.precision}" .')
    if wanted.license is not None:
        said.append(f'GRAPH ?manifest {{ ?model schema:license "{wanted.license}" }}')
    if wanted.language is not None:
        said.append(f'GRAPH ?manifest {{ ?model schema:inLanguage "{wanted.language}" }}')
    if wanted.region is not None:
        said.append(f'?node aig:region "{wanted.region}" .')
    if wanted.warm_only:
        said.append('?offer aig:state "warm" .')
    if wanted.latency_ms_max is not None:
        said.append(f"FILTER(?latency <= {wanted.latency_ms_max})")
    if wanted.issuer is not None:
        said.append(f"?manifest prov:wasAttributedTo <{wanted.issuer}> .")
    query = f"""
        PREFIX aig: <https://w3id.org/aigrid/ns#>
        PREFIX schema: <https://schema.org/>
        PREFIX skos: <http://www.w3.org/2004/02/skos/core#>
        PREFIX prov: <http://www.w3.org/ns/prov#>
        SELECT DISTINCT ?node ?model ?manifest WHERE {{
          ?capability skos:broader* <{iri}> .
          GRAPH ?manifest {{ ?model aig:capability ?capability }}
          ?offer aig:underManifest ?manifest ; aig:offersModel ?model ; aig:latencyMs ?latency .
          ?node aig:offer ?offer .
          {" ".join(said)}
        }}"""
    text = dataset.answer(query, AnswerFormat.CSV).decode()
    return {
        (
            row["node"],
            row["model"].removeprefix(MODEL_URN),
            row["manifest"].removeprefix("urn:aigrid:record:"),
        )
        for row in csv.DictReader(io.StringIO(text))
    }


@pytest.mark.parametrize("seed", range(4))
def test_index_and_sparql_agree_on_fifty_random_filters(seed):
    rng = random.Random(seed)
    records, published = world(rng)
    rng.shuffle(records)
    index, dataset = Index(), Dataset()
    for record in records:
        index.add(record)
    dataset.add((record.content_id, record.raw) for record in records)
    answered = 0
    for _ in range(50):
        wanted = Filter.drawn(rng, published)
        expected = by_index(index, wanted)
        assert by_sparql(dataset, wanted) == expected, wanted
        answered += bool(expected)
    assert answered > 10
