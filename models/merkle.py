"""Merkle trees of RFC 9162 over SM3 and SHA-256: roots, proofs, and the walk that checks them.

Leaves and nodes are hashed under different first bytes, so that neither can be taken for the
other; the size never comes from a proof, its caller states it. What a proof holds beyond or
short of exactly what is needed is refused. Trees kept in tiles are in `models.tiles`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence

from models.digest import DIGEST_BYTES, Algorithm
from models.errors import Malformed, VerificationError
from models.native.library import offsets_of
from models.nodes import (
    CHUNK,
    CORE,
    EMPTY_ROOT,
    JOINED_BYTES,
    LEAF,
    MAX_SIZE,
    NODE_CONTEXT,
    Copy,
    check_hashes,
    check_index,
    check_sizes,
    consistency_from,
    empty_root,
    flat,
    grow,
    hash_at,
    leaf_hash,
    leaf_hashes,
    node_hash,
    right_edge,
    split,
)

__all__ = [
    "Builder",
    "Tree",
    "consistency_path",
    "empty_root",
    "flat",
    "inclusion_path",
    "leaf_hash",
    "leaf_hashes",
    "node_hash",
    "root",
    "roots",
    "subset_path",
    "verify_consistency",
    "verify_inclusion",
    "verify_subset",
]


def _parents(level: Sequence[bytes], copy: Copy) -> list[bytes]:
    """The level above: each two hashed, an odd last one carried up as it is (which is the RFC's split)."""
    pairs = iter(level)
    above = [state.digest() for left, right in zip(pairs, pairs, strict=False) if (state := copy()).update(left + right) is None]
    if len(level) & 1:
        above.append(level[-1])
    return above


def root(leaf_hashes: Sequence[bytes], *, algorithm: Algorithm = Algorithm.SM3) -> bytes:
    """The root of the tree over these leaf hashes.

    Shapes: n ≥ 0 hashes of 32 bytes → 32 bytes.
    Source: RFC 9162 2.1.1.
    """
    if not leaf_hashes:
        return EMPTY_ROOT[algorithm]
    core = CORE.get(algorithm)
    level = leaf_hashes
    if core is not None and len(level) > 2:
        # A subtree of so many leaves is a node of the whole, and a last one that is not full goes up as it is.
        while len(level) > CHUNK:
            level = [
                core.levels(b"".join(level[at : at + CHUNK]))[-DIGEST_BYTES:] or level[at] for at in range(0, len(level), CHUNK)
            ]
        return core.levels(b"".join(level))[-DIGEST_BYTES:]
    copy = NODE_CONTEXT[algorithm].copy
    while len(level) > 1:
        level = _parents(level, copy)
    return level[0]


def roots(trees: Sequence[Sequence[bytes]]) -> list[bytes]:
    """The SM3 root over the leaf *data* of each of many small trees, all hashed together where the native core is there.

    Shapes: each tree n ≥ 1 leaves of any length → 32 bytes a tree.
    Source: RFC 9162 2.1.1.
    """
    core = CORE.get(Algorithm.SM3)
    leaves = [leaf for tree in trees for leaf in tree]
    if core is None or not leaves or sum(map(len, leaves)) > JOINED_BYTES:
        return [root(leaf_hashes(tree)) for tree in trees]
    return split(core.roots(LEAF, b"".join(leaves), offsets_of(leaves), offsets_of(trees)))


def inclusion_path(leaf_hashes: Sequence[bytes], index: int, *, algorithm: Algorithm = Algorithm.SM3) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root of these leaves.

    Shapes: from the leaf upward, 32 bytes each.
    Raises: Malformed if `index` is not one of the leaves.
    Source: RFC 9162 2.1.3.1.
    """
    check_index(index, len(leaf_hashes))
    return _siblings(leaf_hashes, index, NODE_CONTEXT[algorithm].copy)


def _siblings(level: Sequence[bytes], index: int, copy: Copy) -> list[bytes]:
    path: list[bytes] = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _parents(level, copy)
        index >>= 1
    return path


def consistency_path(
    leaf_hashes: Sequence[bytes], old_size: int, new_size: int, *, algorithm: Algorithm = Algorithm.SM3
) -> list[bytes]:
    """The hashes that show the tree of the first `old_size` leaves to begin the tree of `new_size`.

    Shapes: 32 bytes each; empty if the sizes are equal or `old_size` is 0.
    Raises: Malformed unless 0 ≤ old_size ≤ new_size ≤ number of leaves.
    Source: RFC 9162 2.1.4.1.
    """
    check_sizes(old_size, new_size, len(leaf_hashes))
    if old_size in (0, new_size):
        return []
    copy = NODE_CONTEXT[algorithm].copy
    level: Sequence[bytes] = leaf_hashes[:new_size]
    index = old_size - 1
    while index & 1:
        level = _parents(level, copy)
        index >>= 1
    first = [level[index]] if index else []
    return first + _siblings(level, index, copy)


def _refuse(message: str) -> VerificationError:
    return VerificationError(message)


def _check_proof(path: Sequence[bytes], what: str, *others: bytes) -> None:
    if not isinstance(path, list | tuple):
        raise _refuse(f"{what} has wrong form: expected a list of hashes, got {type(path).__name__}")
    for each in (*others, *path):
        if not isinstance(each, bytes) or len(each) != DIGEST_BYTES:
            raise _refuse(f"{what} has a hash of wrong length: expected {DIGEST_BYTES} bytes")


def _is_size(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < MAX_SIZE


def _path_length(index: int, last: int) -> int:
    """How many hashes lead from a node to the root, the last node of its level being `last`."""
    length = 0
    while last > 0:
        length += 1 if index & 1 or index < last else 0
        index >>= 1
        last >>= 1
    return length


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, path: Sequence[bytes], root: bytes, *, algorithm: Algorithm = Algorithm.SM3
) -> None:
    """Pass a path that leads from the leaf at `index` to the root of a tree of `size` leaves.

    Shapes: hashes of 32 bytes, the path from the leaf upward.
    Raises: VerificationError if index ≥ size, a hash or the path has a wrong length, or the root differs.
    Source: RFC 9162 2.1.3.2.
    """
    _check_proof(path, "inclusion path", leaf_hash, root)
    if not _is_size(index) or not _is_size(size) or index >= size:
        raise _refuse("leaf index is out of range: expected less than the tree's size")
    expected = _path_length(index, size - 1)
    if len(path) != expected:
        raise _refuse(f"inclusion path has wrong length: expected {expected}, got {len(path)}")
    copy = NODE_CONTEXT[algorithm].copy
    fn, sn, running = index, size - 1, leaf_hash
    for each in path:
        state = copy()
        if fn & 1 or fn == sn:
            state.update(each + running)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            state.update(running + each)
        running = state.digest()
        fn >>= 1
        sn >>= 1
    if sn != 0 or running != root:
        raise _refuse(f"inclusion path leads to another root: expected {root[:4].hex()}…, got {running[:4].hex()}…")


def verify_consistency(
    old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes, new_root: bytes, *, algorithm: Algorithm = Algorithm.SM3
) -> None:
    """Pass a path that shows the tree of `old_size` leaves to begin the tree of `new_size`.

    Equal sizes need equal roots and an empty path; from size 0 the path is empty too, and the old
    root must be that of the empty tree.

    Shapes: hashes of 32 bytes.
    Raises: VerificationError if old_size > new_size, a hash or the path has a wrong length, or a root differs.
    Source: RFC 9162 2.1.4.2.
    """
    _check_proof(path, "consistency path", old_root, new_root)
    if not _is_size(old_size) or not _is_size(new_size) or old_size > new_size:
        raise _refuse("tree sizes are out of order: expected old size at most new size")
    for size, shown in ((old_size, old_root), (new_size, new_root)):
        if size == 0 and shown != EMPTY_ROOT[algorithm]:
            raise _refuse("root of the empty tree is wrong")
    if old_size in (0, new_size):
        if path:
            raise _refuse(f"consistency path has wrong length: expected 0, got {len(path)}")
        if old_size == new_size and old_root != new_root:
            raise _refuse("one size has two roots")
        return
    _walk_consistency(old_size, new_size, path, old_root, new_root, algorithm)


def _walk_consistency(
    old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes, new_root: bytes, algorithm: Algorithm
) -> None:
    """Steps 2 to 8 of RFC 9162 2.1.4.2, for 0 < old_size < new_size."""
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    expected = _path_length(fn, sn) + (1 if fn else 0)
    if len(path) != expected:
        raise _refuse(f"consistency path has wrong length: expected {expected}, got {len(path)}")
    # An old size that is a power of two is itself a node of the new tree, so its root begins the walk.
    rest = list(path) if fn else [old_root, *path]
    old_running = new_running = rest[0]
    for each in rest[1:]:
        if fn & 1 or fn == sn:
            old_running = node_hash(each, old_running, algorithm=algorithm)
            new_running = node_hash(each, new_running, algorithm=algorithm)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            new_running = node_hash(new_running, each, algorithm=algorithm)
        fn >>= 1
        sn >>= 1
    if sn != 0 or old_running != old_root:
        raise _refuse(f"consistency path leads to another old root: expected {old_root[:4].hex()}…")
    if new_running != new_root:
        raise _refuse(f"consistency path leads to another new root: expected {new_root[:4].hex()}…")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def subset_path(leaf_hashes: Sequence[bytes], indices: Collection[int], *, algorithm: Algorithm = Algorithm.SM3) -> list[bytes]:
    """The one proof that the leaves at `indices` stand in the tree of all these leaves.

    Shapes: walking from the root, left before right, the roots of subtrees that hold none of them.
    Raises: Malformed if there is no leaf, an index is out of range or given twice.
    Source: formats §1 (subset proof), ours: the RFC proves one leaf at a time.
    """
    wanted = sorted(indices)
    if not leaf_hashes:
        raise Malformed("tree has no leaf: got size 0")
    if len(set(wanted)) != len(wanted):
        raise Malformed("leaf index is given twice")
    for index in wanted:
        check_index(index, len(leaf_hashes))
    path: list[bytes] = []

    def walk(start: int, end: int, low: int, high: int) -> None:
        if low == high:
            path.append(root(leaf_hashes[start:end], algorithm=algorithm))
        elif end - start > 1:
            middle = start + _split(end - start)
            cut = bisect_left(wanted, middle, low, high)
            walk(start, middle, low, cut)
            walk(middle, end, cut, high)

    walk(0, len(leaf_hashes), 0, len(wanted))
    return path


def verify_subset(
    leaves: Mapping[int, bytes], size: int, path: Sequence[bytes], root: bytes, *, algorithm: Algorithm = Algorithm.SM3
) -> None:
    """Pass a proof that these leaf hashes stand at these indices of the tree of `size` leaves.

    Shapes: `leaves` by index, hashes of 32 bytes.
    Raises: VerificationError if an index is ≥ size, a hash is missing, left over or of wrong length, or the root differs.
    Source: formats §1 (subset proof).
    """
    _check_proof(path, "subset proof", root, *leaves.values())
    if not _is_size(size) or size == 0:
        raise _refuse("tree has no leaf: got size 0")
    if not all(_is_size(index) and index < size for index in leaves):
        raise _refuse("leaf index is out of range: expected less than the tree's size")
    wanted = sorted(leaves)
    hashes = iter(path)

    def walk(start: int, end: int, low: int, high: int) -> bytes:
        if low == high:
            found = next(hashes, None)
            if found is None:
                raise _refuse("subset proof lacks a hash")
            return found
        if end - start == 1:
            return leaves[start]
        middle = start + _split(end - start)
        cut = bisect_left(wanted, middle, low, high)
        left = walk(start, middle, low, cut)
        return node_hash(left, walk(middle, end, cut, high), algorithm=algorithm)

    running = walk(0, size, 0, len(wanted))
    if next(hashes, None) is not None:
        raise _refuse("subset proof has a hash left over")
    if running != root:
        raise _refuse(f"subset proof leads to another root: expected {root[:4].hex()}…, got {running[:4].hex()}…")


class Builder:
    """The root of a growing list of leaves in O(log n) memory."""

    __slots__ = ("_algorithm", "_peaks", "size")

    def __init__(self, *, algorithm: Algorithm = Algorithm.SM3) -> None:
        self._algorithm = algorithm
        self._peaks: list[bytes] = []
        self.size = 0

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf hash."""
        self.extend((leaf_hash,))

    def extend(self, leaf_hashes: Iterable[bytes]) -> None:
        """Add leaf hashes in order."""
        copy = NODE_CONTEXT[self._algorithm].copy
        peaks, size = self._peaks, self.size
        for each in leaf_hashes:
            running, left = each, size
            while left & 1:
                state = copy()
                state.update(peaks.pop() + running)
                running = state.digest()
                left >>= 1
            peaks.append(running)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """The root over the leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT[self._algorithm]
        running = self._peaks[-1]
        for left in reversed(self._peaks[:-1]):
            running = node_hash(left, running, algorithm=self._algorithm)
        return running

    def copy(self) -> Builder:
        """Another builder that goes on from here."""
        twin = Builder(algorithm=self._algorithm)
        twin._peaks = self._peaks.copy()
        twin.size = self.size
        return twin


class Tree:
    """A whole tree in memory, every complete node kept once: about 64 bytes a leaf."""

    __slots__ = ("_algorithm", "_edge", "_levels", "size")

    def __init__(self, leaf_hashes: Sequence[bytes] = (), *, algorithm: Algorithm = Algorithm.SM3) -> None:
        self._algorithm = algorithm
        self._levels = [bytearray()]
        self._edge: tuple[int, list[bytes]] = (0, [])
        self.size = 0
        self.extend(leaf_hashes)

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf hash."""
        self.extend((leaf_hash,))

    def extend(self, leaf_hashes: Sequence[bytes]) -> None:
        """Add leaf hashes in order.

        Raises: Malformed if one is not 32 bytes; nothing is added then.
        """
        check_hashes(leaf_hashes, "list of leaves")
        lowest = self._levels[0]
        for start in range(0, len(leaf_hashes), CHUNK):
            lowest += b"".join(leaf_hashes[start : start + CHUNK])
        self.size += len(leaf_hashes)
        grow(self._levels, self._algorithm)

    def _node(self, level: int, index: int) -> bytes:
        return hash_at(self._levels[level], index * DIGEST_BYTES)[0]

    def _edge_at(self, size: int) -> list[bytes]:
        known, edge = self._edge
        if known != size:
            edge = right_edge(self._node, size, self._algorithm)
            self._edge = (size, edge)
        return edge

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves, or over all.

        Raises: Malformed if there are not that many.
        """
        size = self.size if size is None else size
        check_sizes(0, size, self.size)
        return self._edge_at(size)[-1] if size else EMPTY_ROOT[self._algorithm]

    def inclusion_path(self, index: int, size: int | None = None) -> list[bytes]:
        """The inclusion path of leaf `index` in the tree of the first `size` leaves, or of all.

        Raises: Malformed unless index < size ≤ number of leaves.
        """
        size = self.size if size is None else size
        check_sizes(0, size, self.size)
        check_index(index, size)
        edge, levels = self._edge_at(size), self._levels
        path: list[bytes] = []
        last = size - 1
        level = 0
        # path_from, unrolled: a call for each of twenty levels would cost as much as the rest.
        while last:
            sibling = index ^ 1
            if sibling < last:
                path += hash_at(levels[level], sibling * DIGEST_BYTES)
            elif sibling == last:
                path.append(edge[level])
            index >>= 1
            last >>= 1
            level += 1
        return path

    def consistency_path(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """The consistency path between the trees of the first `old_size` and `new_size` leaves.

        Raises: Malformed unless 0 ≤ old ≤ new ≤ number of leaves.
        """
        new_size = self.size if new_size is None else new_size
        check_sizes(old_size, new_size, self.size)
        if old_size in (0, new_size):
            return []
        return consistency_from(self._node, self._edge_at(new_size), old_size, new_size)
