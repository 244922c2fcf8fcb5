"""Models from a hub, with huggingface_hub itself in its process, against a hub of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from tests.node.mesh.hub_server import REVISION, HubServer, serving

from aigrid.node.mesh import hub_child
from aigrid.node.mesh.hub import Hub, ask_child
from aigrid.node.mesh.hub_child import Order, Word
from aigrid.node.mesh.model_copy import in_thread, inline, no_progress
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS

WEIGHTS = bytes(range(256)) * 20_480  # 5 MiB


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "remote"
    (folder / "1_Pooling").mkdir(parents=True)
    for name, data in (
        ("model.safetensors", WEIGHTS),
        ("config.json", b"{}"),
        ("1_Pooling/config.json", b"{}"),
        ("pytorch_model.bin", b"\x80\x02."),
    ):
        (folder / name).write_bytes(data)
    with serving(HubServer("org/name", folder)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("AIGRID_SECRET", "not for the hub")
        yield hub


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "downloads", run_blocking=in_thread)


async def refused(hub: Hub, source: str = "org/name") -> AigridError:
    with pytest.raises(AigridError) as caught:
        await hub.fetch(await hub.list(source), no_progress)
    return caught.value


async def test_what_is_wanted_comes_and_nothing_else(remote: HubServer, hub: Hub) -> None:
    said: list[str] = []

    async def progress(text: str) -> None:
        await trio.lowlevel.checkpoint()
        said.append(text)

    listing = await hub.list("org/name")
    assert listing.wanted.revision == REVISION
    assert listing.missing_bytes == len(WEIGHTS) + 4
    await hub.fetch(listing, progress, token="hf_secret")
    brought = {
        path.relative_to(listing.folder).as_posix()
        for path in listing.folder.rglob("*")
        if path.is_file()
    }
    assert brought == {"model.safetensors", "config.json", "1_Pooling/config.json"}
    assert listing.path == listing.folder
    assert listing.sha256(listing.folder / "model.safetensors")
    assert listing.sha256(listing.folder / "config.json") == ""
    assert "Bearer hf_secret" in remote.tokens
    again = await hub.list(str(listing.wanted))
    assert again.missing_bytes == 0
    await hub.forget(again)
    assert not listing.folder.exists()


async def test_a_download_goes_on_where_it_was_stopped(remote: HubServer, hub: Hub) -> None:
    remote.held_bytes = 2_500_000
    listing = await hub.list("org/name")
    with trio.CancelScope() as scope:

        async def stop(_: str) -> None:
            await trio.lowlevel.checkpoint()
            scope.cancel()

        await hub.fetch(listing, stop)
    assert scope.cancelled_caught
    assert remote.ranges == []
    remote.held_bytes = -1
    await hub.fetch(listing, no_progress)
    assert (listing.folder / "model.safetensors").read_bytes() == WEIGHTS
    (again,) = remote.ranges
    assert int(again.removeprefix("bytes=").rstrip("-")) >= 2 << 20
    assert (await hub.list("org/name")).missing_bytes == 0


@pytest.mark.parametrize(
    ("source", "gated", "code"),
    [
        ("org/other", False, Code.MODEL_NOT_FOUND),
        ("org/name", True, Code.DENIED),
        ("nonsense", False, Code.USAGE),
    ],
)
async def test_what_is_not_to_be_had_says_why(
    remote: HubServer, hub: Hub, source: str, gated: bool, code: Code
) -> None:
    remote.gated = gated
    assert (await refused(hub, source)).code is code


async def test_a_hub_that_is_not_there_is_unreachable(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert (await refused(hub)).code is Code.UNREACHABLE


async def test_a_cancel_ends_the_process(remote: HubServer, tmp_path: Path) -> None:
    """Its standard output is closed only when it is gone, and the cancel waits for that."""
    order = Order("list", "org/name")
    with trio.move_on_after(0.01) as scope:
        await ask_child(order, hear)
    assert scope.cancelled_caught


async def hear(_: Word) -> None:
    await trio.lowlevel.checkpoint()


class Scripted:
    """A child that says what it is told to."""

    def __init__(self, last: Word, *, pauses: tuple[float, ...] = ()) -> None:
        self.last = last
        self.pauses = pauses

    async def __call__(self, order: Order, hear) -> Word:
        if order.do == "fetch":
            for n, pause in enumerate(self.pauses):
                await trio.sleep(pause)
                await hear(Word(bytes=n))
        return self.last


def listed(*names: str, revision: str = REVISION) -> Word:
    files = tuple(hub_child.Listed(name, 10) for name in names)
    return Word(revision=revision, files=files, done=True)


def scripted(tmp_path: Path, child: Scripted) -> Hub:
    return Hub(tmp_path / "downloads", run_blocking=inline, ask=child)


async def test_silence_ends_a_download_and_progress_does_not(tmp_path, autojump_clock) -> None:
    slow = (LIMITS.hub_silence_seconds - 1,) * 10
    last = listed("model.safetensors")
    hub = scripted(tmp_path, Scripted(last, pauses=slow))
    await hub.fetch(await hub.list("org/name"), no_progress)
    hub = scripted(tmp_path, Scripted(last, pauses=(LIMITS.hub_silence_seconds + 1,)))
    assert (await refused(hub)).code is Code.UNREACHABLE


async def test_names_that_lead_elsewhere_are_not_asked_for(tmp_path, autojump_clock) -> None:
    bad = ("../config.json", "/etc/model.safetensors", "a/../../model.onnx", "model.safetensors\0")
    hub = scripted(tmp_path, Scripted(listed(*bad, "model.safetensors")))
    assert set((await hub.list("org/name")).choice.files) == {"model.safetensors"}


@pytest.mark.parametrize("revision", ["", "../../x", "main/..", "x" * 100])
async def test_a_revision_that_is_none_is_refused(tmp_path, autojump_clock, revision) -> None:
    hub = scripted(tmp_path, Scripted(listed("model.safetensors", revision=revision)))
    assert (await refused(hub)).code is Code.UNREACHABLE
