"""All hashes of a small tree kept in one string, so that a subset proof is read and not computed.

The same leaves are asked of the index of every slice, so where the hashes of their proof stand is
found once for all slices.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from models.digest import DIGEST_BYTES, Algorithm
from models.errors import Malformed
from models.nodes import CORE, NODE_CONTEXT, Copy, node_hash, split


def levels_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """Every level of the tree over these leaf hashes, joined, the leaves first and the root last.

    Shapes: n ≥ 1 hashes of 32 bytes; an odd last one of a level stands in the next as it is.
    """
    core = CORE.get(Algorithm.SM3)
    if core is not None:
        joined = b"".join(leaf_hashes)
        return joined + core.levels(joined)
    parts: list[bytes] = list(leaf_hashes)
    level = parts
    while len(level) > 1:
        above = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = above + level[-1:] if len(level) & 1 else above
        parts = parts + level
    return b"".join(parts)


@lru_cache(maxsize=256)
def _starts(size: int) -> tuple[int, ...]:
    """Where each level begins, counted in hashes, and the end of the last."""
    starts = [0, size]
    while size > 1:
        size = (size + 1) >> 1
        starts.append(starts[-1] + size)
    return tuple(starts)


@lru_cache(maxsize=256)
def _places(size: int, wanted: tuple[int, ...]) -> tuple[int, ...]:
    starts = _starts(size)

    def walk(start: int, end: int, low: int, high: int) -> Iterator[int]:
        if low == high:
            height = (end - start - 1).bit_length()
            yield (starts[height] + (start >> height)) * DIGEST_BYTES
        elif end - start > 1:
            middle = start + (1 << ((end - start - 1).bit_length() - 1))
            cut = bisect_left(wanted, middle, low, high)
            yield from walk(start, middle, low, cut)
            yield from walk(middle, end, cut, high)

    return tuple(walk(0, size, 0, len(wanted)))


@lru_cache(maxsize=256)
def _steps(size: int, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The walk of `merkle.verify_subset` as steps over a stack: the next of the proof, the next leaf, or the top two joined."""

    def walk(start: int, end: int, low: int, high: int) -> Iterator[int]:
        if low == high:
            yield _PROOF
        elif end - start == 1:
            yield _LEAF
        else:
            middle = start + (1 << ((end - start - 1).bit_length() - 1))
            cut = bisect_left(wanted, middle, low, high)
            yield from walk(start, middle, low, cut)
            yield from walk(middle, end, cut, high)
            yield _JOIN

    return tuple(walk(0, size, 0, len(wanted)))


_PROOF, _LEAF, _JOIN = range(3)


def proof_length(size: int, wanted: tuple[int, ...]) -> int:
    """How many hashes prove the leaves at `wanted`, ascending and below `size`, to stand in a tree of `size` leaves."""
    return _steps(size, wanted).count(_PROOF)


def subset_roots(size: int, wanted: tuple[int, ...], leaves: Sequence[list[bytes]], proofs: Sequence[list[bytes]]) -> list[bytes]:
    """The roots to which leaf hashes at `wanted` and their proofs lead, in many trees of one size: `merkle.verify_subset` of all.

    Shapes: `wanted` ascending and below `size`; of each leaf wanted, in order, a column of its hashes, one a tree; likewise of
        each of the `proof_length` hashes of a proof.
    """
    leaf, node = iter(leaves).__next__, iter(proofs).__next__
    stack: list[list[bytes]] = []
    for step in _steps(size, wanted):
        if step == _JOIN:
            right = stack.pop()
            stack.append(_parents(stack.pop(), right))
        else:
            stack.append(leaf() if step == _LEAF else node())
    return stack.pop()


def _parents(left: list[bytes], right: list[bytes]) -> list[bytes]:
    """The hash over each two."""
    core = CORE.get(Algorithm.SM3)
    if core is not None:
        both = [b""] * (2 * len(left))
        both[::2], both[1::2] = left, right
        return split(core.parents(b"".join(both)))
    copy: Copy = NODE_CONTEXT[Algorithm.SM3].copy
    # `update` gives None, always: this is the one way to three calls a node without a fourth to append.
    return [state.digest() for one, two in zip(left, right, strict=True) if (state := copy()).update(one + two) is None]


def kept_size(size: int) -> int:
    """How many bytes `levels_of` makes of `size` leaves."""
    return _starts(size)[-1] * DIGEST_BYTES


def subset_from(levels: bytes, size: int, indices: Iterable[int]) -> list[bytes]:
    """What `merkle.subset_path` gives for the tree of `size` leaves whose levels are `levels`.

    Raises: Malformed if `levels` are of another size, there is no leaf, an index is out of range or given twice.
    """
    wanted = tuple(sorted(indices))
    if size < 1 or len(levels) != kept_size(size):
        raise Malformed(f"kept hashes are of another tree: expected one of {size} leaves")
    if len(set(wanted)) != len(wanted) or (wanted and not 0 <= wanted[0] <= wanted[-1] < size):
        raise Malformed(f"leaf index is out of range or given twice: expected less than {size}")
    return [levels[at : at + DIGEST_BYTES] for at in _places(size, wanted)]
