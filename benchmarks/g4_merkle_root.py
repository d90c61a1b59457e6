"""G4: the root over 10⁶ entries of 200 bytes, against a plain hashlib loop (SM3) and against pymerkle (SHA-256).

The loop is the best that can be written in plain Python: one context, copied for each hash, nothing
checked. pymerkle has no SM3, so both use SHA-256 there, over the same 10⁵ entries: its time for each
entry does not fall with size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from harness import alternate, options, pin, report, seconds_each
from pymerkle import InmemoryTree

from models.digest import Algorithm
from models.merkle import leaf_hashes, root

ENTRY_BYTES = 200
ENTRIES, PYMERKLE_ENTRIES = 1_000_000, 100_000


def entries(count: int) -> list[bytes]:
    """So many entries, no two alike."""
    return [b"%016d" % number * (ENTRY_BYTES // 16) + b"12345678" for number in range(count)]


def plain_loop(datas: Sequence[bytes]) -> bytes:
    """The root by hand: RFC 9162 over SM3, an odd node carried up."""
    leaf, node = hashlib.new("sm3", b"\0"), hashlib.new("sm3", b"\1")
    level = []
    for data in datas:
        state = leaf.copy()
        state.update(data)
        level.append(state.digest())
    while len(level) > 1:
        above = []
        for at in range(0, len(level) - 1, 2):
            state = node.copy()
            state.update(level[at] + level[at + 1])
            above.append(state.digest())
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def pymerkle_root(datas: Sequence[bytes]) -> bytes:
    """The root as pymerkle makes it, over SHA-256."""
    state: bytes = InmemoryTree.init_from_entries(list(datas), algorithm="sha256").get_root()
    return state


def ours(datas: Sequence[bytes], algorithm: Algorithm) -> bytes:
    """The root as the product makes it."""
    return root(leaf_hashes(datas, algorithm=algorithm), algorithm=algorithm)


def rate(make: Callable[[], bytes], count: int) -> Callable[[], float]:
    """Entries a second of one run."""
    return lambda: 1 / seconds_each(make, count)


def main() -> None:
    """Two lines."""
    chosen = options(__doc__ or "")
    pin(0)
    count, fewer = (4000, 2000) if chosen.quick else (ENTRIES, PYMERKLE_ENTRIES)
    datas = entries(count)
    if ours(datas, Algorithm.SM3) != plain_loop(datas):
        raise RuntimeError("the roots differ")
    mine, theirs = alternate(
        rate(lambda: ours(datas, Algorithm.SM3), count), rate(lambda: plain_loop(datas), count), chosen.pairs
    )
    what = f"plain hashlib loop over SM3, {count} entries of {ENTRY_BYTES} bytes"
    report("G4", what, mine, theirs, "entries/s", wanted=0.95, quick=chosen.quick)
    del datas[fewer:]
    if ours(datas, Algorithm.SHA256) != pymerkle_root(datas):
        raise RuntimeError("the roots differ")
    mine, theirs = alternate(
        rate(lambda: ours(datas, Algorithm.SHA256), fewer), rate(lambda: pymerkle_root(datas), fewer), chosen.pairs
    )
    what = f"pymerkle over SHA-256, {fewer} entries of {ENTRY_BYTES} bytes"
    report("G4", what, mine, theirs, "entries/s", wanted=7.0, quick=chosen.quick)


if __name__ == "__main__":
    main()
