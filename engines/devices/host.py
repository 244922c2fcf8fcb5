"""The processor, and the memory of the machine.

Linux answers from /proc and the cgroup, macOS from sysctl and vm_stat (best effort); elsewhere
memory is 0, which means unknown.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from aigrid.engines.base import Device
from aigrid.protocol.limits import LIMITS


def cpu() -> Device:
    """The processor and the memory that this process may still take."""
    total, free = memory()
    return Device("cpu", cpu_name(), total, free)


def cpu_name() -> str:
    """The model of the processor, or at least its architecture."""
    name = ""
    if sys.platform == "linux":
        match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
        name = match.group(1) if match else ""
    elif sys.platform == "darwin":
        name = tool("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
    return (name.strip() or platform.machine() or "cpu")[:96]


def sums_of_bytes_saturate() -> bool:
    """Whether sums of products of bytes are cut to 16 bits: on x86 without VNNI they are.

    Their VPMADDUBSW adds two products so; ONNX Runtime's answers with 8-bit weights and inputs are
    wrong on such a processor, and right with float inputs. That the one is why is inferred.
    """
    if platform.machine() not in {"x86_64", "AMD64"}:
        return False
    match = re.search(r"^flags\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    flags = match.group(1).split() if match else []
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def memory() -> tuple[int, int]:
    """Total and available bytes; a container's own bound counts where it is lower."""
    if sys.platform == "linux":
        return _linux_memory()
    if sys.platform == "darwin":
        return _mac_memory()
    return 0, 0


def threads() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def resident_bytes() -> int:
    """Memory of this process now, 0 where it cannot be known."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _linux_memory() -> tuple[int, int]:
    facts = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE))
    total = int(facts.get("MemTotal", 0)) * 1024
    free = int(facts.get("MemAvailable", 0)) * 1024
    group = re.search(r"^0::(.*)$", _read("/proc/self/cgroup"), re.MULTILINE)
    folder = Path("/sys/fs/cgroup") / (group.group(1).lstrip("/") if group else "")
    bound, used = _read(str(folder / "memory.max")), _read(str(folder / "memory.current"))
    if bound.strip().isdigit():
        total = min(total, int(bound))
        free = max(0, min(free, int(bound) - int(used.strip() or 0)))
    return total, free


def _mac_memory() -> tuple[int, int]:
    total = tool("/usr/sbin/sysctl", "-n", "hw.memsize").strip()
    said = tool("/usr/bin/vm_stat")
    page = re.search(r"page size of (\d+)", said)
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)", said, re.MULTILINE)
    free = int(page.group(1)) * sum(map(int, pages)) if page else 0
    return (int(total) if total.isdigit() else 0), free


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def tool(*command: str) -> str:
    """What a program of the system prints; "" where it fails or takes too long."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=LIMITS.device_tool_seconds, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
