"""Where a process spends its CPU time: samples of the main thread's stack.

Started in the process itself by `serve_profile`: SIGUSR1 begins, SIGUSR2 ends and writes a JSON
object of stacks (innermost first, `file:function`, joined by `;`) and the CPU seconds of each:
those that went by since the sample before, for a timer skips beats where the machine is busy. It
counts the time of the process in user and kernel mode; what a thread or a call into C takes is put
down to the Python frame that the main thread is in.
"""

import json
import signal
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType

INTERVAL_SECONDS = 0.001  # many a kernel's timer of CPU time ticks every 4 ms only
DEPTH_MAX = 60


def serve_profile(result: Path) -> None:
    """Be ready to be sampled; the result appears whole when it is there.

    Trio is woken by each signal that comes; the samples would be of that.
    """
    signal.set_wakeup_fd = lambda _fd, **_options: -1
    seen: defaultdict[tuple[CodeType, ...], float] = defaultdict(float)
    last_seconds = 0.0

    def sample(_number: int, frame: FrameType | None) -> None:
        nonlocal last_seconds
        stack: list[CodeType] = []
        while frame is not None and len(stack) < DEPTH_MAX:
            stack.append(frame.f_code)
            frame = frame.f_back
        now = time.process_time()
        seen[tuple(stack)] += now - last_seconds
        last_seconds = now

    def begin(_number: int, _frame: FrameType | None) -> None:
        nonlocal last_seconds
        seen.clear()
        last_seconds = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        stacks = {
            ";".join(f"{code.co_filename}:{code.co_qualname}" for code in stack): seconds
            for stack, seconds in seen.items()
        }
        part = result.with_suffix(".part")
        part.write_text(json.dumps(stacks))
        part.replace(result)

    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
