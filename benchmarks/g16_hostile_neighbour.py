"""R16: how long a valid client waits beside a hostile one, against itself alone: p99 in milliseconds, at most twice as long.

Service, valid and hostile client are processes of their own; the hostile one sends deep, wide, wrong
and doubled JSON as fast as it is refused. Quiet and hostile runs are paired.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from itertools import count

import httpx
from harness import options, report_limit
from load import submission
from servers import Server, both

SECONDS = 2.0
UNFELT_MS = 20.0
_numbers = count(1_000_000)

_ATTACK = """
import sys, httpx
url, token = sys.argv[1:]
bodies = [b"[" * 500_000, b"{" + b",".join(b'"n%d":1' % n for n in range(60_000)) + b"}", b'{"a":' + b"9" * 900_000 + b"}",
    b'{"a":"\\xff"}', b'{"a":1,"a":2}']
headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
    print("begun", flush=True)
    while True:
        for body in bodies:
            client.post("/v1/evidence", content=body)
"""


def _p99_ms(server: Server, seconds: float) -> float:
    found: list[float] = []
    headers = {"authorization": f"Bearer {server.token}", "content-type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(found) < 3:
            body = submission(next(_numbers))
            began = time.perf_counter()
            client.post("/v1/evidence", content=body).raise_for_status()
            found.append((time.perf_counter() - began) * 1000)
    return statistics.quantiles(found, n=100)[-1]


def main() -> None:
    """One line: the median over the pairs; what nobody feels (20 ms) counts as 20 ms."""
    chosen = options(__doc__ or "")
    seconds = 0.3 if chosen.quick else SECONDS
    pairs = []
    with both() as servers:
        if servers is None:
            raise RuntimeError("no server was started")
        ours, _ = servers
        _p99_ms(ours, 0.3)
        for _ in range(chosen.pairs):
            quiet = max(_p99_ms(ours, seconds), UNFELT_MS)
            command = [sys.executable, "-c", _ATTACK, ours.url, ours.token]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as attack:
                try:
                    if attack.stdout is None or not attack.stdout.readline():
                        raise RuntimeError("the hostile client did not start")
                    pairs.append((max(_p99_ms(ours, seconds), UNFELT_MS), quiet))
                finally:
                    attack.kill()
    beside, quiet = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    report_limit("R16", "p99 of the same client alone, doubled", beside, 2 * quiet, "ms")


if __name__ == "__main__":
    main()
