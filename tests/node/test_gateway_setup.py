"""What the gateway is told of the node around it."""

from types import SimpleNamespace
from typing import Any

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.gateway_setup import _broader, certified
from aigrid.node.network.tcp import addresses_of
from aigrid.protocol.kinds import CapabilityBody

OWN = "https://example.org/tasks#own"


def test_what_was_above_a_capability_is_so_no_longer_than_its_record() -> None:
    concepts = LiveConcepts(default_taxonomy())
    concepts.put(CapabilityBody(id=OWN, broader=("fill-mask",), labels={"en": "own"}), 1000)
    clock = [999]
    index = SimpleNamespace(concepts=concepts)
    node: Any = SimpleNamespace(graph=SimpleNamespace(index=index), now_ms=lambda: clock[0])
    assert "fill-mask" in _broader(node, OWN)
    clock[0] = 1000
    assert _broader(node, OWN) == []
    assert _broader(node, "fill-mask") != []


def test_a_gateway_on_all_addresses_is_certified_for_those_of_the_machine() -> None:
    assert certified("192.0.2.1") == (("192.0.2.1",), ())
    names, own = certified("0.0.0.0")
    assert names == ()
    assert list(own) == addresses_of("0.0.0.0")[: len(own)]
    assert "127.0.0.1" in own
    assert set(own) <= set(certified("::")[1])
    assert "0.0.0.0" not in own
