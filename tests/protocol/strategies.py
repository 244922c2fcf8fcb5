"""Hypothesis strategies for what the protocol says, and a way to sign what `build` would refuse."""

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET
from tests.protocol import credential_strategies

from aigrid.protocol import evidence, kinds, task
from aigrid.protocol.canonical import canonical, content_id, file_cid
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Body, Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, ModelFile, model_id
from aigrid.protocol.record import Record, build, sign_jcs, verification_method
from aigrid.protocol.rotation import agreed
from aigrid.protocol.tensors import TensorSpec
from aigrid.protocol.upstream import Upstream

NOW_MS = 1_790_000_000_000
ALICE, BOB, CAROL = (Identity(bytes([n]) * 32) for n in (1, 2, 3))

identities = st.sampled_from([ALICE, BOB, CAROL])
shown = st.characters(
    exclude_categories=("Cs", "Cc"),
    exclude_characters="\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
)
labels = st.text(shown, max_size=LIMITS.name_max_chars)
names = st.text(shown, min_size=1, max_size=LIMITS.name_max_chars)
counts = st.integers(0, 2**53 - 1)
addresses = st.lists(
    st.from_regex(r"/[!-~]{1,40}", fullmatch=True), max_size=LIMITS.addresses_max
).map(tuple)
content_ids = st.binary(max_size=4).map(content_id) | st.binary(max_size=4).map(
    lambda data: file_cid(hashlib.sha256(data).digest())
)
capabilities = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,6}){0,3}", fullmatch=True)
safe_floats = st.floats(-(2.0**52), 2.0**52)
scalars = labels | st.integers(-(2**53) + 1, 2**53 - 1) | safe_floats | st.booleans()
files = st.builds(
    ModelFile,
    name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    bytes=counts,
)
tensors = st.text(shown, max_size=16)
decimals = st.from_regex(r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,4})?", fullmatch=True)
image_inputs = st.builds(
    task.ImageInput,
    width=st.integers(1, 4096),
    height=st.integers(1, 4096),
    tensor=tensors,
    resize=st.sampled_from(["stretch", "crop", "pad"]),
    shorter=st.integers(0, 4096),
    resample=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    channels=st.sampled_from(["rgb", "bgr", "gray"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    divisor=decimals,
    mean=st.lists(decimals, max_size=4).map(tuple),
    std=st.lists(decimals, max_size=4).map(tuple),
)
audio_inputs = st.builds(
    task.AudioInput,
    sample_rate=st.integers(1000, 384_000),
    tensor=tensors,
    state_shape=st.lists(st.integers(1, 4096), max_size=4).map(tuple),
)
table_inputs = st.builds(
    task.TableInput,
    features=st.lists(
        st.builds(
            task.Feature,
            name=st.text(shown, min_size=1, max_size=16),
            categories=st.lists(tensors, max_size=3).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    window=st.integers(0, 65536),
)
task_outputs = st.builds(
    task.TaskOutput,
    tensor=tensors,
    labels=st.lists(tensors, max_size=4).map(tuple),
    normalize=st.booleans(),
    threshold=decimals,
    greater_is_anomalous=st.booleans(),
)
mappings = st.builds(
    task.TaskMapping,
    text=st.just(UNSET) | st.builds(task.TextInput, template=st.text(max_size=20)),
    image=st.just(UNSET) | image_inputs,
    audio=st.just(UNSET) | audio_inputs,
    table=st.just(UNSET) | table_inputs,
    bytes=st.just(UNSET) | st.builds(task.BytesInput, begin=st.integers(0, 2**20)),
    output=task_outputs,
)
tensor_specs = st.lists(
    st.builds(
        TensorSpec,
        name=st.text(shown, min_size=1, max_size=16),
        datatype=st.sampled_from(["FP32", "INT64", "BYTES"]),
        shape=st.lists(st.integers(-1, 2**31 - 1), max_size=4).map(tuple),
    ),
    max_size=3,
).map(tuple)
upstreams = st.builds(
    Upstream,
    publisher=st.just(ALICE.did),
    model=st.text(shown, min_size=1, max_size=16),
    version=st.text(shown, max_size=16),
    inputs=tensor_specs,
    outputs=tensor_specs,
)
descriptions = st.builds(
    ModelDescription,
    format=st.from_regex(r"[a-z0-9_]{1,32}", fullmatch=True),
    task=st.text(shown, min_size=1, max_size=LIMITS.name_max_chars),
    files=st.lists(files, max_size=5, unique_by=lambda file: file.name.lower()).map(tuple),
    precision=st.text(shown, max_size=32),
    options=st.dictionaries(st.text(max_size=64), scalars, max_size=4),
    mapping=st.just(UNSET) | mappings,
    upstream=st.just(UNSET) | upstreams,
)
branches = st.lists(capabilities, max_size=4, unique=True).map(lambda names: tuple(sorted(names)))
offers = st.builds(
    kinds.Offer,
    model=content_ids,
    manifest=content_ids,
    state=st.sampled_from(["warm", "loading", "on_disk", "can_fetch"]),
    slots=st.integers(0, 65536),
    latency_ms=counts,
)


def node_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    return st.builds(
        kinds.NodeBody,
        id=st.just(issuer.did),
        protocol_version=st.integers(1, 1_000_000),
        software=labels,
        addresses=addresses,
        engines=st.lists(
            st.builds(
                kinds.EngineClaim,
                name=names,
                version=labels,
                formats=st.lists(labels, max_size=3).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        devices=st.lists(
            st.builds(kinds.DeviceClaim, kind=names, name=labels, memory_bytes=counts), max_size=3
        ).map(tuple),
        region=labels,
        branches=branches,
    )


def published_by(issuer: Identity, description: ModelDescription) -> ModelDescription:
    """A model behind a server is described by its publisher only."""
    if description.upstream is UNSET:
        return description
    upstream = msgspec.structs.replace(description.upstream, publisher=issuer.did)
    return msgspec.structs.replace(description, upstream=upstream)


def chunk_lists_of(description: ModelDescription) -> tuple[kinds.ChunkList, ...]:
    return tuple(kinds.ChunkList(n, "0f" * 32) for n in sorted(f.name for f in description.files))


parameter_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
serves = st.lists(
    st.builds(
        kinds.Served,
        capability=capabilities,
        parameters=st.dictionaries(
            parameter_names,
            st.sets(names, min_size=1, max_size=3).map(lambda values: tuple(sorted(values))),
            min_size=1,
            max_size=3,
        ),
    ),
    max_size=3,
    unique_by=lambda served: served.capability,
).map(lambda served: tuple(sorted(served, key=lambda one: one.capability)))


def model_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    described = descriptions.map(lambda description: published_by(issuer, description))
    return described.flatmap(
        lambda description: st.builds(
            kinds.ModelBody,
            chunk_lists=st.just(UNSET) | st.just(chunk_lists_of(description)),
            id=st.just(MODEL_URN + model_id(description)),
            name=names,
            capabilities=st.lists(
                capabilities | identities.flatmap(own_capability_iris), min_size=1, max_size=16
            ).map(tuple),
            model=st.just(description),
            license=labels,
            languages=st.lists(labels, max_size=3).map(tuple),
            memory_bytes=counts,
            context_tokens=counts,
            policy=st.just(UNSET) | credential_strategies.rules,
            inputs=st.just(UNSET) | st.just((TensorSpec("x", "FP32", (-1, 4)),)),
            outputs=st.just(UNSET) | st.just((TensorSpec("y", "BYTES", ()),)),
            serves=st.just(UNSET) | serves,
        )
    )


def availability_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    return st.builds(
        kinds.AvailabilityBody,
        id=st.just(issuer.did),
        offers=st.lists(offers, max_size=5, unique_by=lambda offer: offer.model).map(tuple),
        branches=branches,
        seeds=st.lists(
            st.builds(kinds.Seed, model=content_ids, manifest=content_ids),
            max_size=3,
            unique_by=lambda seed: seed.model,
        ).map(tuple),
    )


def demand_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    wanted = st.builds(
        kinds.WantedModel,
        model=content_ids,
        manifest=content_ids,
        waiting=st.integers(1, LIMITS.demand_waiting_max),
    )
    return st.builds(
        kinds.DemandBody,
        id=st.just(issuer.did),
        wanted=st.lists(wanted, max_size=3, unique_by=lambda one: one.model).map(tuple),
        branches=branches,
    )


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.text(max_size=8)
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | safe_floats
    | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
schemas = st.dictionaries(st.text(max_size=8), json_values, max_size=3)


def own_capability_iris(issuer: Identity) -> st.SearchStrategy[str]:
    return capabilities.map(lambda name: f"{issuer.did}#{name}")


def capability_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    above = capabilities | identities.flatmap(own_capability_iris)
    return own_capability_iris(issuer).flatmap(
        lambda iri: st.builds(
            kinds.CapabilityBody,
            id=st.just(iri),
            broader=st.lists(above.filter(lambda name: name != iri), min_size=1, max_size=4).map(
                tuple
            ),
            labels=st.dictionaries(
                st.sampled_from(["en", "de", "fr-ch", "zh-tw", "gsw"]), names, min_size=1
            ),
            input_schema=schemas,
            output_schema=schemas,
            parameters_schema=schemas,
        )
    )


@st.composite
def evaluation_bodies(draw: st.DrawFn, _issuer: Identity) -> Body:
    low, value, high = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
    model, capability = draw(content_ids), draw(capabilities)
    parameters = draw(st.dictionaries(parameter_names, names, max_size=3))
    metric = draw(st.sampled_from(evidence.METRICS))
    dataset = draw(st.binary(min_size=32, max_size=32)).hex()
    return evidence.EvaluationBody(
        id=evidence.evaluation_id(model, capability, parameters, metric, dataset),
        model=model,
        capability=capability,
        parameters=parameters,
        metric=metric,
        dataset=dataset,
        items=draw(st.integers(1, 2**53 - 1)),
        value=evidence.fraction(value),
        low=evidence.fraction(low),
        high=evidence.fraction(high),
    )


def audit_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    findings = st.builds(
        evidence.Finding,
        model=content_ids,
        capability=capabilities,
        served=counts,
        failed=counts,
        latency_ms=counts,
        audited=st.integers(100, 2**53 - 1),
        wrong=st.integers(0, 100),
    )
    return st.builds(
        evidence.AuditBody,
        id=identities.filter(lambda who: who is not issuer).map(lambda who: who.did),
        findings=st.lists(
            findings, max_size=3, unique_by=lambda one: (one.model, one.capability)
        ).map(lambda found: tuple(sorted(found, key=lambda one: (one.model, one.capability)))),
    )


def membership_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    own: st.SearchStrategy[Body] = st.builds(
        kinds.MembershipBody,
        id=identities.map(lambda who: who.did),
        grid=st.just(issuer.did),
        role=st.sampled_from(["member", "authority"]),
    )
    return own | credential_strategies.renewal_bodies(issuer)


def invitation_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    return st.builds(
        kinds.InvitationBody,
        id=identities.map(lambda who: who.did),
        grid=st.just(issuer.did),
        peer_id=identities.map(lambda who: who.peer_id),
        addresses=addresses,
        nonce=st.from_regex(r"[!-~]{16,64}", fullmatch=True),
    )


def rotation_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    successors = identities.filter(lambda who: who.did != issuer.did)
    return st.builds(
        lambda who, ms: agreed(issuer.did, who, rotated_ms=ms), successors, st.integers(0, NOW_MS)
    )


BODIES: dict[Kind, Callable[[Identity], st.SearchStrategy[Body]]] = {
    Kind.NODE: node_bodies,
    Kind.MODEL: model_bodies,
    Kind.AVAILABILITY: availability_bodies,
    Kind.DEMAND: demand_bodies,
    Kind.CAPABILITY: capability_bodies,
    Kind.EVALUATION: evaluation_bodies,
    Kind.AUDIT: audit_bodies,
    Kind.MEMBERSHIP: membership_bodies,
    Kind.INVITATION: invitation_bodies,
    Kind.ROTATION: rotation_bodies,
    Kind.GRANT: credential_strategies.grant_bodies,
    Kind.DELEGATION: credential_strategies.delegation_bodies,
    Kind.STATUS_LIST: credential_strategies.status_list_bodies,
    Kind.STATUS_DELEGATION: credential_strategies.status_delegation_bodies,
    Kind.RECEIPT: credential_strategies.receipt_bodies,
}
NEVER_WITHDRAWN = {Kind.GRANT, Kind.DELEGATION, Kind.STATUS_LIST, Kind.RECEIPT}


def withdrawals(kind: Kind, issuer: Identity) -> st.SearchStrategy[Body]:
    return BODIES[kind](issuer).map(lambda body: kinds.WithdrawnBody(id=body.id, withdrawn=True))


@st.composite
def records(draw: st.DrawFn, kind: Kind) -> Record:
    """A valid record of `kind`, a withdrawal now and then, valid at NOW_MS."""
    issuer = draw(identities)
    bodies = BODIES[kind](issuer)
    body = draw(bodies if kind in NEVER_WITHDRAWN else bodies | withdrawals(kind, issuer))
    withdrawn = isinstance(body, kinds.WithdrawnBody)
    status = None if withdrawn else draw(credential_strategies.statuses(kind, issuer.did, body))
    ttl_ms = kinds.KINDS[kind].ttl_seconds * 1000
    age_ms = draw(st.integers(0, ttl_ms - 1))
    lifetime_ms = draw(st.integers(age_ms + 1, ttl_ms))
    start_ms = NOW_MS - age_ms
    end_ms = start_ms + lifetime_ms
    return build(kind, body, issuer, valid_from_ms=start_ms, valid_until_ms=end_ms, status=status)


def example_evaluation(model: str) -> evidence.EvaluationBody:
    parameters, dataset = {"source": "en", "target": "fr"}, "ab" * 32
    return evidence.EvaluationBody(
        id=evidence.evaluation_id(model, "translation", parameters, "chrf", dataset),
        model=model,
        capability="translation",
        parameters=parameters,
        metric="chrf",
        dataset=dataset,
        items=500,
        value="0.613",
        low="0.58",
        high="0.64",
    )


def example_bodies(issuer: Identity = ALICE) -> dict[Kind, Body]:
    """One ordinary body per kind."""
    description = ModelDescription(
        format="gguf",
        task="text-generation",
        files=(ModelFile("b.gguf", "ab" * 32, 1000), ModelFile("a.json", "cd" * 32, 10)),
        precision="q4_1",
        options={"context": 8192, "eos": "</s>", "scale": 0.5, "add_bos": True},
    )
    of_model = model_id(description)
    where = ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001")
    return {
        Kind.NODE: kinds.NodeBody(
            id=issuer.did,
            protocol_version=1,
            software="aigrid/0.1.0",
            addresses=where,
            engines=(kinds.EngineClaim("onnx_text", "1", ("gguf",)),),
            devices=(kinds.DeviceClaim("cpu", "Eight cores, 3 GHz", 16 * 2**30),),
            region="eu",
        ),
        Kind.MODEL: kinds.ModelBody(
            id=MODEL_URN + of_model,
            name="smollm2",
            capabilities=("text-generation", "conversational"),
            model=description,
            license="Apache-2.0",
            languages=("en",),
            memory_bytes=300_000_000,
            context_tokens=8192,
            chunk_lists=chunk_lists_of(description),
            serves=(kinds.Served("text-generation", {"language": ("de", "en")}),),
        ),
        Kind.AVAILABILITY: kinds.AvailabilityBody(
            id=issuer.did,
            offers=(
                kinds.Offer(
                    of_model, content_id(b"a manifest"), "warm", 4, 120, ("tools", "top_k")
                ),
            ),
            seeds=(kinds.Seed(of_model, content_id(b"a manifest")),),
        ),
        Kind.DEMAND: kinds.DemandBody(
            id=issuer.did,
            wanted=(kinds.WantedModel(of_model, content_id(b"a manifest"), 3),),
        ),
        Kind.CAPABILITY: kinds.CapabilityBody(
            id=f"{issuer.did}#legal-summarization",
            broader=("summarization",),
            labels={"en": "Legal summarization", "de": "Juristische Zusammenfassung"},
            input_schema={"type": "string", "maxLength": 100_000},
        ),
        Kind.EVALUATION: example_evaluation(of_model),
        Kind.AUDIT: evidence.AuditBody(
            id=(CAROL if issuer is not CAROL else BOB).did,
            findings=(evidence.Finding(of_model, "text-generation", 120, 3, 250, 12, 1),),
        ),
        Kind.MEMBERSHIP: kinds.MembershipBody(id=BOB.did, grid=issuer.did),
        Kind.INVITATION: kinds.InvitationBody(
            id=BOB.did,
            grid=issuer.did,
            peer_id=CAROL.peer_id,
            addresses=where,
            nonce="0123456789abcdef",
        ),
        Kind.ROTATION: agreed(issuer.did, CAROL if issuer is not CAROL else BOB, rotated_ms=NOW_MS),
        **credential_strategies.example_credentials(issuer),
    }


def example(
    kind: Kind, *, issuer: Identity = ALICE, start_ms: int = NOW_MS, body: Body | None = None
) -> Record:
    """A record of `kind` that lives for as long as the kind allows."""
    return build(
        kind,
        body if body is not None else example_bodies(issuer)[kind],
        issuer,
        valid_from_ms=start_ms,
        valid_until_ms=start_ms + kinds.KINDS[kind].ttl_seconds * 1000,
        status=credential_strategies.example_status(kind, issuer.did),
    )


def document_of(record: Record) -> dict[str, Any]:
    return json.loads(record.raw)


def forge(
    record: Record,
    change: Callable[[dict[str, Any]], Any] = lambda _document: None,
    *,
    proof: dict[str, Any] | None = None,
    signer: Identity | None = None,
) -> bytes:
    """Canonical bytes of a changed record, correctly signed by `signer` (or by its issuer).

    So that what is refused is refused for the change, not for a signature that does not match.
    `proof` adds to or replaces members of the proof configuration.
    """
    by = signer or next(who for who in (ALICE, BOB, CAROL) if who.did == record.issuer)
    document = copy.deepcopy(document_of(record))
    change(document)
    config = document.pop("proof")
    del config["proofValue"]
    config["created"] = document.get("validFrom", config["created"])
    config["verificationMethod"] = verification_method(by.did)
    config |= proof or {}
    return canonical(
        {**document, "proof": {**config, "proofValue": sign_jcs(document, config, by)}}
    )
