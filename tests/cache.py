"""Where the tests keep what is slow to make: outside the checkout, one folder for all checkouts."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """The folder exists. root's home is closed to the unprivileged user PostgreSQL runs as, so root has it elsewhere."""
    told = os.environ.get("EVIDENCE_TEST_CACHE")
    if told:
        folder = Path(told)
    elif os.geteuid() == 0:
        folder = Path("/var/cache/evidence-tests")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evidence-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one test process at a time is inside; the lock ends with the process, however it ends."""
    with (cache_folder() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
