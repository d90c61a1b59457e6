"""Processes that tests start: they end with the test process, and what they leave is told apart from what is in use."""

import ctypes
import os
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For `preexec_fn`: a test process killed with -9 runs no fixture's end, so the kernel ends its servers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def own_name(prefix: str) -> str:
    """A name for something left outside the process, that says whose it is."""
    return f"{prefix}{os.getpid()}-"


def is_left_over(name: str, prefix: str) -> bool:
    """Whether `name` was made with `own_name` by a process that is no more."""
    process = name.removeprefix(prefix).partition("-")[0]
    if not name.startswith(prefix) or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now; whoever takes it must still look whether it got it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
