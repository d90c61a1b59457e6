"""The two servers of G1 and G2 in processes of their own, and one measured run of load against either."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import note, pin

HERE = Path(__file__).parent
SERVER_CORE, LOAD_CORE = 0, 1

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static const struct timespec delay = {0, DELAY_MS * 1000000L};
#define WRAP(name) int name(int file) { static int (*real)(int); \\
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name); \\
    nanosleep(&delay, 0); return real(file); }
WRAP(fsync)
WRAP(fdatasync)
"""

_OURS = """
import sys
from evidence.api.server import serve
from evidence.settings import load_settings
settings = load_settings({"EVIDENCE_HOME": sys.argv[1]}, port=0)
serve(settings, listening=lambda url: print(url, flush=True))
"""


def slow_flush(folder: Path, delay_ms: int) -> Path | None:
    """A library that, preloaded, makes every flush to disk take so much longer; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source, library = folder / "flush.c", folder / "flush.so"
    source.write_text(_SHIM)
    command = [compiler, "-shared", "-fPIC", "-O1", f"-DDELAY_MS={delay_ms}", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    return library if done.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it is, what it takes as a token."""

    name: str
    url: str
    token: str
    process: subprocess.Popen[str]
    sent: list[int] = field(default_factory=lambda: [0])


def _start(name: str, command: list[str], token: str, preload: Path | None) -> Server:
    environ = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    if preload is not None:
        environ["LD_PRELOAD"] = str(preload)
    started = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        preexec_fn=lambda: pin(SERVER_CORE),  # noqa: PLW1509 - no thread runs yet
    )
    assert started.stdout is not None
    url = started.stdout.readline().strip()
    if not url.startswith("http://"):
        started.kill()
        raise RuntimeError(f"server did not start: {name}")
    return Server(name, url, token, started)


@contextmanager
def both(*, delay_ms: int = 0) -> Iterator[tuple[Server, Server] | None]:
    """Ours and the baseline, running; None where a slower flush is asked for and cannot be had."""
    from evidence.bootstrap import initialise  # noqa: PLC0415 - the baseline's process imports this module's neighbours only
    from evidence.settings import load_settings  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="evidence-bench-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        preload = slow_flush(Path(folder), delay_ms) if delay_ms else None
        if delay_ms and preload is None:
            yield None
            return
        home = Path(folder) / "home"
        made = initialise(load_settings({"EVIDENCE_HOME": str(home)}))
        servers: list[Server] = []
        try:
            servers.append(_start("ours", ["-c", _OURS, str(home)], made.token_file.read_text(), preload))
            servers.append(_start("baseline", [str(HERE / "baseline.py"), f"{folder}/baseline.db"], "none", preload))
            yield servers[0], servers[1]
        finally:
            for server in servers:
                server.process.terminate()
            for server in servers:
                try:
                    server.process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    server.process.kill()
                    server.process.wait()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of load: requests, items a second, two latencies, and how many promises the last answer held."""

    requests: int
    items_per_s: float
    p50_ms: float
    p99_ms: float
    promises: int


def load(server: Server, *, connections: int, requests: int, seconds: float, items: int = 1) -> Outcome:
    """At most so many requests for at most so long, from a process on the other core."""
    first = server.sent[0]
    server.sent[0] += requests * items
    arguments = [server.url, server.token, connections, requests, seconds, first, items]
    with subprocess.Popen(
        [sys.executable, str(HERE / "load.py"), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin(LOAD_CORE),  # noqa: PLW1509 - no thread runs yet
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the load generator did not start")
        output, _ = process.communicate("go\n", timeout=seconds + 120)
        if process.returncode:
            raise RuntimeError(f"the run of load failed against {server.name}")
    found = json.loads(output)
    rate = found["requests"] * items / found["seconds"]
    return Outcome(found["requests"], rate, found["p50_ms"], found["p99_ms"], found["promises"])


def latency_note(name: str, outcomes: list[Outcome]) -> tuple[float, float]:
    """The medians over the runs of p50 and p99, said on stderr."""
    p50 = statistics.median(outcome.p50_ms for outcome in outcomes)
    p99 = statistics.median(outcome.p99_ms for outcome in outcomes)
    note(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return p50, p99
