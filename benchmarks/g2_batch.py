"""G2: batches of 100 submissions of 1 KiB, durable and each with its promise, in items a second against the baseline of G1.

Both servers run at once; ours gets its items by /v1/evidence:batch over 8 connections, the baseline
one row per request over 64, which is where each is at its best.
"""

from __future__ import annotations

from harness import alternate, options, report
from servers import both, latency_note, load

ITEMS = 100
OURS_CONNECTIONS = 8
BASELINE_CONNECTIONS = 64
SECONDS = 2.0
GOAL = 8.0


def main() -> None:
    """One line."""
    chosen = options(__doc__ or "")
    seconds, items = (0.3, 10) if chosen.quick else (SECONDS, ITEMS)
    with both() as servers:
        if servers is None:
            raise RuntimeError("no server was started")
        ours, baseline = servers
        seen = []

        def run_ours() -> float:
            batches = max(2, int(20_000 * seconds / items))
            outcome = load(ours, connections=OURS_CONNECTIONS, requests=batches, seconds=seconds, items=items)
            if outcome.promises != items:
                raise RuntimeError("a batch was not accepted as a whole")
            seen.append(outcome)
            return outcome.items_per_s

        def run_baseline() -> float:
            return load(baseline, connections=BASELINE_CONNECTIONS, requests=int(12_000 * seconds), seconds=seconds).items_per_s

        alternate(run_ours, run_baseline, 1)
        seen.clear()
        mine, theirs = alternate(run_ours, run_baseline, chosen.pairs)
    against = f"FastAPI, a row committed per request; ours in batches of {items}"
    report("G2", against, mine, theirs, "items/s", wanted=GOAL, quick=chosen.quick)
    latency_note(f"G2 batches of {items}", seen)


if __name__ == "__main__":
    main()
