"""What is said of models: manifests, what nodes offer, and what is wanted and nobody offers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigrid.protocol import credential_kinds as credentials
from aigrid.protocol.body import (
    Branches,
    Capability,
    Count,
    Label,
    Name,
    SubjectBody,
    about_itself,
    check_branches,
)
from aigrid.protocol.canonical import is_content_id
from aigrid.protocol.credential_kinds import Rules
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.evidence import ParameterName
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, Sha256Hex, model_id
from aigrid.protocol.more import Takes
from aigrid.protocol.names import FileName
from aigrid.protocol.tensors import TensorSpec, TensorSpecs

OfferState = Literal["warm", "loading", "on_disk", "can_fetch"]


class ChunkList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The chunk list of a file of a model, by its SHA-256 in hex: see `chunks`."""

    name: FileName
    sha256: Sha256Hex


class Served(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """For which values of a capability's selecting parameters a model fulfils its contract.

    Selecting parameters, such as {"source": ["en"], "target": ["fr"]}, choose among models; they
    are not passed to engines. Where one is not named beside others, any value of it will do.
    """

    capability: Capability
    parameters: Annotated[
        dict[
            ParameterName,
            Annotated[tuple[Name, ...], Meta(min_length=1, max_length=LIMITS.served_values_max)],
        ],
        Meta(min_length=1, max_length=LIMITS.selecting_parameters_max),
    ]


Serves = Annotated[tuple[Served, ...], Meta(max_length=LIMITS.capabilities_max)]


class ModelBody(SubjectBody, frozen=True):
    """A manifest. `id` is `urn:aigrid:model:` and the model id, which `model` must hash to.

    `policy`: what may be done with the model, by whom. Unset: members may do everything. Empty:
    nobody but the issuer may do anything. `inputs`, `outputs`: the tensors of a model that takes
    tensors; unset where that is not said, or `model.upstream` says it. `chunk_lists`: of every file
    of the model, in order of name. Unset: the files are not given to anybody. `serves`: for which
    values of selecting parameters, in order of capability.
    """

    name: Name
    capabilities: Annotated[
        tuple[Capability, ...], Meta(min_length=1, max_length=LIMITS.capabilities_max)
    ]
    model: ModelDescription
    license: Label = ""
    languages: Annotated[tuple[Label, ...], Meta(max_length=LIMITS.languages_max)] = ()
    memory_bytes: Count = 0
    context_tokens: Count = 0
    policy: Rules | UnsetType = UNSET
    inputs: TensorSpecs | UnsetType = UNSET
    outputs: TensorSpecs | UnsetType = UNSET
    chunk_lists: Annotated[tuple[ChunkList, ...], Meta(max_length=LIMITS.files_max)] | UnsetType = (
        UNSET
    )
    serves: Serves | UnsetType = UNSET


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A model that a node can serve, under the manifest it obtained it by.

    Without `slots` nobody may ask for it yet: one that is `loading` is being fetched. `takes`:
    further members of a text request, by name; see `more`.
    """

    model: str
    manifest: str
    state: OfferState
    slots: Annotated[int, Meta(ge=0, le=LIMITS.slots_max)] = 1
    latency_ms: Count = 0
    takes: Takes = ()


class Seed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A model whose files a node gives to members, under the manifest it obtained it by."""

    model: str
    manifest: str


class AvailabilityBody(SubjectBody, frozen=True):
    """All that a node offers. `id` is its DID. `branches` are its; none named: everybody's.

    `seeds`: the models whose files it has and gives, whether or not it serves them.
    """

    offers: Annotated[tuple[Offer, ...], Meta(max_length=LIMITS.offers_max)]
    branches: Branches = ()
    seeds: Annotated[tuple[Seed, ...], Meta(max_length=LIMITS.seeds_max)] = ()


class WantedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A model for which requests wait, and the manifest under which they would be made."""

    model: str
    manifest: str
    waiting: Annotated[int, Meta(ge=1, le=LIMITS.demand_waiting_max)]


class DemandBody(SubjectBody, frozen=True):
    """All that requests at a node wait for, because nobody serves it now. `id` is its DID.

    `branches` are those of the manifests; none named: everybody's.
    """

    wanted: Annotated[tuple[WantedModel, ...], Meta(max_length=LIMITS.demands_max)]
    branches: Branches = ()


def tensors_of(body: ModelBody) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a model that takes tensors, as far as its manifest says."""
    upstream = body.model.upstream
    if upstream is not UNSET:
        return upstream.inputs, upstream.outputs
    return (
        () if body.inputs is UNSET else body.inputs,
        () if body.outputs is UNSET else body.outputs,
    )


def takes_only_tensors(body: ModelBody) -> bool:
    """Whether a model is asked with the tensors that it declares, and neither text nor a task."""
    return bool(tensors_of(body)[0]) and body.model.mapping is UNSET


def id_is_model(_issuer: str, body: SubjectBody) -> None:
    if not (body.id.startswith(MODEL_URN) and is_content_id(body.id.removeprefix(MODEL_URN))):
        raise VerificationError("the id is not that of a model")


def check_availability(issuer: str, body: AvailabilityBody) -> None:
    about_itself(issuer, body)
    _check_named(body.offers)
    if any(a >= b for offer in body.offers for a, b in pairwise(offer.takes)):
        raise VerificationError("what an offer takes is named once, in ascending order")
    _check_named(body.seeds)
    check_branches(body.branches)


def check_demand(issuer: str, body: DemandBody) -> None:
    about_itself(issuer, body)
    _check_named(body.wanted)
    check_branches(body.branches)


def _check_named(items: Sequence[Offer | Seed | WantedModel]) -> None:
    for item in items:
        if not (is_content_id(item.model) and is_content_id(item.manifest)):
            raise VerificationError("a model and its manifest are named by content id")
    if len({item.model for item in items}) != len(items):
        raise VerificationError("a model is named twice")


def _check_served(serves: tuple[Served, ...]) -> None:
    if any(a.capability >= b.capability for a, b in pairwise(serves)):
        raise VerificationError("what a model serves ascends by capability, each once")
    for served in serves:
        for values in served.parameters.values():
            if any(a >= b for a, b in pairwise(values)):
                raise VerificationError("values that a model serves are named once, ascending")


def check_model(issuer: str, body: ModelBody) -> None:
    if body.id != MODEL_URN + model_id(body.model):
        raise VerificationError("the id is not the content id of the model's description")
    upstream = body.model.upstream
    if body.policy is not UNSET:
        credentials.check_rules(body.policy)
    if upstream is not UNSET and upstream.publisher != issuer:
        raise VerificationError(
            "only its publisher describes a model behind a server", Code.ISSUER_NOT_KEY
        )
    for specs in (body.inputs, body.outputs):
        if specs is not UNSET and len({spec.name for spec in specs}) != len(specs):
            raise VerificationError("a tensor is declared twice")
    if body.serves is not UNSET:
        _check_served(body.serves)
    if body.chunk_lists is not UNSET:
        named = [one.name for one in body.chunk_lists]
        if named != sorted(file.name for file in body.model.files):
            raise VerificationError("there is one chunk list for each file, in order of name")
