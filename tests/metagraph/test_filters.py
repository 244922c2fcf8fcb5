"""Filters: what passes, what is said of each offer, and what cannot be meant."""

import random
from functools import partial
from typing import Any

import msgspec
import pytest
from tests.metagraph.world import (
    ANN,
    BEN,
    DESCRIPTIONS,
    MINUTE_MS,
    NOW,
    availability,
    model_body,
    node_record,
    offer,
    signed,
)

from aigrid.metagraph.filters import Filters, Found, Sieve
from aigrid.metagraph.index import Index
from aigrid.metagraph.selection import Observation, Reason, rank
from aigrid.protocol.errors import UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import CapabilityBody, Kind, NodeBody, OfferState
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, model_id

OWN_KIND = f"{ANN.did}#court"


def grid(
    *,
    state: OfferState = "warm",
    latency: int = 0,
    slots: int = 1,
    region: str = "",
    offered_by: Identity = ANN,
    **stated: Any,
) -> Index:
    """One offer by `offered_by` of a model that BEN describes."""
    of = msgspec.structs.replace(DESCRIPTIONS[0], format="gguf", precision="q4_1")
    body = msgspec.structs.replace(model_body(), id=MODEL_URN + model_id(of), model=of, **stated)
    manifest = signed(body, Kind.MODEL, BEN)
    node = node_record(offered_by)
    assert isinstance(node.body, NodeBody)
    records = [
        manifest,
        signed(msgspec.structs.replace(node.body, region=region), Kind.NODE, offered_by),
        availability(offered_by, offer(manifest, state, slots, latency)),
    ]
    index = Index()
    for record in records:
        index.add(record)
    return index


def asked(
    index: Index,
    capability: str = "text-generation",
    *,
    seen: Observation | None = None,
    now: int = NOW,
    limit: int = 9,
    **filters: Any,
) -> Found:
    wanted = Filters(capability=capability, **filters)
    wanted.check()
    offers = index.offers_of_capability(capability, NOW)
    observations = {ANN.peer_id: seen} if seen else {}
    sieve = Sieve(index, wanted, observations.get, now_ms=now, limit=limit)
    for candidate in offers:
        sieve.add(candidate)
    order = partial(rank, observations=observations, rng=random.Random(0), now_ms=now)
    return sieve.found(order)


@pytest.mark.parametrize(
    ("stated", "wanted", "said"),
    [
        ({"languages": ("de", "en-GB")}, {"language": "en"}, "language: de, en-GB"),
        ({}, {"format": "GGUF"}, "format: gguf"),
        ({}, {"precision": "Q4_1"}, "precision: q4_1"),
        ({"license": "Apache-2.0"}, {"license": "apache-2.0"}, "license: Apache-2.0"),
        ({"region": "EU"}, {"region": "eu"}, "region: EU"),
        ({}, {"warm": True}, "warm: warm"),
        ({"latency": 100}, {"latency_ms_max": 100}, "latency: declared 100 ms"),
        ({}, {"issuer": BEN.did}, f"issuer: {BEN.did}"),
        ({}, {"signer": ANN.did}, f"signer: {ANN.did}"),
    ],
)
def test_what_fits_is_kept_and_says_so(stated, wanted, said):
    found = asked(grid(**stated), **wanted)
    assert (len(found.kept), found.dropped, found.removed) == (1, (), {})
    assert found.kept[0].explanation[:2] == ("text-generation is declared", said)
    assert "another node" in found.kept[0].explanation  # what put it in its place comes after


@pytest.mark.parametrize(
    ("stated", "wanted", "reason", "said"),
    [
        ({"languages": ("eng",)}, {"language": "en"}, Reason.LANGUAGE, "language: eng, wanted en"),
        ({}, {"language": "en"}, Reason.LANGUAGE, "language: not stated, wanted en"),
        ({}, {"format": "onnx"}, Reason.FORMAT, "format: gguf, wanted onnx"),
        ({}, {"precision": "q8_0"}, Reason.PRECISION, "precision: q4_1, wanted q8_0"),
        ({"license": "MIT"}, {"license": "ISC"}, Reason.LICENSE, "license: MIT, wanted ISC"),
        ({}, {"region": "eu"}, Reason.REGION, "region: not stated, wanted eu"),
        ({"state": "on_disk"}, {"warm": True}, Reason.WARM, "warm: on disk, wanted warm"),
        (
            {"latency": 101},
            {"latency_ms_max": 100},
            Reason.LATENCY,
            "latency: declared 101 ms, wanted at most 100 ms",
        ),
        (
            {},
            {"latency_ms_max": 100},
            Reason.LATENCY,
            "latency: neither observed nor declared, wanted at most 100 ms",
        ),
        ({}, {"issuer": ANN.did}, Reason.ISSUER, f"issuer: {BEN.did}, wanted {ANN.did}"),
        ({}, {"signer": BEN.did}, Reason.SIGNER, f"signer: {ANN.did}, wanted {BEN.did}"),
    ],
)
def test_what_does_not_fit_is_dropped_with_what_is_stated(stated, wanted, reason, said):
    found = asked(grid(**stated), **wanted)
    assert found.kept == ()
    assert [(d.reason, d.explanation[1:]) for d in found.dropped] == [(reason, (said,))]
    assert found.removed == {reason.value: 1}


def test_an_observed_latency_counts_more_than_a_declared_one():
    index = grid(latency=10)
    slow = asked(index, seen=Observation(ttft_ms=350.4), latency_ms_max=100)
    (dropped,) = slow.dropped
    assert "latency: observed 350 ms, wanted at most 100 ms" in dropped.explanation
    assert asked(grid(latency=900), seen=Observation(ttft_ms=20), latency_ms_max=100).kept


def test_every_failed_filter_is_explained_and_the_first_is_counted():
    found = asked(grid(state="on_disk"), language="en", format="gguf", warm=True)
    (dropped,) = found.dropped
    assert dropped.explanation[1:] == (
        "language: not stated, wanted en",
        "format: gguf",
        "warm: on disk, wanted warm",
    )
    assert found.removed == {"language": 1}


def test_who_fits_and_cannot_serve_is_no_filters_doing():
    found = asked(grid(), seen=Observation(alive=False), format="gguf")
    (dropped,) = found.dropped
    assert (dropped.reason, found.removed) == (Reason.DEAD, {})
    assert dropped.explanation == (
        "text-generation is declared",
        "format: gguf",
        "does not answer",
    )


def test_a_manifest_that_expired_since_the_offers_were_read_is_dropped():
    found = asked(grid(), now=NOW + 5 * MINUTE_MS)
    assert [one.reason for one in found.dropped] == [Reason.EXPIRED]


def test_it_is_said_which_capability_is_narrower():
    index = grid(capabilities=("translation", OWN_KIND, "image-classification"))
    body = CapabilityBody(id=OWN_KIND, broader=("summarization",), labels={"en": "x"})
    index.add(signed(body, Kind.CAPABILITY, ANN))
    for name, why in (
        ("translation", "translation is declared"),
        ("vision", "image-classification is narrower than vision"),
        ("summarization", f"{OWN_KIND} is narrower than summarization"),
        ("text", f"translation, {OWN_KIND} are narrower than text"),
    ):
        (kept,) = asked(index, name).kept
        assert kept.explanation[0] == why


def test_more_than_can_be_ranked_is_counted():
    index = grid()
    manifest = index.manifests_of(index.models(NOW)[0].model, NOW)[0]
    for n in range(5):
        index.add(availability(Identity(bytes([n]) * 32), offer(manifest, "on_disk")))
    found = asked(index, limit=2)
    assert (len(found.kept), found.more, found.kept[0].candidate.state) == (2, 4, "warm")
    found = asked(index, limit=2, warm=True)
    assert (len(found.kept), len(found.dropped)) == (1, 2)
    assert (found.removed, found.more) == ({"warm": 5}, 0)


def test_without_filters_nothing_but_the_order_is_decided():
    index = grid(latency=5)
    found = asked(index)
    assert [kept.candidate for kept in found.kept] == list(
        index.offers_of_capability("text-generation", NOW)
    )


@pytest.mark.parametrize(
    "meant",
    [
        {"capability": "Text Generation"},
        {"capability": "x" * (LIMITS.capability_max_chars + 1)},
        {"capability": ""},
        {"language": "en_US"},
        {"language": ""},
        {"language": "*"},
        {"language": "en-" * 60 + "x"},
        {"format": ""},
        {"license": "x" * (LIMITS.name_max_chars + 1)},
        {"region": "e\x1bu"},
        {"precision": "\n"},
        {"latency_ms_max": 0},
        {"latency_ms_max": 2**53},
        {"issuer": "did:web:example.org"},
        {"signer": ANN.did[:-1]},
    ],
)
def test_what_cannot_be_meant_is_refused_with_an_example(meant):
    with pytest.raises(UsageError) as caught:
        Filters(**{"capability": "text", **meant}).check()
    assert "`" in caught.value.message
