"""Where a process spends its CPU time: a sample of the main thread's stack each millisecond of it.

Started in the process itself by `serve_profile`: SIGUSR1 begins, SIGUSR2 ends and writes a JSON
object of stacks (innermost first, `file:function`, joined by `;`) and how often each was seen. The
timer counts the time of the process in user and kernel mode; what a thread or a call into C takes
is put down to the Python frame that the main thread is in.
"""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

INTERVAL_SECONDS = 0.001
DEPTH_MAX = 60


def serve_profile(result: Path) -> None:
    """Be ready to be sampled; the result appears whole when it is there.

    Trio is woken by each signal that comes; the samples would be of that.
    """
    signal.set_wakeup_fd = lambda _fd, **_options: -1  # type: ignore[assignment]
    seen: Counter[tuple[CodeType, ...]] = Counter()

    def sample(_number: int, frame: FrameType | None) -> None:
        stack: list[CodeType] = []
        while frame is not None and len(stack) < DEPTH_MAX:
            stack.append(frame.f_code)
            frame = frame.f_back
        seen[tuple(stack)] += 1

    def begin(_number: int, _frame: FrameType | None) -> None:
        seen.clear()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        stacks = {
            ";".join(f"{code.co_filename}:{code.co_qualname}" for code in stack): count
            for stack, count in seen.items()
        }
        part = result.with_suffix(".part")
        part.write_text(json.dumps(stacks))
        os.replace(part, result)

    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
