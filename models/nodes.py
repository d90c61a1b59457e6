"""How the hashes of a Merkle tree are made, and where those of its proofs stand.

Shared by the trees in `models.merkle` and `models.tiles`. In a tree of n leaves every hash of a
proof is either a *complete* node (2^level leaves, never changes) or on the *right edge* (the last
node of its level, changes with n). So a tree keeps complete nodes and works the edge out per size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any, Protocol

from models.digest import DIGEST_BYTES, Algorithm, Hasher, Pair, digest, hasher, sha256
from models.errors import Malformed
from models.native import library as native

MAX_SIZE = 1 << 63
SALT_BYTES = 16
LEAF = b"\x00"
_NODE = b"\x01"
_FLAT = b"\x02"
CHUNK = 8192
_FEW = 8
_AT_ONCE = 1024
JOINED_BYTES = 4 << 20
"""From so few messages on the native core is faster; so many of them, and so many bytes, are joined for it at a time."""

_HASH = Struct(f"{DIGEST_BYTES}s")
hash_at: Callable[[bytes | bytearray, int], tuple[bytes]] = _HASH.unpack_from
"""The hash at a byte offset, as a tuple of one: half the time of a slice made into bytes."""

Copy = Callable[[], Any]
"""What gives a fresh copy of a context. Any, since the loops below ask `update` for the None it always gives."""

LEAF_CONTEXT: dict[Algorithm, Hasher] = {algorithm: hasher(algorithm, LEAF) for algorithm in Algorithm}
_CONTEXT = hasher(Algorithm.SM3)
NODE_CONTEXT: dict[Algorithm, Hasher] = {algorithm: hasher(algorithm, _NODE) for algorithm in Algorithm}
EMPTY_ROOT: dict[Algorithm, bytes] = {algorithm: digest(algorithm, b"") for algorithm in Algorithm}
CORE: dict[Algorithm, native.Core] = {} if (_core := native.load()) is None else {Algorithm.SM3: _core}
"""What hashes many messages of an algorithm at once, where there is something that does."""


def leaf_hash(data: bytes, *, algorithm: Algorithm = Algorithm.SM3) -> bytes:
    """H(0x00 ‖ data), the hash of a leaf.

    Shapes: any length → 32 bytes.
    Source: RFC 9162 2.1.1.
    """
    state = LEAF_CONTEXT[algorithm].copy()
    state.update(data)
    return state.digest()


def leaf_hashes(datas: Iterable[bytes], *, algorithm: Algorithm = Algorithm.SM3) -> list[bytes]:
    """The leaf hash of each of `datas`, in order."""
    return _hash_each(LEAF, LEAF_CONTEXT[algorithm], datas, algorithm)


def pairs(datas: Iterable[bytes]) -> list[Pair]:
    """Both digests of each of `datas`, in order: `pair` of many messages."""
    datas = list(datas)
    twins = [sha256(data) for data in datas]
    return list(map(Pair, _hash_each(b"", _CONTEXT, datas, Algorithm.SM3), twins))


def _hash_each(front: bytes, context: Hasher, datas: Iterable[bytes], algorithm: Algorithm) -> list[bytes]:
    """H(front ‖ data) of each of `datas`; `context` has taken the front in."""
    core = CORE.get(algorithm)
    if core is None:
        return _one_by_one(context, datas)
    datas = datas if isinstance(datas, list | tuple) else list(datas)
    if len(datas) < _FEW:
        return _one_by_one(context, datas)
    hashes: list[bytes] = []
    for start in range(0, len(datas), _AT_ONCE):
        part = datas[start : start + _AT_ONCE] if len(datas) > _AT_ONCE else datas
        if sum(map(len, part)) > JOINED_BYTES:
            hashes += _one_by_one(context, part)
        else:
            hashes += split(core.hash_each(front, b"".join(part), native.offsets_of(part)))
    return hashes


def split(hashes: bytes) -> list[bytes]:
    """Joined hashes one by one, 32 bytes each."""
    return [each for (each,) in _HASH.iter_unpack(hashes)]


def _one_by_one(context: Hasher, datas: Iterable[bytes]) -> list[bytes]:
    copy: Copy = context.copy
    # `update` gives None, always: this is the one way to three calls a message without a fourth to append.
    return [state.digest() for data in datas if (state := copy()).update(data) is None]


def node_hash(left: bytes, right: bytes, *, algorithm: Algorithm = Algorithm.SM3) -> bytes:
    """H(0x01 ‖ left ‖ right), the hash of an inner node.

    Shapes: 32 and 32 bytes → 32 bytes.
    Source: RFC 9162 2.1.1.
    """
    state = NODE_CONTEXT[algorithm].copy()
    state.update(left + right)
    return state.digest()


def empty_root(algorithm: Algorithm = Algorithm.SM3) -> bytes:
    """H(""), the root of the tree without leaves."""
    return EMPTY_ROOT[algorithm]


def flat(salt: bytes, datas: Iterable[bytes], *, algorithm: Algorithm) -> bytes:
    """H(0x02 ‖ salt ‖ each length ‖ data): one commitment to the whole list.

    Shapes: salt 16 bytes, lengths u32 big-endian → 32 bytes.
    Raises: Malformed if the salt has another length.
    Source: formats §1, ours: the twin of a tree without a second tree.
    """
    if len(salt) != SALT_BYTES:
        raise Malformed(f"salt has wrong length: expected {SALT_BYTES} bytes, got {len(salt)}")
    parts = [_FLAT, salt]
    for data in datas:
        parts += (len(data).to_bytes(4), data)
    return digest(algorithm, b"".join(parts))


def check_hashes(hashes: Iterable[bytes], what: str) -> None:
    """Pass hashes that are 32 bytes each.

    Raises: Malformed if one is not.
    """
    for each in hashes:
        if not isinstance(each, bytes) or len(each) != DIGEST_BYTES:
            raise Malformed(f"{what} has a hash of wrong length: expected {DIGEST_BYTES} bytes")


def check_index(index: int, size: int) -> None:
    """Pass 0 ≤ index < size.

    Raises: Malformed otherwise.
    """
    if size == 0:
        raise Malformed("tree has no leaf: got size 0")
    if not 0 <= index < size:
        raise Malformed(f"leaf index is out of range: expected 0 to {size - 1}, got {index}")


def check_sizes(old_size: int, new_size: int, size: int) -> None:
    """Pass 0 ≤ old_size ≤ new_size ≤ size.

    Raises: Malformed otherwise.
    """
    if not 0 <= old_size <= new_size <= size:
        raise Malformed(f"tree sizes are out of order: expected 0 ≤ old ≤ new ≤ {size}, got {old_size} and {new_size}")


class Nodes(Protocol):
    """Where the complete nodes of a tree come from: `node(level, index)` covers leaves index·2^level onward."""

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of a complete node, 32 bytes."""


def right_edge(node: Nodes, size: int, algorithm: Algorithm) -> list[bytes]:
    """The last node of each level in a tree of `size` ≥ 1 leaves, leaf level first, the root last.

    All proofs at one size share these; every other hash of a proof is a complete node.
    """
    last = size - 1
    running = node(0, last)
    edge = [running]
    level = 0
    while last:
        if last & 1:
            running = node_hash(node(level, last - 1), running, algorithm=algorithm)
        edge.append(running)
        last >>= 1
        level += 1
    return edge


def path_from(node: Nodes, edge: Sequence[bytes], level: int, index: int, last: int) -> list[bytes]:
    """The hashes from node (level, index) to the root, `last` being the last node of that level."""
    path: list[bytes] = []
    append = path.append
    while last:
        sibling = index ^ 1
        if sibling < last:
            append(node(level, sibling))
        elif sibling == last:
            append(edge[level])
        index >>= 1
        last >>= 1
        level += 1
    return path


def consistency_from(node: Nodes, edge: Sequence[bytes], old_size: int, new_size: int) -> list[bytes]:
    """The consistency path between two sizes, 0 < old < new, `edge` being the right edge at the new one."""
    level, index, last = 0, old_size - 1, new_size - 1
    while index & 1:
        index >>= 1
        last >>= 1
        level += 1
    first = [node(level, index)] if index else []
    return first + path_from(node, edge, level, index, last)


def grow(levels: list[bytearray], algorithm: Algorithm, *, height: int = 64) -> None:
    """Complete the upper levels after hashes were added to the lowest: each two nodes give one above."""
    copy: Copy = NODE_CONTEXT[algorithm].copy
    core = CORE.get(algorithm)
    level = 0
    while level < height and len(levels[level]) >= 2 * DIGEST_BYTES:
        if level + 1 == len(levels):
            levels.append(bytearray())
        below, above = levels[level], levels[level + 1]
        done, end = 2 * len(above), len(below) - len(below) % (2 * DIGEST_BYTES)
        for start in range(done, end, CHUNK * 2 * DIGEST_BYTES):
            chunk = bytes(below[start : min(end, start + CHUNK * 2 * DIGEST_BYTES)])
            if core is not None:
                above += core.parents(chunk)
                continue
            places = range(0, len(chunk), 2 * DIGEST_BYTES)
            above += b"".join(
                [state.digest() for at in places if (state := copy()).update(chunk[at : at + 2 * DIGEST_BYTES]) is None]
            )
        level += 1
