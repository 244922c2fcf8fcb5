"""What is shown of a model behind a server is what is published. In virtual time."""

from typing import ClassVar

import pytest
import trio
from tests.node.commands.test_commands import Console
from tests.node.mesh.shelf.test_watch import Behind
from tests.simulation.harness import Simulation

from aigrid.engines.base import Served
from aigrid.node.workers import inline as inline_workers
from aigrid.protocol.errors import AigridError, Code

ADDRESS = {"url": "openai+http://gpu.example:8000/v1", "model": "parrot:latest"}


class Renaming(Behind):
    """A server that calls a model otherwise than it was asked for."""

    name = "openai_api"
    version: ClassVar[str] = "v1"

    def discover(self, endpoint, model):
        return (Served("parrot-7b", self.version, 4096),)


@pytest.fixture
async def console(tmp_path, monkeypatch):
    monkeypatch.setattr(inline_workers, "ENGINES", {"openai_api": Renaming})
    async with trio.open_nursery() as nursery:
        yield Console((await Simulation(12, tmp_path, nursery).start("a")).node)
        nursery.cancel_scope.cancel()


async def test_the_name_that_is_shown_is_published(console, autojump_clock):
    shown = await console("propose_upstream", **ADDRESS)
    assert (shown["name"], shown["upstream_model"]) == ("parrot-7b", "parrot-7b")
    published = await console("publish_upstream", **ADDRESS, confirmed=shown["proposal"])
    assert published["name"] == "parrot-7b"


async def test_what_is_no_longer_as_shown_is_not_published(console, autojump_clock, monkeypatch):
    shown = await console("propose_upstream", **ADDRESS)
    monkeypatch.setattr(Renaming, "version", "v2")
    agreed = {**ADDRESS, "confirmed": shown["proposal"]}
    assert await console.refused("publish_upstream", **agreed) is Code.HASH_MISMATCH
    assert console.node.hosting.offers() == ()


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"languages": ["not a tag"]}, "BCP 47"),
        ({"name": "n" * 97}, "--name"),
        ({"license": "two\nlines"}, "--license"),
    ],
)
async def test_what_cannot_be_signed_is_not_proposed(console, autojump_clock, wrong, mend):
    for method in ("propose_upstream", "publish_upstream"):
        with pytest.raises(AigridError, match=mend) as caught:
            await console(method, **ADDRESS, **wrong)
        assert caught.value.code is Code.USAGE
