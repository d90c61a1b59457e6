"""G4: the root over 10⁶ entries of 200 bytes, against a plain hashlib loop (SM3) and against pymerkle (SHA-256).

With the native core also without it, and the core alone over one buffer instead of a list of bytes.

The loop is the best that can be written in plain Python: one context, copied for each hash, nothing
checked. pymerkle has no SM3, so both use SHA-256 there, over the same 10⁵ entries: its time for each
entry does not fall with size.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

from harness import alternate, options, pin, report, seconds_each
from pymerkle import InmemoryTree

from models.digest import DIGEST_BYTES, Algorithm
from models.merkle import leaf_hashes, root
from models.native import library as native
from models.nodes import CORE

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


def of_buffer(core: native.Core, data: bytes) -> bytes:
    """The root over the entries in one buffer, by the native core alone."""
    offsets = array(native.OFFSET, range(0, len(data) + 1, ENTRY_BYTES))
    return core.levels(core.hash_each(b"\0", data, offsets))[-DIGEST_BYTES:]


def rate(make: Callable[[], bytes], count: int) -> Callable[[], float]:
    """Entries a second of one run."""
    return lambda: 1 / seconds_each(make, count)


def against_core(datas: list[bytes], pairs: int, *, quick: bool) -> None:
    """The same loop against the core alone, and against what is left without it."""
    core = CORE.pop(Algorithm.SM3, None)
    if core is None:
        return
    count, data, expected = len(datas), b"".join(datas), plain_loop(datas)
    try:
        ways: dict[str, Callable[[], bytes]] = {
            "ours without the native core": lambda: ours(datas, Algorithm.SM3),
            "the native core alone, from one buffer": lambda: of_buffer(core, data),
        }
        for what, make in ways.items():
            if make() != expected:
                raise RuntimeError("the roots differ")
            mine, theirs = alternate(rate(make, count), rate(lambda: plain_loop(datas), count), pairs)
            against = f"plain hashlib loop over SM3, {count} entries of {ENTRY_BYTES} bytes; {what}"
            report("G4", against, mine, theirs, "entries/s", wanted=None, quick=quick)
    finally:
        CORE[Algorithm.SM3] = core


def main() -> None:
    """Two lines, or four where the native core is there."""
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
    against_core(datas, chosen.pairs, quick=chosen.quick)
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
