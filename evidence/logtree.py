"""One of the log's two trees over its stored tiles, at one size; safe to read from any thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sqlalchemy import Connection

from evidence import store as rows
from evidence.store import TREE_NUMBER, Store
from models.digest import DIGEST_BYTES, Algorithm
from models.errors import VerificationError
from models.merkle import leaf_hashes, root
from models.tiles import TILE_WIDTH, TiledTree


class LogTree:
    """A tree that never changes: `extended` gives the next one. Full tiles come from the database.

    `new_tiles` are those that the last extension completed: (tree, level, number, bytes), to be
    stored in the same transaction.
    """

    def __init__(self, tree: TiledTree, algorithm: Algorithm, new_tiles: Sequence[tuple[int, int, int, bytes]] = ()) -> None:
        self._tree, self.algorithm, self.new_tiles = tree, algorithm, new_tiles
        self.size = tree.size
        self._root = tree.root()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, store: Store, connection: Connection, algorithm: Algorithm, size: int) -> LogTree:
        """The tree over the first `size` stored entries; hashes of open tiles are made anew from what lies below them."""
        number = TREE_NUMBER[algorithm.value]

        def build(level: int, index: int, width: int) -> bytes:
            start = index * TILE_WIDTH
            if width == TILE_WIDTH:
                return _full_tile(connection, number, level, index)
            if level == 0:
                return b"".join(leaf_hashes(rows.read_entries(connection, start, start + width), algorithm=algorithm))
            below = (_full_tile(connection, number, level - 1, start + place) for place in range(width))
            return b"".join(root(_split(data), algorithm=algorithm) for data in below)

        opened = TiledTree(size, build, algorithm=algorithm)

        def fetch(level: int, index: int, width: int) -> bytes:
            if width != TILE_WIDTH:
                raise VerificationError("an open tile was asked of the database: expected full ones only")
            with store.reading() as reader:
                return _full_tile(reader, number, level, index)

        return cls(opened.reading_from(fetch), algorithm)

    def extended(self, entries: Sequence[bytes]) -> LogTree:
        """The tree with these entries behind the present ones."""
        with self._lock:
            tree = self._tree.copy()
        tiles = tree.append(leaf_hashes(entries, algorithm=self.algorithm))
        number = TREE_NUMBER[self.algorithm.value]
        return LogTree(tree, self.algorithm, [(number, tile.level, tile.n, tile.data) for tile in tiles])

    def root(self, size: int | None = None) -> bytes:
        """The root at `size`, or at the present size."""
        if size is None or size == self.size:
            return self._root
        with self._lock:
            return self._tree.root(size)

    def inclusion_path(self, index: int, size: int | None = None) -> list[bytes]:
        """The RFC 9162 path of leaf `index` in the tree of `size`. Raises: Malformed if there is no such leaf."""
        with self._lock:
            return self._tree.inclusion_path(index, size)

    def inclusion_paths(self, start: int) -> list[tuple[bytes, ...]]:
        """The paths of leaves `start` and onward at the present size. Raises: Malformed if there are not that many leaves."""
        with self._lock:
            return self._tree.inclusion_paths(start)

    def consistency_path(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """The RFC 9162 path between two sizes. Raises: Malformed if there are no such sizes."""
        with self._lock:
            return self._tree.consistency_path(old_size, new_size)

    def open_tile(self, level: int) -> bytes:
        """The hashes of the open tile of `level`, joined; empty where none is open."""
        with self._lock:
            hashes = self._tree.open_hashes()
        return hashes[level] if level < len(hashes) else b""


def _full_tile(connection: Connection, tree: int, level: int, number: int) -> bytes:
    data = rows.read_tile(connection, tree, level, number)
    if data is None or len(data) != TILE_WIDTH * DIGEST_BYTES:
        raise VerificationError(f"tile {number} of level {level} is missing or short in the database")
    return bytes(data)


def _split(data: bytes) -> list[bytes]:
    return [data[start : start + DIGEST_BYTES] for start in range(0, len(data), DIGEST_BYTES)]
