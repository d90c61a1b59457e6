"""G9: memory above the imports for a tree of 10⁶ leaves, against pymerkle; and that it stays flat while a service ingests.

Each tree is built in a process of its own, whose resident memory is read after the imports and again
with the whole tree in it. Then a running service takes batches for a while, and its resident memory
is read after a warm-up and at the end.
"""

from __future__ import annotations

import subprocess
import sys

import psutil
from harness import note, options, report, report_limit
from servers import HERE, both, load

LEAVES = 1_000_000
LIMIT_MB = 100
FLAT_MB = 15
_MB = 1e6

_OURS = """
import sys, psutil
from models.merkle import Tree, leaf_hashes
before = psutil.Process().memory_info().rss
tree = Tree()
count = int(sys.argv[1])
for start in range(0, count, 1000):
    tree.extend(leaf_hashes([b"%d" % number for number in range(start, min(count, start + 1000))]))
tree.root()
print(psutil.Process().memory_info().rss - before)
"""
_PYMERKLE = """
import sys, psutil
from pymerkle import InmemoryTree
before = psutil.Process().memory_info().rss
tree = InmemoryTree(algorithm="sha256")
for number in range(int(sys.argv[1])):
    tree.append_entry(b"%d" % number)
tree.get_root()
print(psutil.Process().memory_info().rss - before)
"""


def tree_mb(program: str, leaves: int) -> float:
    """What the tree of `program` takes above its imports."""
    command = [sys.executable, "-c", program, str(leaves)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    return int(done.stdout) / _MB


def growth_mb(rounds: int, batches: int, items: int) -> tuple[float, int]:
    """By how much the service's memory grew over the later half of the rounds, and how many items that half held."""
    with both() as servers:
        if servers is None:
            raise RuntimeError("no server was started")
        ours, _ = servers
        process = psutil.Process(ours.process.pid)
        seen, taken = [], []
        for _ in range(rounds):
            outcome = load(ours, connections=8, requests=batches, seconds=30, items=items)
            taken.append(outcome.requests * items)
            seen.append(process.memory_info().rss / _MB)
        note(f"G9 resident memory after each {batches * items} items, in MB: {', '.join(f'{each:.0f}' for each in seen)}")
        half = rounds // 2
        return seen[-1] - seen[half - 1], sum(taken[half:])


def main() -> None:
    """Three lines."""
    chosen = options(__doc__ or "")
    leaves = 20_000 if chosen.quick else LEAVES
    mine, theirs = tree_mb(_OURS, leaves), tree_mb(_PYMERKLE, leaves)
    report(
        "G9", f"pymerkle in memory, {leaves} leaves", [mine], [theirs], "MB", wanted=3, more_is_better=False, quick=chosen.quick
    )
    report_limit("G9", f"at most {LIMIT_MB} MB above imports for {leaves} leaves", mine, LIMIT_MB, "MB")
    rounds, batches, items = (4, 5, 10) if chosen.quick else (8, 100, 100)
    grown, count = growth_mb(rounds, batches, items)
    report_limit("G9", f"growth of a service over {count} items, at most {FLAT_MB} MB", max(grown, 0.001), FLAT_MB, "MB")


if __name__ == "__main__":
    main()
