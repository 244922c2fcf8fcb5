"""Crashing a worker from outside, as a fault in its engine would."""

import ctypes
import os
import signal


def crash_stopped(pid: int) -> None:
    """Let a stopped worker go on into a segmentation fault, before it reads anything more.

    The signal goes to the main thread, which alone reads orders. Sent to the process, any thread
    may take it; while that one still prints its traceback (`faulthandler`), the others may read
    the request that waits, and answer it.
    """
    thread = ctypes.c_int(pid)  # the main thread's id is the process's
    if ctypes.CDLL(None, use_errno=True).tgkill(thread, thread, ctypes.c_int(signal.SIGSEGV)):
        raise OSError(ctypes.get_errno(), "tgkill")
    os.kill(pid, signal.SIGCONT)
