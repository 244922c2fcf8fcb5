"""`--serves` as a person writes it, and as a manifest keeps it."""

from typing import Any

import pytest
import trio
from hypothesis import given
from msgspec import UNSET
from tests.protocol.strategies import ALICE, NOW_MS, serves
from tests.simulation.harness import Simulation

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.commands.serves import parse_serves, serves_said
from aigrid.protocol.errors import UsageError
from aigrid.protocol.kinds import CapabilityBody, Served

CONCEPTS = LiveConcepts(default_taxonomy())
LEGAL = f"{ALICE.did}#legal-translation"
CONCEPTS.put(CapabilityBody(id=LEGAL, broader=("translation",), labels={"en": "x"}), NOW_MS + 1000)


def test_what_is_said_of_one_capability_is_put_together_in_order():
    given_ = ("translation:source=en,target=fr", "translation:target=de", f"{LEGAL}:source=en")
    assert parse_serves(given_, CONCEPTS, NOW_MS) == (
        Served(LEGAL, {"source": ("en",)}),
        Served("translation", {"source": ("en",), "target": ("de", "fr")}),
    )
    assert parse_serves((), CONCEPTS, NOW_MS) is UNSET


@pytest.mark.parametrize(
    "text",
    [
        "",
        "translation",
        "translation:source",
        "source=en",
        "poetry:source=en",
        "translation:=en",
        "translation:source=",
        "translation:Source=en",
        "translation:source=en,",
        "translation:source=a\x1b[31m",
        "translation:" + ",".join(f"p{n}=x" for n in range(9)),
        "translation:" + ",".join(f"p=x{n}" for n in range(65)),
    ],
)
def test_what_a_manifest_cannot_state_is_refused(text):
    with pytest.raises(UsageError):
        parse_serves((text,), CONCEPTS, NOW_MS)


@given(serves)
def test_what_was_published_is_shown_as_it_is_written(known):
    plain = tuple(one for one in known if CONCEPTS.known(one.capability, NOW_MS))
    shown = serves_said(plain)
    assert shown is not None
    if all("," not in text.partition(":")[2] for text in shown):
        assert parse_serves(tuple(shown), CONCEPTS, NOW_MS) == (plain or UNSET)


async def test_a_manifest_keeps_what_it_served_until_something_else_is_said(
    tmp_path, autojump_clock
):
    served = (Served("text-generation", {"language": ("en",)}),)
    async with trio.open_nursery() as nursery:
        sim = Simulation(3, tmp_path, nursery)
        node = (await sim.start("a")).node

        def said() -> Any:
            manifest = node.hosting.manifest(model)
            assert manifest is not None
            return getattr(manifest.body, "serves", None)

        model = await sim.publish_echo("a", "parrot", serves=served)
        await sim.publish_echo("a", "parrot")
        assert said() == served
        await sim.publish_echo("a", "parrot", serves=())
        assert said() == ()
        nursery.cancel_scope.cancel()
