"""Which RDF term stands for which field of a record: one table.

The mapping to quads, the JSON-LD context and the SHACL shapes all follow it (the last two are made
by `scripts/vocabulary.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from aigrid.protocol.kinds import Kind
from aigrid.protocol.model import MODEL_URN

AIG: Final = "https://w3id.org/aigrid/ns#"
CAPABILITY: Final = "https://w3id.org/aigrid/capability/"
RECORD_URN: Final = "urn:aigrid:record:"
PROVENANCE: Final = AIG + "provenance"
VOCABULARY: Final = AIG + "vocabulary"

CRED: Final = "https://www.w3.org/2018/credentials#"
DCAT: Final = "http://www.w3.org/ns/dcat#"
DCT: Final = "http://purl.org/dc/terms/"
FAIR4ML: Final = "https://w3id.org/fair4ml#"
ODRL: Final = "http://www.w3.org/ns/odrl/2/"
PROV: Final = "http://www.w3.org/ns/prov#"
RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SCHEMA: Final = "https://schema.org/"
SEC: Final = "https://w3id.org/security#"
SKOS: Final = "http://www.w3.org/2004/02/skos/core#"
STATUS: Final = "https://www.w3.org/ns/credentials/status#"
XSD: Final = "http://www.w3.org/2001/XMLSchema#"

PREFIXES: Final[Mapping[str, str]] = {
    "aig": AIG,
    "cap": CAPABILITY,
    "cred": CRED,
    "dcat": DCAT,
    "dct": DCT,
    "fair4ml": FAIR4ML,
    "odrl": ODRL,
    "prov": PROV,
    "rdf": RDF,
    "schema": SCHEMA,
    "sec": SEC,
    "skos": SKOS,
    "status": STATUS,
    "xsd": XSD,
}


class Form(Enum):
    """How a JSON value becomes objects of triples."""

    TEXT = "a string"
    NUMBER = "an integer"
    TRUTH = "a boolean"
    REFERENCE = "a string that is an IRI, or one once `prefix` stands before it"
    LABELS = "strings by language"
    JSON = "any JSON, as one rdf:JSON literal"
    NODE = "an object: a node of its own"
    OPTIONS = "an object of scalars with free names: a node for each member"


@dataclass(frozen=True, slots=True)
class Term:
    """What stands for a field.

    Attributes:
        iri: the property.
        prefix: see `Form.REFERENCE`; a value with a colon in it is an IRI already.
        many: the field is an array.
        fields: of the node, for `Form.NODE`.
        words: values that stand for an IRI of their own, for `Form.REFERENCE`.
        datatype: of the literal, for `Form.TEXT`.
        elsewhere: the context of verifiable credentials defines the name, and protects it.
    """

    iri: str
    form: Form = Form.TEXT
    prefix: str = ""
    many: bool = False
    fields: Mapping[str, "Term"] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    datatype: str = XSD + "string"
    elsewhere: bool = False


def _number(iri: str) -> Term:
    return Term(iri, Form.NUMBER)


def _numbers(iri: str) -> Term:
    return Term(iri, Form.NUMBER, many=True)


def _node(iri: str, fields: Mapping[str, Term]) -> Term:
    return Term(iri, Form.NODE, fields=fields)


def _nodes(iri: str, fields: Mapping[str, Term]) -> Term:
    return Term(iri, Form.NODE, many=True, fields=fields)


_NAME = Term(SCHEMA + "name", elsewhere=True)
_MEMORY = _number(AIG + "memoryBytes")
_ADDRESSES = Term(AIG + "address", many=True)
_BRANCHES = Term(AIG + "branch", Form.REFERENCE, prefix=CAPABILITY, many=True)
_GRID = Term(AIG + "grid", Form.REFERENCE)
_ENGINE = {
    "name": _NAME,
    "version": Term(SCHEMA + "softwareVersion"),
    "formats": Term(AIG + "format", many=True),
}
_DEVICE = {"kind": Term(AIG + "deviceKind"), "name": _NAME, "memoryBytes": _MEMORY}
_FILE = {
    "name": _NAME,
    "sha256": Term(AIG + "sha256"),
    "bytes": _number(DCAT + "byteSize"),
}
_TENSOR = Term(AIG + "tensor")
_TEXT_INPUT = {
    "tokenizer": Term(AIG + "tokenizer"),
    "maxTokens": _number(AIG + "maxTokens"),
    "truncate": Term(AIG + "truncate", Form.TRUTH),
    "ids": Term(AIG + "idsTensor"),
    "mask": Term(AIG + "maskTensor"),
    "types": Term(AIG + "typesTensor"),
    "template": Term(AIG + "template"),
}
_IMAGE_INPUT = {
    "width": _number(SCHEMA + "width"),
    "height": _number(SCHEMA + "height"),
    "tensor": _TENSOR,
    "resize": Term(AIG + "resize"),
    "shorter": _number(AIG + "shorterSide"),
    "resample": Term(AIG + "resample"),
    "channels": Term(AIG + "channels"),
    "layout": Term(AIG + "layout"),
    "divisor": Term(AIG + "divisor"),
    "mean": Term(AIG + "mean", many=True),
    "std": Term(AIG + "std", many=True),
}
_AUDIO_INPUT = {
    "sampleRate": _number(AIG + "sampleRate"),
    "tensor": _TENSOR,
    "windowSamples": _number(AIG + "windowSamples"),
    "contextSamples": _number(AIG + "contextSamples"),
    "rateTensor": Term(AIG + "rateTensor"),
    "stateTensor": Term(AIG + "stateTensor"),
    "stateOutput": Term(AIG + "stateOutput"),
    "stateShape": _numbers(AIG + "stateShape"),
}
_FEATURE = {"name": _NAME, "categories": Term(AIG + "category", many=True)}
_TABLE_INPUT = {
    "features": _nodes(AIG + "feature", _FEATURE),
    "tensor": _TENSOR,
    "window": _number(AIG + "window"),
}
_BYTES_INPUT = {
    "begin": _number(AIG + "beginBytes"),
    "end": _number(AIG + "endBytes"),
    "block": _number(AIG + "blockBytes"),
    "padding": _number(AIG + "padding"),
    "tensor": _TENSOR,
}
_TASK_OUTPUT = {
    "tensor": _TENSOR,
    "labels": Term(AIG + "label", many=True),
    "labelsFile": Term(AIG + "labelsFile"),
    "activation": Term(AIG + "activation"),
    "pooling": Term(AIG + "pooling"),
    "normalize": Term(AIG + "normalize", Form.TRUTH),
    "top": _number(AIG + "top"),
    "threshold": Term(AIG + "threshold"),
    "greaterIsAnomalous": Term(AIG + "greaterIsAnomalous", Form.TRUTH),
}
_MAPPING = {
    "text": _node(AIG + "textInput", _TEXT_INPUT),
    "image": _node(AIG + "imageInput", _IMAGE_INPUT),
    "audio": _node(AIG + "audioInput", _AUDIO_INPUT),
    "table": _node(AIG + "tableInput", _TABLE_INPUT),
    "bytes": _node(AIG + "bytesInput", _BYTES_INPUT),
    "output": _node(AIG + "output", _TASK_OUTPUT),
}
_TENSOR_SPEC = {
    "name": _NAME,
    "datatype": Term(AIG + "datatype"),
    "shape": _numbers(AIG + "shape"),
}
_UPSTREAM = {
    "publisher": Term(DCT + "publisher", Form.REFERENCE),
    "model": Term(AIG + "upstreamModel"),
    "version": Term(SCHEMA + "softwareVersion"),
    "inputs": _nodes(AIG + "inputTensor", _TENSOR_SPEC),
    "outputs": _nodes(AIG + "outputTensor", _TENSOR_SPEC),
}
_DESCRIPTION = {
    "format": Term(AIG + "format"),
    "task": Term(FAIR4ML + "mlTask"),
    "precision": Term(AIG + "precision"),
    "files": _nodes(DCAT + "distribution", _FILE),
    "options": Term(AIG + "option", Form.OPTIONS),
    "mapping": _node(AIG + "mapping", _MAPPING),
    "upstream": _node(AIG + "upstream", _UPSTREAM),
}
_UNDER = Term(AIG + "underManifest", Form.REFERENCE, prefix=RECORD_URN)
_OFFER = {
    "model": Term(AIG + "offersModel", Form.REFERENCE, prefix=MODEL_URN),
    "manifest": _UNDER,
    "state": Term(AIG + "state"),
    "slots": _number(AIG + "slots"),
    "latencyMs": _number(AIG + "latencyMs"),
    "takes": Term(AIG + "takes", many=True),
}
_CHUNK_LIST = {"name": _NAME, "sha256": Term(AIG + "sha256")}
_SEED = {
    "model": Term(AIG + "seedsModel", Form.REFERENCE, prefix=MODEL_URN),
    "manifest": _UNDER,
}
_WANTED = {
    "model": Term(AIG + "wantsModel", Form.REFERENCE, prefix=MODEL_URN),
    "manifest": _UNDER,
    "waiting": _number(AIG + "waiting"),
}
_ACTIONS = Term(ODRL + "action", Form.REFERENCE, prefix=AIG, many=True)
_PURPOSES = Term(AIG + "purpose", many=True)
_REGIONS = Term(AIG + "permittedRegion", many=True)
_PERMISSION = {
    "actions": _ACTIONS,
    "targets": Term(
        ODRL + "target",
        Form.REFERENCE,
        prefix=CAPABILITY,
        many=True,
        words={"*": AIG + "everything"},
    ),
    "purposes": _PURPOSES,
    "regions": _REGIONS,
    "audience": Term(AIG + "audience", Form.REFERENCE, many=True),
    "requestsPerDay": _number(AIG + "requestsPerDay"),
    "tokensPerDay": _number(AIG + "tokensPerDay"),
    "concurrency": _number(AIG + "concurrency"),
}
_RULE = {
    "actions": _ACTIONS,
    "assignees": Term(
        AIG + "assignee",
        Form.REFERENCE,
        many=True,
        words={"members": AIG + "members", "anyone": AIG + "anyone"},
    ),
    "purposes": _PURPOSES,
    "regions": _REGIONS,
    "acceptLicense": Term(AIG + "acceptLicense", Form.TRUTH),
}
_DELEGABLE = _number(AIG + "delegable")
_STATUS_PURPOSE = Term(STATUS + "statusPurpose", elsewhere=True)


def _type_of(name: str) -> Term:
    return Term(RDF + "type", Form.REFERENCE, words={name: STATUS + name}, elsewhere=True)


ENTRY: Final[Mapping[str, Term]] = {
    "type": _type_of("BitstringStatusListEntry"),
    "statusPurpose": _STATUS_PURPOSE,
    "statusListIndex": Term(STATUS + "statusListIndex", elsewhere=True),
    "statusListCredential": Term(STATUS + "statusListCredential", Form.REFERENCE, elsewhere=True),
    "maxStatusAge": _number(AIG + "maxStatusAge"),
}
# What a presentation is bound to. Presentations are no records, and are in no graph.
BINDING: Final[Mapping[str, Term]] = {
    "action": Term(ODRL + "action", Form.REFERENCE, prefix=AIG),
    "model": Term(AIG + "presentedModel"),
    "manifest": Term(AIG + "presentedManifest"),
    "requestHash": Term(AIG + "requestHash"),
    "prefixHash": Term(AIG + "prefixHash"),
    "accepts": Term(AIG + "accepts", many=True),
    "purpose": Term(AIG + "purpose"),
    "peer": Term(AIG + "passedOnBy"),
}
PRESENTATION, REQUEST = AIG + "RequestPresentation", AIG + "request"
WITHDRAWN: Final[Mapping[str, Term]] = {"withdrawn": Term(AIG + "withdrawn", Form.TRUTH)}
TERMS: Final[Mapping[Kind, Mapping[str, Term]]] = {
    Kind.NODE: {
        "protocolVersion": _number(AIG + "protocolVersion"),
        "software": Term(AIG + "software"),
        "addresses": _ADDRESSES,
        "engines": _nodes(AIG + "engine", _ENGINE),
        "devices": _nodes(AIG + "device", _DEVICE),
        "region": Term(AIG + "region"),
        "branches": _BRANCHES,
    },
    Kind.MODEL: {
        "name": _NAME,
        "capabilities": Term(AIG + "capability", Form.REFERENCE, prefix=CAPABILITY, many=True),
        "model": Term(AIG + "description", Form.NODE, fields=_DESCRIPTION),
        "license": Term(SCHEMA + "license"),
        "languages": Term(SCHEMA + "inLanguage", many=True),
        "memoryBytes": _MEMORY,
        "contextTokens": _number(AIG + "contextTokens"),
        "policy": _nodes(AIG + "rule", _RULE),
        "inputs": _nodes(AIG + "inputTensor", _TENSOR_SPEC),
        "outputs": _nodes(AIG + "outputTensor", _TENSOR_SPEC),
        "chunkLists": _nodes(AIG + "chunkList", _CHUNK_LIST),
    },
    Kind.AVAILABILITY: {
        "offers": _nodes(AIG + "offer", _OFFER),
        "branches": _BRANCHES,
        "seeds": _nodes(AIG + "seed", _SEED),
    },
    Kind.DEMAND: {"wanted": _nodes(AIG + "wanted", _WANTED), "branches": _BRANCHES},
    Kind.CAPABILITY: {
        "broader": Term(SKOS + "broader", Form.REFERENCE, prefix=CAPABILITY, many=True),
        "labels": Term(SKOS + "prefLabel", Form.LABELS),
        "inputSchema": Term(AIG + "inputSchema", Form.JSON),
        "outputSchema": Term(AIG + "outputSchema", Form.JSON),
        "parametersSchema": Term(AIG + "parametersSchema", Form.JSON),
    },
    Kind.MEMBERSHIP: {
        "grid": _GRID,
        "role": Term(AIG + "role"),
        "renews": Term(AIG + "renews"),
    },
    Kind.INVITATION: {
        "grid": _GRID,
        "peerId": Term(AIG + "peerId"),
        "addresses": _ADDRESSES,
        "nonce": Term(AIG + "nonce"),
    },
    Kind.ROTATION: {
        "successor": Term(AIG + "successor", Form.REFERENCE),
        "rotated": Term(AIG + "rotated"),
        "successorProof": Term(AIG + "successorProof"),
    },
    Kind.GRANT: {"permission": _node(AIG + "permission", _PERMISSION), "delegable": _DELEGABLE},
    Kind.DELEGATION: {
        "parent": Term(AIG + "parent", Form.REFERENCE, prefix=RECORD_URN),
        "permission": _node(AIG + "permission", _PERMISSION),
        "delegable": _DELEGABLE,
        "onBehalf": Term(AIG + "onBehalf", Form.TRUTH),
    },
    Kind.STATUS_LIST: {
        "type": _type_of("BitstringStatusList"),
        "statusPurpose": _STATUS_PURPOSE,
        "encodedList": Term(STATUS + "encodedList", datatype=SEC + "multibase", elsewhere=True),
    },
    Kind.STATUS_DELEGATION: {
        "delegates": Term(AIG + "delegate", Form.REFERENCE, many=True),
        "quorum": _number(AIG + "quorum"),
    },
    Kind.RECEIPT: {
        "requestId": Term(AIG + "requestId"),
        "model": Term(AIG + "servedModel", Form.REFERENCE, prefix=MODEL_URN),
        "manifest": Term(AIG + "underManifest", Form.REFERENCE, prefix=RECORD_URN),
        "requestHash": Term(AIG + "requestHash"),
        "prefixHash": Term(AIG + "prefixHash"),
        "outputHash": Term(AIG + "outputHash"),
        "promptTokens": _number(AIG + "promptTokens"),
        "completionTokens": _number(AIG + "completionTokens"),
        "began": Term(PROV + "startedAtTime", datatype=XSD + "dateTime"),
        "ended": Term(PROV + "endedAtTime", datatype=XSD + "dateTime"),
        "reason": Term(AIG + "endReason"),
        "presentation": Term(AIG + "presentation"),
        "credentials": Term(AIG + "reliedOn", Form.REFERENCE, prefix=RECORD_URN, many=True),
    },
}
# Of these kinds some names mean other things elsewhere: they are defined under the kind's name.
SCOPED: Final = frozenset({Kind.RECEIPT})
OPTION_NAME, OPTION_VALUE = SCHEMA + "propertyID", SCHEMA + "value"
EMPTY = AIG + "empty"


def kind_iri(kind: Kind) -> str:
    """The class of the records of a kind."""
    return (STATUS if kind is Kind.STATUS_LIST else AIG) + kind.value


def graph_iri(content_id: str) -> str:
    """The IRI of a record: of its credential, and of the named graph that holds its triples."""
    return RECORD_URN + content_id
