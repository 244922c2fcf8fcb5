"""What a worker may do to this machine, decided before it opens a model and reported as it is.

    machine, needs -> `plan` -> `enter` -> what really holds -> `describe`

A model is data, but the code that reads it may be wrong. So the worker gives up, before it opens
the model, whatever it does not need: files other than the model's and its own programs, writing
but in its own directories, starting programs, the network, memory beyond a bound. What the system
does not offer is left out and said: nothing here pretends. The rules hold for the calling thread
and those that it starts, so there must be no other yet.
"""

import contextlib
import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aigrid.engines import landlock
from aigrid.protocol.limits import LIMITS, MIB

_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x1000_0000, 0x4000_0000, 0x0800_0000
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38
_CAPABILITIES_V3: Final = 0x2008_0522
_OOM_SCORE: Final = b"500"  # of 1000: the kernel ends a worker rather than the node

_SYSTEM_FILES: Final = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec"),
    *("/usr/local/lib", "/usr/local/lib64", "/usr/share/zoneinfo", "/usr/share/locale"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm"),
    *("/sys/devices/system", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage"),
)
_SYSTEM_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_NETWORK_FILES: Final = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf"),
    *(
        "/etc/services",
        "/etc/ssl",
        "/etc/pki",
        "/etc/ca-certificates",
        "/usr/share/ca-certificates",
    ),
    *("/run/systemd/resolve", "/run/resolvconf"),
)
_ACCELERATOR_FILES: Final = (
    *("/proc", "/sys", "/opt/rocm", "/usr/local/cuda", "/usr/local/nvidia", "/usr/share/nvidia"),
    *("/etc/OpenCL", "/etc/vulkan", "/usr/share/vulkan", "/usr/share/libdrm"),
)
_ACCELERATOR_DEVICES: Final = ("nvidia*", "dri", "kfd", "dxg", "accel", "shm")


@dataclass(frozen=True, slots=True)
class Needs:
    """What an engine cannot do without: an accelerator's devices, connections to elsewhere.

    `ports` are those that TCP may go out to; none named means any, if there is `network` at all.
    """

    accelerator: bool = False
    network: bool = False
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """What a system offers: `sys.platform`, its version of Landlock or 0, one's own namespaces."""

    platform: str
    landlock: int = 0
    namespaces: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to give up, or what has been given up.

    Attributes:
        landlock: version of the rules for files and TCP; 0 for none.
        namespace: whether there is a network of one's own, with nothing in it.
        connect: whether TCP connections are wanted.
        ports: to these alone, if any is named.
        bounded: whether memory is bounded through the address space.
    """

    landlock: int = 0
    namespace: bool = False
    connect: bool = False
    ports: tuple[int, ...] = ()
    bounded: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """What the model's worker may open: `read` these, and have its own `write` directories."""

    read: Sequence[Path] = ()
    write: Sequence[Path] = ()

    @property
    def size_bytes(self) -> int:
        """Of the files to read; what is gone counts nothing."""
        total = 0
        for path in self.read:
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total


def plan(machine: Machine, needs: Needs) -> Plan:
    """The most that can be given up on a machine by an engine with such needs."""
    linux = machine.platform == "linux"
    return Plan(
        landlock=machine.landlock if linux else 0,
        # Drivers of accelerators ask who the user is, and there it would be nobody.
        namespace=linux and machine.namespaces and needs == Needs(),
        connect=needs.network,
        ports=needs.ports if needs.network else (),
        # Accelerators map many times their memory, and macOS takes no such bound.
        bounded=linux and not needs.accelerator,
    )


def describe(held: Plan, memory_bytes: int = 0) -> str:
    """What holds, in a few words, such as "landlock 7, no network, memory 2048 MiB"."""
    said = []
    if held.landlock:
        said.append(f"landlock {held.landlock}")
    if held.namespace:
        said.append("no network")
    elif held.landlock >= landlock.NETWORK_VERSION:
        to = f"TCP out to {', '.join(map(str, held.ports))} only" if held.ports else "TCP out only"
        said.append(to if held.connect else "no TCP")
    if not held.landlock:
        said.append("files open" if said else "none: files and network open")
    elif len(said) == 1:
        said.append("network open")
    if not held.bounded:
        said.append("memory unbounded")
    elif memory_bytes:
        said.append(f"memory {memory_bytes // MIB} MiB")
    return ", ".join(said)


def allowance_bytes(estimate_bytes: int, budget_bytes: int) -> int:
    """Memory that a worker may take beside its files: twice its estimate, but not all a node has.

    The rest of the bound is room for a request, and for what is only reserved (`_slack_bytes`).
    """
    wanted = 2 * estimate_bytes
    return max(estimate_bytes, min(wanted, budget_bytes)) + LIMITS.worker_headroom_bytes


def machine() -> Machine:
    """What this one offers, as far as it tells; `enter` finds out about the rest."""
    return Machine(sys.platform, landlock.version(), namespaces=sys.platform == "linux")


def enter(wanted: Plan, needs: Needs, files: Files, packages: Iterable[str] = ()) -> Plan:
    """Give up what is planned, for good; what is held in the end.

    `packages` are those of the engine, to be read wherever they lie.

    Raises:
        OSError: something that this system offers failed: the model must not be opened.
        RuntimeError: other threads run already, which the rules would not hold for.
    """
    if sys.platform != "linux":
        return wanted
    if wanted.landlock and not alone():
        raise RuntimeError("threads run already that cannot be confined")
    _offer_to_the_oom_killer()
    _bound_files(files)
    held = replace(wanted, namespace=wanted.namespace and _leave_namespaces())
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    if held.landlock:
        rules = _rules(needs, files, packages)
        ports = (held.ports or None) if held.connect else ()
        landlock.restrict(rules, abi=held.landlock, connect=ports)
    _drop_capabilities(libc)
    die_with_parent()  # again: the kernel forgets it where rights change
    return held


def confine() -> None:
    """Limit what this process may take, before anything foreign is imported."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node decides; ^C reaches the whole group
    with contextlib.suppress(ImportError, OSError, ValueError):  # where the system has them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = (
            LIMITS.worker_open_files_max
            if hard == resource.RLIM_INFINITY
            else min(LIMITS.worker_open_files_max, hard)
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, most) if soft >= 0 else most, most))


def alone() -> bool:
    """Whether this process has but one thread, as `enter` needs it; True where nobody tells."""
    try:
        return len([*Path("/proc/self/task").iterdir()]) == 1
    except OSError:
        return sys.platform != "linux"


def rehearse() -> str:
    """What a worker on the processor would hold here, found by a child that tries and ends."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        said = "none: it failed"
        try:
            said = describe(enter(plan(machine(), Needs()), Needs(), Files()))
        finally:
            os.write(sending, said.encode())
            os._exit(0)
    os.close(sending)
    with open(receiving, encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor
        said = stream.read()
    os.waitpid(child, 0)
    return said or "none: it died"


def bound_memory(memory_bytes: int, *, final: bool) -> int:
    """Bound the address space to what is mapped now and so much more; the bound.

    What is not `final` can be raised by a later call.
    """
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + memory_bytes + _slack_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound if final else hard))
    return bound


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _slack_bytes() -> int:
    """Address space that threads reserve and do not use: their stacks, and malloc's arenas."""
    return (os.cpu_count() or 1) * LIMITS.worker_thread_bytes


def _rules(needs: Needs, files: Files, packages: Iterable[str]) -> list[tuple[Path, int]]:
    reading: list[str | Path] = [*_SYSTEM_FILES, *_programs(packages), *files.read]
    devices = [Path(name) for name in _SYSTEM_DEVICES]
    if needs.network:
        reading += _NETWORK_FILES
        named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        reading += filter(None, named)
    if needs.accelerator:
        reading += _ACCELERATOR_FILES
        devices += [path for name in _ACCELERATOR_DEVICES for path in Path("/dev").glob(name)]
    return [
        *((Path(path), landlock.READ) for path in reading),
        *((path, landlock.DEVICE) for path in devices),
        *((path, landlock.READ | landlock.WRITE) for path in files.write),
    ]


def _programs(packages: Iterable[str]) -> Iterator[Path]:
    """Where the interpreter, its packages and their libraries lie; links followed."""
    named = [sys.prefix, sys.base_prefix, sys.exec_prefix, *filter(None, sys.path)]
    named += filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    yield from map(Path, named)
    # Those that were installed from a checkout lie elsewhere. `aigrid` itself is but a name.
    for package in {"aigrid.engines", "aigrid.protocol", *packages} - {"aigrid"}:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(package)
            if spec is not None:
                found = spec.submodule_search_locations or filter(None, [spec.origin])
                yield from (Path(place).resolve() for place in found)


def _bound_files(files: Files) -> None:
    """A file may be some times as large as the model: a graph built from it, its weights wider."""
    import resource

    most = 8 * files.size_bytes + LIMITS.worker_file_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _offer_to_the_oom_killer() -> None:
    with contextlib.suppress(OSError), Path("/proc/self/oom_score_adj").open("wb", 0) as stream:
        stream.write(_OOM_SCORE)


def _leave_namespaces() -> bool:
    """Move to a network, and if possible to users, of one's own; False where that is denied.

    There, this user is nobody: also a node that root runs has workers without root's rights.
    """
    import resource

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) == 0:
        # Tasks are counted by namespace, so this bounds ours and not the user's.
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        most = LIMITS.worker_tasks_max + 4 * (os.cpu_count() or 1)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        return True
    return bool(libc.unshare(_NEW_NETWORK | _NEW_IPC) == 0)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked(libc.capset(header, none))


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
