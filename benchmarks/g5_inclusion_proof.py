"""G5: one inclusion proof in a tree of 10⁶ leaves, against pymerkle in memory.

Ours over SM3, pymerkle over SHA-256, which it has: a proof only reads hashes that are there. Each run
proves 2,000 leaves spread over the tree.
"""

from __future__ import annotations

from harness import alternate, options, pin, report, seconds_each
from pymerkle import InmemoryTree

from models.digest import Algorithm
from models.merkle import Tree, leaf_hash, leaf_hashes, verify_inclusion

LEAVES, PROOFS = 1_000_000, 2000
GOAL = 5.0
_STRIDE = 611_953


def main() -> None:
    """One line."""
    chosen = options(__doc__ or "")
    pin(0)
    count, proofs = (4000, 200) if chosen.quick else (LEAVES, PROOFS)
    datas = [b"%d" % number for number in range(count)]
    tree = Tree(leaf_hashes(datas))
    theirs_tree = InmemoryTree.init_from_entries(datas, algorithm="sha256")
    places = [number * _STRIDE % count for number in range(proofs)]
    for place in places[:50]:
        verify_inclusion(leaf_hash(datas[place]), place, count, tree.inclusion_path(place), tree.root(), algorithm=Algorithm.SM3)

    def ours() -> None:
        for place in places:
            tree.inclusion_path(place)

    def baseline() -> None:
        for place in places:
            theirs_tree.prove_inclusion(place + 1)

    ours()
    baseline()
    mine, theirs = alternate(lambda: 1e6 * seconds_each(ours, proofs), lambda: 1e6 * seconds_each(baseline, proofs), chosen.pairs)
    report("G5", f"pymerkle in memory, {count} leaves", mine, theirs, "µs", wanted=GOAL, more_is_better=False, quick=chosen.quick)


if __name__ == "__main__":
    main()
