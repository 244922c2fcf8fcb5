"""What `convergence.py` publishes, and what it asks: 25 questions whose answers depend on it."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from aigrid.node.control_client import ControlClient
from aigrid.node.daemon import wall_ms
from aigrid.protocol.errors import AigridError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, ModelBody
from aigrid.protocol.limits import DAY
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.record import build

Call = tuple[str, dict[str, Any]]
SHIPPED = ("text-generation", "translation", "summarization", "image-to-text", "text-to-speech")
WIDER = ("text", "multimodal", "audio", "vision")
LICENSES = ("Apache-2.0", "MIT", "CC-BY-4.0", "")
PREFIXES = "".join(
    f"PREFIX {name}: <{iri}> "
    for name, iri in {
        "aig": "https://w3id.org/aigrid/ns#",
        "cap": "https://w3id.org/aigrid/capability/",
        "prov": "http://www.w3.org/ns/prov#",
        "schema": "https://schema.org/",
        "skos": "http://www.w3.org/2004/02/skos/core#",
    }.items()
)
SPARQL = (
    (
        "SELECT ?who (COUNT(*) AS ?n) { ?r a aig:CapabilityRecord ; prov:wasAttributedTo ?who }"
        " GROUP BY ?who"
    ),
    "SELECT ?c ?label { ?c skos:broader+ cap:text ; skos:prefLabel ?label }",
    "SELECT ?c ?label { ?c skos:broader+ cap:multimodal ; skos:prefLabel ?label }",
    "SELECT ?c ?above { GRAPH ?r { ?c skos:broader ?above } ?r a aig:CapabilityRecord }",
    "SELECT ?license (COUNT(DISTINCT ?m) AS ?n) { ?m schema:license ?license } GROUP BY ?license",
    "SELECT (SUM(?bytes) AS ?all) { ?m aig:capability ?c ; aig:memoryBytes ?bytes }",
    "SELECT ?m { ?m aig:capability/skos:broader* cap:text ; schema:inLanguage 'de' }",
    "SELECT ?m ?name { ?m aig:capability cap:translation ; schema:name ?name }",
    "SELECT ?node (COUNT(?o) AS ?n) { ?node aig:offer ?o } GROUP BY ?node",
    (
        "SELECT ?node ?m ?signer { ?m aig:capability/skos:broader* cap:text ."
        " ?o aig:offersModel ?m ; aig:state 'warm' . GRAPH ?r { ?node aig:offer ?o }"
        " ?r prov:wasAttributedTo ?signer }"
    ),
    "SELECT (COUNT(*) AS ?n) { ?c skos:prefLabel ?label FILTER(STRSTARTS(?label, 'Renamed')) }",
    "SELECT ?r ?m { GRAPH ?r { ?m aig:capability ?c } ?r a aig:ModelManifest }",
    "ASK { ?c skos:prefLabel ?label FILTER(LANG(?label) = 'de') }",
    "SELECT ?kind (COUNT(?r) AS ?n) { ?r a ?kind ; prov:wasAttributedTo ?who } GROUP BY ?kind",
)


@dataclass
class Publisher:
    """What one node has said so far; `next` is one more thing, as a call of its control socket."""

    name: str
    identity: Identity
    folder: Path
    capabilities: list[str] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)
    served: list[str] = field(default_factory=list)

    def next(self, rng: random.Random, number: int) -> tuple[str, Call]:
        """The key under which it is said, and the call."""
        standing = self._standing()
        drawn = rng.random()
        if drawn < 0.25:
            return self._manifest(rng, number)
        if drawn < 0.35:
            return self._model(rng, number)
        if drawn < 0.4 and self.served:
            model = self.served.pop()
            return f"serves {self.name} {model}", ("withdraw", {"model": model})
        if drawn < 0.5 and standing:
            name = rng.choice(standing)
            self.withdrawn.add(name)
            return f"capability {self.name} {name}", ("capability_withdraw", {"name": name})
        if drawn < 0.6 and standing:
            return self._capability(rng, rng.choice(standing), f"Renamed {number}")
        self.capabilities.append(f"c{number}")
        return self._capability(rng, f"c{number}", f"Capability {number}")

    def _standing(self) -> list[str]:
        """Capabilities under which a node lets models be published."""
        return [name for name in self.capabilities if name not in self.withdrawn]

    def _capability(self, rng: random.Random, name: str, label: str) -> tuple[str, Call]:
        about = {
            "name": name,
            "broader": [rng.choice(SHIPPED)],
            "labels": {rng.choice(("en", "de")): label},
        }
        return f"capability {self.name} {name}", ("capability_publish", about)

    def _manifest(self, rng: random.Random, number: int) -> tuple[str, Call]:
        own = [f"{self.identity.did}#{name}" for name in self.capabilities]
        about = ModelDescription("echo", "text-generation", (), options={"number": number})
        model = model_id(about)
        body = ModelBody(
            id=MODEL_URN + model,
            name=f"m{number}",
            capabilities=(rng.choice(SHIPPED), *rng.sample(own, min(1, len(own)))),
            model=about,
            license=rng.choice(LICENSES),
            languages=(rng.choice(("en", "de")),),
            memory_bytes=rng.randrange(1 << 30),
        )
        return f"model {self.name} {model}", self._signed(Kind.MODEL, body, DAY)

    def _model(self, rng: random.Random, number: int) -> tuple[str, Call]:
        """A file that the node can serve: it signs a manifest and offers it."""
        name = f"served{number}"
        path = self.folder / f"{name}.onnx"
        path.write_bytes(tiny_onnx(number))
        own = [f"{self.identity.did}#{capability}" for capability in self._standing()]
        self.served.append(name)
        about = {"path": str(path), "name": name, "capability": rng.choice((*SHIPPED, *own[-1:]))}
        return f"serves {self.name} {name}", ("publish", about)

    def _signed(self, kind: Kind, body: Any, seconds: int) -> Call:
        """As the node's operator would, with its key; the node verifies it like any other."""
        now_ms = wall_ms()
        record = build(
            kind, body, self.identity, valid_from_ms=now_ms, valid_until_ms=now_ms + seconds * 1000
        )
        return "record_import", {"raw": record.raw.decode("utf-8")}


def tiny_onnx(number: int) -> bytes:
    """y = x + number."""
    add = helper.make_node("Add", ["x", "n"], ["y"])
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    held = [helper.make_tensor("n", TensorProto.FLOAT, [1], [float(number)])]
    graph = helper.make_graph([add], "g", shapes[:1], shapes[1:], initializer=held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def questions(published: list[str]) -> list[tuple[str, Callable[[ControlClient], str]]]:
    """The 25: eleven of the index, fourteen in SPARQL. `published` are two capabilities' IRIs."""
    index: list[Call] = [("find", {"capability": c}) for c in (*SHIPPED, *WIDER, *published)]
    sparql: list[Call] = [("query", {"query": PREFIXES + text}) for text in SPARQL]
    return [
        (f"{method} {sorted(params.values())}", partial(_ask, (method, params)))
        for method, params in (*index, *sparql)
    ]


def _ask(call: Call, client: ControlClient) -> str:
    """A canonical answer: rows in order, since neither dialect promises one."""
    try:
        answer = client.call(*call)
    except AigridError as error:
        return error.code.value
    if "candidates" in answer:
        return _in_order(answer["candidates"])
    found = json.loads(answer["text"])
    return str(found["boolean"]) if "boolean" in found else _in_order(found["results"]["bindings"])


def _in_order(rows: list[Any]) -> str:
    return "\n".join(sorted(json.dumps(row, sort_keys=True) for row in rows))
