"""Which RDF term stands for which field of a record: one table.

The mapping to quads, the JSON-LD context and the SHACL shapes all follow it (the last two are made
by `scripts/vocabulary.py`).
"""

from collections.abc import Mapping
from typing import Final

from aigrid.metagraph.term import (
    AIG,
    CAPABILITY,
    CRED,
    DCAT,
    DCT,
    FAIR4ML,
    ODRL,
    PREFIXES,
    PROV,
    RDF,
    SCHEMA,
    SEC,
    SKOS,
    STATUS,
    XSD,
    Form,
    Term,
    node,
    nodes,
    number,
    numbers,
)
from aigrid.protocol.kinds import Kind
from aigrid.protocol.model import MODEL_URN

__all__ = [
    "AIG",
    "BINDING",
    "CAPABILITY",
    "CRED",
    "DCAT",
    "DCT",
    "EMPTY",
    "ENTRY",
    "FAIR4ML",
    "FREELY_NAMED",
    "ODRL",
    "OPTION_NAME",
    "OPTION_VALUE",
    "PREFIXES",
    "PRESENTATION",
    "PROV",
    "PROVENANCE",
    "RDF",
    "RECORD_URN",
    "REQUEST",
    "SCHEMA",
    "SCOPED",
    "SEC",
    "SKOS",
    "STATUS",
    "TERMS",
    "VOCABULARY",
    "WITHDRAWN",
    "XSD",
    "Form",
    "Term",
    "graph_iri",
    "kind_iri",
]

RECORD_URN: Final = "urn:aigrid:record:"
PROVENANCE: Final = AIG + "provenance"
VOCABULARY: Final = AIG + "vocabulary"

_NAME = Term(SCHEMA + "name", elsewhere=True)
_MEMORY = number(AIG + "memoryBytes")
_ADDRESSES = Term(AIG + "address", many=True)
_BRANCHES = Term(AIG + "branch", Form.REFERENCE, prefix=CAPABILITY, many=True)
_CAPABILITIES = Term(AIG + "capability", Form.REFERENCE, prefix=CAPABILITY, many=True)
_CAPABILITY = Term(AIG + "capability", Form.REFERENCE, prefix=CAPABILITY)
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
    "bytes": number(DCAT + "byteSize"),
}
_TENSOR = Term(AIG + "tensor")
_TEXT_INPUT = {
    "tokenizer": Term(AIG + "tokenizer"),
    "maxTokens": number(AIG + "maxTokens"),
    "truncate": Term(AIG + "truncate", Form.TRUTH),
    "ids": Term(AIG + "idsTensor"),
    "mask": Term(AIG + "maskTensor"),
    "types": Term(AIG + "typesTensor"),
    "template": Term(AIG + "template"),
}
_IMAGE_INPUT = {
    "width": number(SCHEMA + "width"),
    "height": number(SCHEMA + "height"),
    "tensor": _TENSOR,
    "resize": Term(AIG + "resize"),
    "shorter": number(AIG + "shorterSide"),
    "resample": Term(AIG + "resample"),
    "channels": Term(AIG + "channels"),
    "layout": Term(AIG + "layout"),
    "divisor": Term(AIG + "divisor"),
    "mean": Term(AIG + "mean", many=True),
    "std": Term(AIG + "std", many=True),
}
_AUDIO_INPUT = {
    "sampleRate": number(AIG + "sampleRate"),
    "tensor": _TENSOR,
    "windowSamples": number(AIG + "windowSamples"),
    "contextSamples": number(AIG + "contextSamples"),
    "rateTensor": Term(AIG + "rateTensor"),
    "stateTensor": Term(AIG + "stateTensor"),
    "stateOutput": Term(AIG + "stateOutput"),
    "stateShape": numbers(AIG + "stateShape"),
}
_FEATURE = {"name": _NAME, "categories": Term(AIG + "category", many=True)}
_TABLE_INPUT = {
    "features": nodes(AIG + "feature", _FEATURE),
    "tensor": _TENSOR,
    "window": number(AIG + "window"),
}
_BYTES_INPUT = {
    "begin": number(AIG + "beginBytes"),
    "end": number(AIG + "endBytes"),
    "block": number(AIG + "blockBytes"),
    "padding": number(AIG + "padding"),
    "tensor": _TENSOR,
}
_TASK_OUTPUT = {
    "tensor": _TENSOR,
    "labels": Term(AIG + "label", many=True),
    "labelsFile": Term(AIG + "labelsFile"),
    "activation": Term(AIG + "activation"),
    "pooling": Term(AIG + "pooling"),
    "normalize": Term(AIG + "normalize", Form.TRUTH),
    "top": number(AIG + "top"),
    "threshold": Term(AIG + "threshold"),
    "greaterIsAnomalous": Term(AIG + "greaterIsAnomalous", Form.TRUTH),
}
_MAPPING = {
    "text": node(AIG + "textInput", _TEXT_INPUT),
    "image": node(AIG + "imageInput", _IMAGE_INPUT),
    "audio": node(AIG + "audioInput", _AUDIO_INPUT),
    "table": node(AIG + "tableInput", _TABLE_INPUT),
    "bytes": node(AIG + "bytesInput", _BYTES_INPUT),
    "output": node(AIG + "output", _TASK_OUTPUT),
}
_TENSOR_SPEC = {
    "name": _NAME,
    "datatype": Term(AIG + "datatype"),
    "shape": numbers(AIG + "shape"),
}
_UPSTREAM = {
    "publisher": Term(DCT + "publisher", Form.REFERENCE),
    "model": Term(AIG + "upstreamModel"),
    "version": Term(SCHEMA + "softwareVersion"),
    "inputs": nodes(AIG + "inputTensor", _TENSOR_SPEC),
    "outputs": nodes(AIG + "outputTensor", _TENSOR_SPEC),
}
_DESCRIPTION = {
    "format": Term(AIG + "format"),
    "task": Term(FAIR4ML + "mlTask"),
    "precision": Term(AIG + "precision"),
    "files": nodes(DCAT + "distribution", _FILE),
    "options": Term(AIG + "option", Form.OPTIONS),
    "mapping": node(AIG + "mapping", _MAPPING),
    "upstream": node(AIG + "upstream", _UPSTREAM),
}
_UNDER = Term(AIG + "underManifest", Form.REFERENCE, prefix=RECORD_URN)
_OFFER = {
    "model": Term(AIG + "offersModel", Form.REFERENCE, prefix=MODEL_URN),
    "manifest": _UNDER,
    "state": Term(AIG + "state"),
    "slots": number(AIG + "slots"),
    "latencyMs": number(AIG + "latencyMs"),
    "takes": Term(AIG + "takes", many=True),
}
_CHUNK_LIST = {"name": _NAME, "sha256": Term(AIG + "sha256")}
_SERVED = {
    "capability": _CAPABILITY,
    "parameters": Term(AIG + "parameter", Form.CHOICES),
}
_SEED = {
    "model": Term(AIG + "seedsModel", Form.REFERENCE, prefix=MODEL_URN),
    "manifest": _UNDER,
}
_WANTED = {
    "model": Term(AIG + "wantsModel", Form.REFERENCE, prefix=MODEL_URN),
    "manifest": _UNDER,
    "waiting": number(AIG + "waiting"),
}
_FINDING = {
    "model": Term(AIG + "servedModel", Form.REFERENCE, prefix=MODEL_URN),
    "capability": _CAPABILITY,
    "served": number(AIG + "served"),
    "failed": number(AIG + "failed"),
    "latencyMs": number(AIG + "latencyMs"),
    "audited": number(AIG + "audited"),
    "wrong": number(AIG + "wrong"),
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
    "requestsPerDay": number(AIG + "requestsPerDay"),
    "tokensPerDay": number(AIG + "tokensPerDay"),
    "concurrency": number(AIG + "concurrency"),
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
_DELEGABLE = number(AIG + "delegable")
_STATUS_PURPOSE = Term(STATUS + "statusPurpose", elsewhere=True)


def _type_of(name: str) -> Term:
    return Term(RDF + "type", Form.REFERENCE, words={name: STATUS + name}, elsewhere=True)


ENTRY: Final[Mapping[str, Term]] = {
    "type": _type_of("BitstringStatusListEntry"),
    "statusPurpose": _STATUS_PURPOSE,
    "statusListIndex": Term(STATUS + "statusListIndex", elsewhere=True),
    "statusListCredential": Term(STATUS + "statusListCredential", Form.REFERENCE, elsewhere=True),
    "maxStatusAge": number(AIG + "maxStatusAge"),
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
        "protocolVersion": number(AIG + "protocolVersion"),
        "software": Term(AIG + "software"),
        "addresses": _ADDRESSES,
        "engines": nodes(AIG + "engine", _ENGINE),
        "devices": nodes(AIG + "device", _DEVICE),
        "region": Term(AIG + "region"),
        "branches": _BRANCHES,
    },
    Kind.MODEL: {
        "name": _NAME,
        "capabilities": _CAPABILITIES,
        "model": Term(AIG + "description", Form.NODE, fields=_DESCRIPTION),
        "license": Term(SCHEMA + "license"),
        "languages": Term(SCHEMA + "inLanguage", many=True),
        "memoryBytes": _MEMORY,
        "contextTokens": number(AIG + "contextTokens"),
        "policy": nodes(AIG + "rule", _RULE),
        "inputs": nodes(AIG + "inputTensor", _TENSOR_SPEC),
        "outputs": nodes(AIG + "outputTensor", _TENSOR_SPEC),
        "chunkLists": nodes(AIG + "chunkList", _CHUNK_LIST),
        "serves": nodes(AIG + "serves", _SERVED),
    },
    Kind.AVAILABILITY: {
        "offers": nodes(AIG + "offer", _OFFER),
        "branches": _BRANCHES,
        "seeds": nodes(AIG + "seed", _SEED),
    },
    Kind.DEMAND: {"wanted": nodes(AIG + "wanted", _WANTED), "branches": _BRANCHES},
    Kind.CAPABILITY: {
        "broader": Term(SKOS + "broader", Form.REFERENCE, prefix=CAPABILITY, many=True),
        "labels": Term(SKOS + "prefLabel", Form.LABELS),
        "inputSchema": Term(AIG + "inputSchema", Form.JSON),
        "outputSchema": Term(AIG + "outputSchema", Form.JSON),
        "parametersSchema": Term(AIG + "parametersSchema", Form.JSON),
    },
    Kind.EVALUATION: {
        "model": Term(AIG + "evaluatedModel", Form.REFERENCE, prefix=MODEL_URN),
        "capability": _CAPABILITY,
        "parameters": Term(AIG + "parameter", Form.OPTIONS),
        "metric": Term(AIG + "metric"),
        "dataset": Term(AIG + "dataset"),
        "items": number(AIG + "items"),
        **{end: Term(AIG + end, datatype=XSD + "decimal") for end in ("value", "low", "high")},
    },
    Kind.AUDIT: {"findings": nodes(AIG + "finding", _FINDING)},
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
    Kind.GRANT: {"permission": node(AIG + "permission", _PERMISSION), "delegable": _DELEGABLE},
    Kind.DELEGATION: {
        "parent": Term(AIG + "parent", Form.REFERENCE, prefix=RECORD_URN),
        "permission": node(AIG + "permission", _PERMISSION),
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
        "quorum": number(AIG + "quorum"),
    },
    Kind.RECEIPT: {
        "requestId": Term(AIG + "requestId"),
        "model": Term(AIG + "servedModel", Form.REFERENCE, prefix=MODEL_URN),
        "manifest": Term(AIG + "underManifest", Form.REFERENCE, prefix=RECORD_URN),
        "requestHash": Term(AIG + "requestHash"),
        "prefixHash": Term(AIG + "prefixHash"),
        "outputHash": Term(AIG + "outputHash"),
        "promptTokens": number(AIG + "promptTokens"),
        "completionTokens": number(AIG + "completionTokens"),
        "began": Term(PROV + "startedAtTime", datatype=XSD + "dateTime"),
        "ended": Term(PROV + "endedAtTime", datatype=XSD + "dateTime"),
        "reason": Term(AIG + "endReason"),
        "presentation": Term(AIG + "presentation"),
        "credentials": Term(AIG + "reliedOn", Form.REFERENCE, prefix=RECORD_URN, many=True),
    },
}
# Of these kinds some names mean other things elsewhere: they are defined under the kind's name.
SCOPED: Final = frozenset({Kind.EVALUATION, Kind.RECEIPT})
FREELY_NAMED: Final = frozenset({Form.OPTIONS, Form.CHOICES})
OPTION_NAME, OPTION_VALUE = SCHEMA + "propertyID", SCHEMA + "value"
EMPTY = AIG + "empty"


def kind_iri(kind: Kind) -> str:
    """The class of the records of a kind."""
    return (STATUS if kind is Kind.STATUS_LIST else AIG) + kind.value


def graph_iri(content_id: str) -> str:
    """The IRI of a record: of its credential, and of the named graph that holds its triples."""
    return RECORD_URN + content_id
