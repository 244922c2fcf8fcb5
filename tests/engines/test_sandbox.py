"""What a worker gives up: the decision for machines that are not this one, and the deed here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aigrid.engines import landlock, sandbox
from aigrid.engines.sandbox import Machine, Needs, Plan, describe, plan
from aigrid.protocol.limits import LIMITS, MIB

ROOT = str(Path(__file__).parents[2])
NOTHING, NETWORK, ACCELERATOR = Needs(), Needs(network=True), Needs(accelerator=True)
SERVER = Needs(network=True, ports=(8000, 53))
LATEST = Machine("linux", landlock=7, namespaces=True)
ABI = landlock.version()
needs_landlock = pytest.mark.skipif(not ABI, reason="this kernel has no Landlock")


@pytest.mark.parametrize(
    ("machine", "needs", "said"),
    [
        (LATEST, NOTHING, "landlock 7, no network, memory 64 MiB"),
        (LATEST, NETWORK, "landlock 7, TCP out only, memory 64 MiB"),
        (LATEST, SERVER, "landlock 7, TCP out to 8000, 53 only, memory 64 MiB"),
        (Machine("linux", 3), SERVER, "landlock 3, network open, memory 64 MiB"),
        (LATEST, Needs(ports=(8000,)), "landlock 7, no TCP, memory 64 MiB"),
        (LATEST, ACCELERATOR, "landlock 7, no TCP, memory unbounded"),
        (Machine("linux", 7), NOTHING, "landlock 7, no TCP, memory 64 MiB"),
        (Machine("linux", 4), NOTHING, "landlock 4, no TCP, memory 64 MiB"),
        (Machine("linux", 3, namespaces=True), NOTHING, "landlock 3, no network, memory 64 MiB"),
        (Machine("linux", 3), NOTHING, "landlock 3, network open, memory 64 MiB"),
        (Machine("linux", 3, namespaces=True), NETWORK, "landlock 3, network open, memory 64 MiB"),
        (Machine("linux", 0, namespaces=True), NOTHING, "no network, files open, memory 64 MiB"),
        (Machine("linux"), NOTHING, "none: files and network open, memory 64 MiB"),
        (Machine("darwin"), NOTHING, "none: files and network open, memory unbounded"),
        # What another system says of such things is not believed.
        (Machine("darwin", 7, namespaces=True), NOTHING,
         "none: files and network open, memory unbounded"),
    ],
)  # fmt: skip
def test_each_machine_gives_up_what_it_can_and_says_what(
    machine: Machine, needs: Needs, said: str
) -> None:
    assert describe(plan(machine, needs), 64 * MIB) == said


def test_an_accelerators_driver_is_left_its_user() -> None:
    assert not plan(LATEST, ACCELERATOR).namespace
    assert plan(LATEST, NOTHING).namespace


def test_the_allowance_is_twice_the_estimate_within_what_the_node_has() -> None:
    room = LIMITS.worker_headroom_bytes
    assert sandbox.allowance_bytes(100 * MIB, 1000 * MIB) == 200 * MIB + room
    assert sandbox.allowance_bytes(100 * MIB, 150 * MIB) == 150 * MIB + room
    # What was admitted has to fit, whatever the budget says by now.
    assert sandbox.allowance_bytes(100 * MIB, 50 * MIB) == 100 * MIB + room
    assert sandbox.allowance_bytes(0, 0) == room


def test_rights_grow_with_the_version_and_older_kernels_are_asked_for_no_newer_ones() -> None:
    counts = [landlock.known_rights(abi).bit_count() for abi in range(1, 9)]
    assert counts == [13, 14, 15, 15, 16, 16, 16, 16]
    assert landlock.READ & ~landlock.known_rights(1) == 0


def run(script: str, *arguments: str) -> Any:
    """Run a script in a process of its own, which prints JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ROOT},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RESTRICT = """
import ctypes, json, socket, sys
from pathlib import Path
from aigrid.engines import landlock
abi, allowed, denied = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
server = socket.create_server(("127.0.0.1", 0))
other = socket.create_server(("127.0.0.1", 0))
client, second = socket.socket(), socket.socket()
ports = None if sys.argv[4] == "any" else (server.getsockname()[1],) if sys.argv[4] else ()
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
landlock.restrict(
    [(allowed, landlock.READ | landlock.WRITE), (Path("/absent"), landlock.READ)],
    abi=abi, connect=ports,
)
def tried(what):
    try:
        what()
    except OSError as error:
        return error.strerror
    return "done"
print(json.dumps({
    "read": tried((allowed / "file").read_bytes),
    "write": tried(lambda: (allowed / "new").write_bytes(b"")),
    "outside": tried((denied / "file").read_bytes),
    "append": tried(lambda: (denied / "file").open("ab")),
    "make": tried(lambda: (denied / "new").write_bytes(b"")),
    "connect": tried(lambda: client.connect(server.getsockname())),
    "elsewhere": tried(lambda: second.connect(other.getsockname())),
    "listen": tried(lambda: socket.socket().bind(("127.0.0.1", 0))),
}))
"""


@needs_landlock
@pytest.mark.parametrize("abi", range(1, ABI + 1))
def test_rules_hold_as_far_as_each_version_knows_them(tmp_path: Path, abi: int) -> None:
    for name in ("allowed", "denied"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    found = run(RESTRICT, str(abi), str(tmp_path / "allowed"), str(tmp_path / "denied"), "")
    network = "Permission denied" if abi >= landlock.NETWORK_VERSION else "done"
    assert {found.pop(what) for what in ("connect", "elsewhere", "listen")} == {network}
    assert {found.pop(what) for what in ("read", "write")} == {"done"}
    assert set(found.values()) == {"Permission denied"}
    assert len(found) == 3


@needs_landlock
@pytest.mark.skipif(ABI < landlock.NETWORK_VERSION, reason="this kernel's Landlock knows no TCP")
@pytest.mark.parametrize(("ports", "elsewhere"), [("own", "Permission denied"), ("any", "done")])
def test_connections_go_to_the_ports_that_were_named(
    tmp_path: Path, ports: str, elsewhere: str
) -> None:
    found = run(RESTRICT, str(ABI), str(tmp_path), str(tmp_path), ports)
    assert found["connect"] == "done"
    assert found["elsewhere"] == elsewhere
    assert found["listen"] == "Permission denied"


THREADED = """
import json, threading
from aigrid.engines import sandbox
stop = threading.Event()
threading.Thread(target=stop.wait).start()
try:
    sandbox.enter(sandbox.plan(sandbox.machine(), sandbox.Needs()), sandbox.Needs(), sandbox.Files())
    print(json.dumps("entered"))
except RuntimeError as error:
    print(json.dumps(str(error)))
stop.set()
"""


@needs_landlock
def test_with_other_threads_about_nothing_is_pretended() -> None:
    assert run(THREADED) == "threads run already that cannot be confined"


DENIED = """
import ctypes, json, os
from aigrid.engines import sandbox
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000) != 0:
    print(json.dumps(""))
    os._exit(0)
try:
    open("/proc/sys/user/max_user_namespaces", "w").write("0")
except OSError:
    print(json.dumps(""))
    os._exit(0)
sandbox._drop_capabilities(libc)
needs = sandbox.Needs()
held = sandbox.enter(sandbox.plan(sandbox.machine(), needs), needs, sandbox.Files())
print(json.dumps(sandbox.describe(held)))
"""


@needs_landlock
def test_where_namespaces_are_denied_the_rest_holds_and_is_said() -> None:
    said = run(DENIED)
    if not said:
        pytest.skip("no user namespace can be made here in which to forbid others")
    network = "no TCP" if ABI >= landlock.NETWORK_VERSION else "network open"
    assert said == f"landlock {ABI}, {network}"


def test_elsewhere_than_on_linux_there_is_nothing_to_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox.machine() == Machine("darwin")
    wanted = plan(sandbox.machine(), NOTHING)
    assert sandbox.enter(wanted, NOTHING, sandbox.Files()) == wanted == Plan()


def test_a_rehearsal_confines_only_the_child_that_tries() -> None:
    said = sandbox.rehearse()
    assert said.startswith(f"landlock {ABI}" if ABI else "no")
    assert Path(__file__).read_bytes()
    assert subprocess.run([sys.executable, "-c", ""], check=True).returncode == 0
