"""Models from a hub, with huggingface_hub itself in its process, against a hub of our own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from tests.node.mesh.shelf.hub_server import REVISION, HubServer, serving

from aigrid.node.mesh.shelf import hub as hub_module
from aigrid.node.mesh.shelf import hub_child, hub_process
from aigrid.node.mesh.shelf.copying import in_thread, inline, no_progress
from aigrid.node.mesh.shelf.hub import Hub
from aigrid.node.mesh.shelf.hub_child import Order, Word
from aigrid.node.mesh.shelf.hub_process import ask_child
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


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch engine, tested before in the same process, went offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


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


async def test_offline_by_choice_is_said_so(
    remote: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = await refused(hub)
    assert error.code is Code.ENVIRONMENT
    assert "HF_HUB_OFFLINE" in error.message


async def test_a_hub_that_is_not_there_is_unreachable(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert (await refused(hub)).code is Code.UNREACHABLE


async def test_a_cancel_ends_the_process(
    remote: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = hub_process._start

    def remembered(command):
        process, stream = start(command)
        started.append(process.pid)
        return process, stream

    monkeypatch.setattr(hub_process, "_start", remembered)
    remote.held_list = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_child, Order("list", "org/name"), hear)
        assert await trio.to_thread.run_sync(remote.asked.wait, 30)
        nursery.cancel_scope.cancel()
    (pid,) = started
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await trio.to_thread.run_sync(remote.left.wait, 10)  # and not because it gave up


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_the_process_ends_with_a_node_that_is_killed(remote: HubServer) -> None:
    node = (
        "import trio; from tests.node.mesh.shelf.test_hub import hear; "
        "from aigrid.node.mesh.shelf.hub_process import ask_child; from aigrid.node.mesh.shelf.hub_child import Order; "
        "trio.run(ask_child, Order('list', 'org/name'), hear)"
    )
    remote.held_list = True
    process = subprocess.Popen([sys.executable, "-c", node])
    try:
        assert remote.asked.wait(30)
        assert not remote.left.is_set()
    finally:
        process.kill()
        process.wait()
    assert remote.left.wait(10)


@pytest.mark.parametrize("size_is_said", [True, False])
@pytest.mark.parametrize("way", ["chunked", "gzip"])
async def test_more_than_was_listed_is_not_written(
    remote: HubServer, hub: Hub, way: str, size_is_said: bool
) -> None:
    remote.swollen = way
    remote.head_bytes = 0 if size_is_said else -1
    error = await refused(hub)
    assert error.code is Code.HASH_MISMATCH
    assert "more" in error.message
    listing = await hub.list("org/name")
    assert not [*listing.folder.rglob("model.safetensors*")]


async def test_another_size_than_was_listed_is_not_asked_for(remote: HubServer, hub: Hub) -> None:
    remote.head_bytes = len(WEIGHTS) + 1
    error = await refused(hub)
    assert error.code is Code.HASH_MISMATCH
    assert str(len(WEIGHTS)) in error.message
    assert remote.sent == []


async def test_a_size_that_is_not_repeated_is_the_listed_one(remote: HubServer, hub: Hub) -> None:
    remote.head_bytes = -1
    await hub.fetch(await hub.list("org/name"), no_progress)
    assert (await hub.list("org/name")).missing_bytes == 0


def test_the_system_refuses_a_larger_file_too(tmp_path: Path) -> None:
    program = (
        "import sys; from aigrid.node.mesh.shelf.hub_child import bound_files; bound_files(2 << 20)\n"
        "with open(sys.argv[1], 'wb', buffering=0) as file:\n"
        "    file.write(bytes(2 << 20))\n"
        "    file.write(b'x')\n"
    )
    path = tmp_path / "large"
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert "File too large" in ended.stderr
    assert path.stat().st_size == 2 << 20


async def test_a_list_without_end_is_refused(remote: HubServer, hub: Hub) -> None:
    remote.invented = LIMITS.hub_files_max
    error = await refused(hub)
    assert error.code is Code.UNSUPPORTED_MODEL
    assert str(LIMITS.hub_files_max) in error.message


async def test_two_that_want_the_same_bring_it_once(remote: HubServer, hub: Hub) -> None:
    said: list[str] = []

    async def progress(text: str) -> None:
        await trio.lowlevel.checkpoint()
        said.append(text)

    listing = await hub.list("org/name")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.fetch, listing, progress)
        nursery.start_soon(hub.fetch, listing, progress)
    assert remote.sent == ["model.safetensors"]
    assert (listing.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert "waiting: org/name is being downloaded already" in said


async def test_what_is_forgotten_takes_nothing_else_with_it(remote: HubServer, hub: Hub) -> None:
    for name in ("a.gguf", "b.gguf"):
        (remote.folder / name).write_bytes(b"GGUF")
    one, other = [await hub.list(f"org/name:{tag}") for tag in ("a", "b")]
    for listing in (one, other):
        await hub.fetch(listing, no_progress)
    stranger = one.folder / "kept"
    stranger.write_bytes(b"not of this choice")
    begun = one.folder / f"a.gguf{hub_child.PART}"
    begun.write_bytes(b"GG")
    await hub.forget(one)
    assert [*one.folder.rglob("*")] == [stranger]
    assert (await hub.list("org/name:b")).missing_bytes == 0
    assert (await hub.list("org/name:a")).missing_bytes == one.missing_bytes


async def test_an_old_download_is_swept_and_a_new_one_stays(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "downloads", run_blocking=inline)
    await hub.sweep(0)
    now = 1_800_000_000
    choices = {age: tmp_path / "downloads" / f"org--{age}" / REVISION / "key" for age in "on"}
    for age, folder in choices.items():
        seconds = now - LIMITS.hub_kept_seconds + (1 if age == "n" else -1)
        (folder / "deep").mkdir(parents=True)
        for path in (folder / "begun.part", folder / "deep", folder):
            if not path.exists():
                path.write_bytes(b"x")
            os.utime(path, (seconds, seconds))
    await hub.sweep(now * 1000)
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["org--n"]
    assert (choices["n"] / "begun.part").exists()


@pytest.mark.parametrize("line", ["hello", '{"bytes": "many"}', '{"unknown": 1}', "\x80\x81"])
async def test_what_is_no_word_is_an_error_and_not_a_bug(line: str) -> None:
    program = f"import sys; sys.stdin.read(); print({line!r}, flush=True); sys.stdin.read()"
    with pytest.raises(AigridError) as caught:
        await ask_child(Order("list", "org/name"), hear, command=[sys.executable, "-c", program])
    assert caught.value.code is Code.UNREACHABLE


async def test_words_are_heard_however_they_are_cut() -> None:
    program = (
        "import os, sys; sys.stdin.read()\n"
        """for piece in (b'{"bytes"', b':1}\\n{"bytes":2}\\n{"by', b'tes":3,"done":true}\\n'):\n"""
        "    os.write(1, piece)\n"
    )
    heard: list[int] = []

    async def remember(word: Word) -> None:
        await trio.lowlevel.checkpoint()
        heard.append(word.bytes)

    command = [sys.executable, "-c", program]
    last = await ask_child(Order("list", "org/name"), remember, command=command)
    assert [*heard, last.bytes] == [1, 2, 3]


def test_what_a_library_prints_is_not_taken_for_a_word() -> None:
    program = (
        "import os; from aigrid.node.mesh.shelf import hub_child\n"
        "def chatter(order, words):\n"
        "    print('a warning', flush=True)\n"
        "    os.write(1, b'another')\n"
        "    words.say(hub_child.Word(done=True))\n"
        "hub_child._list = chatter\n"
        "hub_child.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=msgspec.json.encode(Order("list", "org/name")),
        capture_output=True,
        check=True,
    )
    assert msgspec.json.decode(ended.stdout, type=Word) == Word(done=True)
    assert b"a warning" in ended.stderr


async def test_a_long_list_is_searched_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth, at = 0, []

    async def run_blocking(function):
        nonlocal depth
        await trio.lowlevel.checkpoint()
        depth += 1
        try:
            return function()
        finally:
            depth -= 1

    def watched(function):
        def call(*given):
            at.append(depth)
            return function(*given)

        return call

    for name in ("choose", "_plain"):
        monkeypatch.setattr(hub_module, name, watched(getattr(hub_module, name)))
    child = Scripted(listed("model.safetensors"))
    await Hub(tmp_path, run_blocking=run_blocking, ask=child).list("org/name")
    assert at == [1, 1]


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
