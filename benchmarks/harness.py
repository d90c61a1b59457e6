"""What every benchmark shares: pairs of runs A-B-A-B…, the median ratio with its interval, one JSON line.

Ours and the baseline are measured in turns within one run, so that what else the machine does meets
both. The ratio of each pair is taken first and the median of those ratios after, with a 95 %
bootstrap interval on stderr. A baseline that varies by more than 15 % makes the run void, and says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256

PAIRS = 7
VOID_ABOVE = 0.15
RESAMPLES = 2000

Measure = Callable[[], float]


def options(about: str, **more: str) -> argparse.Namespace:
    """The command line of a benchmark: `--quick` runs it small, to show that it works and not how fast."""
    parser = argparse.ArgumentParser(description=about.strip().partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small run that shows that it works, not how fast")
    parser.add_argument("--pairs", type=int, default=0, help=f"how many pairs of runs (default {PAIRS}, quick 2)")
    for name, text in more.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    chosen = parser.parse_args()
    chosen.pairs = chosen.pairs or (2 if chosen.quick else PAIRS)
    return chosen


def pin(core: int) -> None:
    """This process runs on one core, where the machine can do that and has it."""
    if hasattr(os, "sched_setaffinity") and core in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {core})


def note(text: str) -> None:
    """Say something to the person who reads along."""
    print(text, file=sys.stderr, flush=True)


def seconds_each(run: Callable[[], object], count: int) -> float:
    """How much time of the processor one of the `count` operations of `run` took, the collector of garbage out of the way.

    Not of the clock on the wall: what is measured so only computes, and another process would count too.
    """
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        run()
        return (time.process_time() - began) / count
    finally:
        gc.enable()


def alternate(ours: Measure, baseline: Measure, pairs: int) -> tuple[list[float], list[float]]:
    """`pairs` measurements of each, in turns."""
    mine, theirs = [], []
    for _ in range(pairs):
        theirs.append(baseline())
        mine.append(ours())
    return mine, theirs


def _picks(count: int) -> Callable[[int], Sequence[int]]:
    """Resamples that are the same at every run: indexes drawn from a running digest."""

    def pick(number: int) -> list[int]:
        data = b"".join(sha256(f"{number}/{part}".encode()).digest() for part in range(-(-count * 4 // 32)))
        return [int.from_bytes(data[at : at + 4]) % count for at in range(0, 4 * count, 4)]

    return pick


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    pick = _picks(len(ratios))
    medians = sorted(statistics.median([ratios[at] for at in pick(number)]) for number in range(RESAMPLES))
    return medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1]


def report(
    goal: str,
    against: str,
    ours: Sequence[float],
    baseline: Sequence[float],
    unit: str,
    *,
    wanted: float | None,
    more_is_better: bool = True,
    quick: bool = False,
) -> None:
    """One JSON line on stdout; interval, goal and a void run on stderr.

    Shapes: `ratio` > 1 where ours is better; `wanted` is the ratio that meets the goal, None where there is none.
    """
    ratios = [(a / b if more_is_better else b / a) for a, b in zip(ours, baseline, strict=True)]
    low, high = interval(ratios)
    _print(goal, against, statistics.median(ours), statistics.median(baseline), statistics.median(ratios), unit)
    middle = statistics.median(baseline)
    spread = (max(baseline) - min(baseline)) / middle / 2
    judged = "no goal"
    if wanted is not None:
        judged = "met" if low >= wanted else "missed" if high < wanted else "open, the interval holds it"
        judged = f"goal {wanted:g}: {judged}"
    note(f"{goal} against {against}: 95 % interval {low:.2f} to {high:.2f} over {len(ratios)} pairs; {judged}")
    if quick:
        note(f"{goal}: a quick run shows that the benchmark works, not how fast anything is")
    elif spread > VOID_ABOVE:
        note(f"{goal}: void, the baseline varied by ±{spread:.0%} expected at most ±{VOID_ABOVE:.0%}; repeat it alone")


def report_limit(goal: str, against: str, ours: float, limit: float, unit: str) -> None:
    """One JSON line for a figure that is to stay at or below `limit`."""
    _print(goal, against, ours, limit, limit / ours if ours else float(limit), unit)
    note(f"{goal} against {against}: {ours:.4g} {unit}, limit {limit:g} {unit}: {'met' if ours <= limit else 'missed'}")


def _print(goal: str, against: str, ours: float, baseline: float, ratio: float, unit: str) -> None:
    line = {
        "goal": goal,
        "against": against,
        "ours": float(f"{ours:.4g}"),
        "baseline": float(f"{baseline:.4g}"),
        "ratio": float(f"{ratio:.4g}"),
        "unit": unit,
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)
