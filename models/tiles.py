"""The log's tree, kept in tiles of 256 hashes: bounded memory at any size, and the C2SP paths.

A tile of level t holds complete nodes of tree level 8·t. Full tiles never change and are read back
from where they are stored; only the open one of each level (at most 255 hashes) is held here, with
a bounded number of full tiles that proofs asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from models.digest import DIGEST_BYTES, Algorithm
from models.errors import Malformed
from models.nodes import (
    EMPTY_ROOT,
    check_hashes,
    check_index,
    check_sizes,
    consistency_from,
    grow,
    hash_at,
    path_from,
    right_edge,
    split,
)

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = TILE_WIDTH * DIGEST_BYTES
ENTRIES = -1
"""The level of a tile that holds entries instead of hashes."""
TILES_CACHED = 256
EDGES_CACHED = 16
MAX_LEVEL = 63

_INDEX = re.compile(r"((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


class Tile(NamedTuple):
    """A full tile: its level, its number in the level, and its 256 hashes joined."""

    level: int
    n: int
    data: bytes


def index_path(index: int, width: int = TILE_WIDTH) -> str:
    """`N[.p/W]` of a tile: `x001/x234/067`, or `x001/x234/067.p/5` for one of five hashes.

    Raises: Malformed if the index is negative or the width is not 1 to 256.
    Source: C2SP tlog-tiles (Merkle Tree).
    """
    if index < 0 or not 1 <= width <= TILE_WIDTH:
        raise Malformed(f"tile is out of range: expected an index from 0 and a width of 1 to {TILE_WIDTH}")
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return "".join(f"x{group}/" for group in groups[:-1]) + groups[-1] + partial


def parse_index_path(text: str) -> tuple[int, int]:
    """The index and width that `N[.p/W]` names.

    Raises: Malformed if it is not the one form of that tile.
    """
    match = _INDEX.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        raise Malformed("tile path has wrong form: expected for example x001/234 or x001/234.p/5")
    before, last, partial = match.groups()
    index = int(before.replace("x", "").replace("/", "") + last)
    width = int(partial) if partial else TILE_WIDTH
    if not 1 <= width <= TILE_WIDTH or index_path(index, width) != text:
        raise Malformed("tile path has wrong form: expected no needless x000 and a width of 1 to 255")
    return index, width


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile below the log's prefix: `tile/0/x001/234.p/5`, or `tile/entries/x001/234`.

    Raises: Malformed if the level is not 0 to 63 or `ENTRIES`, or index or width is out of range.
    Source: C2SP tlog-tiles (Merkle Tree, Log Entries).
    """
    if not (0 <= level <= MAX_LEVEL or level == ENTRIES):
        raise Malformed(f"tile level is out of range: expected 0 to {MAX_LEVEL}, got {level}")
    name = "entries" if level == ENTRIES else str(level)
    return f"tile/{name}/{index_path(index, width)}"


def parse_tile_path(text: str) -> tuple[int, int, int]:
    """The level (`ENTRIES` for entries), index and width of a tile's path.

    Raises: Malformed if it is not the one form of that tile.
    """
    match = re.fullmatch(r"tile/(entries|0|[1-9][0-9]?)/(.*)", text, re.ASCII) if len(text) <= 80 else None
    if match is None or (match[1] != "entries" and int(match[1]) > MAX_LEVEL):
        raise Malformed(f"tile path has wrong form: expected tile/, a level of 0 to {MAX_LEVEL} or entries, and a place")
    level = ENTRIES if match[1] == "entries" else int(match[1])
    return (level, *parse_index_path(match[2]))


def _expand(data: bytes, algorithm: Algorithm) -> tuple[bytes, ...]:
    """All nine levels of a full tile, its 256 hashes first, its own root last."""
    levels = [bytearray(data)]
    grow(levels, algorithm, height=TILE_HEIGHT)
    return tuple(bytes(level) for level in levels)


class TiledTree:
    """The tree of a log whose full tiles are stored elsewhere.

    `read_tile(level, index, width)` gives the first `width` hashes of a stored tile, joined. The
    tiles an append completed can be read here until the next append, so that proofs may be made
    before they are stored. Not for several threads at once. To be able to go back, `copy()` first.
    """

    __slots__ = ("_algorithm", "_edges", "_fresh", "_full", "_open", "_read_tile", "size")

    def __init__(self, size: int, read_tile: Callable[[int, int, int], bytes], *, algorithm: Algorithm = Algorithm.SM3) -> None:
        self._algorithm = algorithm
        self._read_tile = read_tile
        self._open: list[list[bytearray]] = []
        self._full: dict[tuple[int, int], tuple[bytes, ...]] = {}
        self._fresh: dict[tuple[int, int], bytes] = {}
        self._edges: dict[int, list[bytes]] = {}
        self.size = size
        complete = size
        while complete:
            width = complete % TILE_WIDTH
            data = self._read(len(self._open), complete // TILE_WIDTH, width) if width else b""
            levels = [bytearray(data)]
            grow(levels, algorithm, height=TILE_HEIGHT)
            self._open.append(levels)
            complete //= TILE_WIDTH

    def _read(self, level: int, index: int, width: int) -> bytes:
        data = self._read_tile(level, index, width)
        if len(data) != width * DIGEST_BYTES:
            name = tile_path(level, index, width)
            raise Malformed(f"tile has wrong length: expected {width * DIGEST_BYTES} bytes, got {len(data)} ({name})")
        return data

    def append(self, leaf_hashes: Sequence[bytes]) -> list[Tile]:
        """Add leaf hashes in order; what comes back are the tiles that became full and must be stored.

        Raises: Malformed if a hash is not 32 bytes; nothing is added then.
        """
        check_hashes(leaf_hashes, "list of leaves")
        full: list[Tile] = []
        self._fresh = {}
        start = 0
        while start < len(leaf_hashes):
            space = TILE_WIDTH - self.size % TILE_WIDTH
            batch = leaf_hashes[start : start + space]
            start += len(batch)
            before = self.size
            self.size += len(batch)
            self._push(0, before, b"".join(batch), full)
        return full

    def _push(self, level: int, complete: int, data: bytes, full: list[Tile]) -> None:
        """Add joined hashes, at most up to the end of the open tile, to a level that had `complete` of them."""
        if level == len(self._open):
            self._open.append([bytearray()])
        levels = self._open[level]
        levels[0] += data
        grow(levels, self._algorithm, height=TILE_HEIGHT)
        if len(levels[0]) < TILE_BYTES:
            return
        index = complete // TILE_WIDTH
        tile = Tile(level, index, bytes(levels[0]))
        full.append(tile)
        self._fresh[level, index] = tile.data
        self._open[level] = [bytearray()]
        self._push(level + 1, index, bytes(levels[TILE_HEIGHT]), full)

    def open_hashes(self) -> tuple[bytes, ...]:
        """The hashes of the open tile of each level, joined, lowest level first; empty where none is open."""
        return tuple(bytes(levels[0]) for levels in self._open)

    def copy(self) -> TiledTree:
        """Another tree of the same leaves, cheap; appending to one leaves the other as it was."""
        twin = TiledTree(0, self._read_tile, algorithm=self._algorithm)
        twin._open = [[bytearray(level) for level in levels] for levels in self._open]
        twin._full = self._full.copy()
        twin._fresh = self._fresh.copy()
        twin._edges = self._edges.copy()
        twin.size = self.size
        return twin

    def reading_from(self, read_tile: Callable[[int, int, int], bytes]) -> TiledTree:
        """This tree, which from now on asks `read_tile` for full tiles."""
        self._read_tile = read_tile
        return self

    def _levels_of(self, level: int, index: int) -> Sequence[bytes | bytearray]:
        if index == self.size >> (TILE_HEIGHT * (level + 1)):
            return self._open[level]
        levels = self._full.get((level, index))
        if levels is None:
            data = self._fresh.get((level, index)) or self._read(level, index, TILE_WIDTH)
            levels = _expand(data, self._algorithm)
            while len(self._full) >= TILES_CACHED:
                del self._full[next(iter(self._full))]
            self._full[level, index] = levels
        return levels

    def _node(self, level: int, index: int) -> bytes:
        """The hash of a complete node of the tree."""
        tile_level, inner = divmod(level, TILE_HEIGHT)
        place = index >> (TILE_HEIGHT - inner)
        found = self._levels_of(tile_level, place)[inner]
        return hash_at(found, (index & ((TILE_WIDTH >> inner) - 1)) * DIGEST_BYTES)[0]

    def _nodes(self, level: int, start: int, stop: int) -> list[bytes]:
        """The hashes of the complete nodes [start, stop) of a level."""
        tile_level, inner = divmod(level, TILE_HEIGHT)
        width = TILE_WIDTH >> inner
        found: list[bytes] = []
        while start < stop:
            place, at = divmod(start, width)
            end = min(stop, start - at + width)
            levels = self._levels_of(tile_level, place)
            found += split(bytes(levels[inner][at * DIGEST_BYTES : (at + end - start) * DIGEST_BYTES]))
            start = end
        return found

    def _edge_at(self, size: int) -> list[bytes]:
        edge = self._edges.get(size)
        if edge is None:
            edge = right_edge(self._node, size, self._algorithm)
            while len(self._edges) >= EDGES_CACHED:
                del self._edges[next(iter(self._edges))]
            self._edges[size] = edge
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
        return path_from(self._node, self._edge_at(size), 0, index, size - 1)

    def inclusion_paths(self, start: int) -> list[tuple[bytes, ...]]:
        """The inclusion paths of leaves `start` and onward in the tree of all leaves, each as `inclusion_path` gives it.

        Raises: Malformed unless start ≤ number of leaves.
        """
        check_sizes(start, self.size, self.size)
        if start == self.size:
            return []
        edge, last = self._edge_at(self.size), self.size - 1
        paths: list[tuple[bytes, ...]] = [()]
        # From the root down: what the paths of two siblings share is made once.
        for level in reversed(range(last.bit_length())):
            first, final = start >> level, last >> level
            even, shared, above = first & ~1, first >> 1, paths
            nodes, paths = [*self._nodes(level, even, final), edge[level]], []
            for index in range(first, final + 1):
                sibling, rest = (index ^ 1) - even, above[(index >> 1) - shared]
                paths.append((nodes[sibling], *rest) if sibling < len(nodes) else rest)
        return paths

    def consistency_path(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """The consistency path between the trees of the first `old_size` and `new_size` leaves.

        Raises: Malformed unless 0 ≤ old ≤ new ≤ number of leaves.
        """
        new_size = self.size if new_size is None else new_size
        check_sizes(old_size, new_size, self.size)
        if old_size in (0, new_size):
            return []
        return consistency_from(self._node, self._edge_at(new_size), old_size, new_size)
