"""G1: single POSTs of 1 KiB over 64 connections, durable and with the promise in hand, against a row committed per request.

Ours: `file@1` validated, committed, encrypted, sealed, both trees extended and signed, flushed, the
promise answered. Baseline: `baseline.py`. Once on this disk, once with every fsync and fdatasync of
either server taking 4 ms longer (a preloaded library; both flush through the same calls).
"""

from __future__ import annotations

from harness import alternate, note, options, report, report_limit
from servers import Outcome, both, latency_note, load

CONNECTIONS = 64
P99_LIMIT_MS = 50
SECONDS = 2.0
GOALS = {0: 4.0, 4: 15.0}
MOST_PER_S = 12_000


def measure(delay_ms: int, pairs: int, *, quick: bool) -> None:
    """One line for the ratio and, on this disk as it is, one for p99."""
    disk = f"at fsync + {delay_ms} ms" if delay_ms else "on this disk"
    seconds, connections = (0.3, 8) if quick else (SECONDS, CONNECTIONS)
    with both(delay_ms=delay_ms) as servers:
        if servers is None:
            note(f"G1 {disk} is not measured: a slower flush needs a C compiler (cc)")
            return
        ours, baseline = servers
        seen: list[Outcome] = []

        def run_ours() -> float:
            seen.append(load(ours, connections=connections, requests=int(MOST_PER_S * seconds), seconds=seconds))
            if seen[-1].promises != 1:
                raise RuntimeError("an answer holds no promise")
            return seen[-1].items_per_s

        def run_baseline() -> float:
            return load(baseline, connections=connections, requests=int(MOST_PER_S * seconds), seconds=seconds).items_per_s

        alternate(run_ours, run_baseline, 1)
        seen.clear()
        mine, theirs = alternate(run_ours, run_baseline, pairs)
    report("G1", f"FastAPI, a row committed per request, {disk}", mine, theirs, "items/s", wanted=GOALS[delay_ms], quick=quick)
    _, p99 = latency_note(f"G1 {disk}", seen)
    report_limit("G1", f"p99 at most {P99_LIMIT_MS} ms, {connections} connections, {disk}", p99, P99_LIMIT_MS, "ms")


def main() -> None:
    """Run both."""
    chosen = options(__doc__ or "")
    for delay_ms in GOALS:
        measure(delay_ms, chosen.pairs, quick=chosen.quick)


if __name__ == "__main__":
    main()
