"""The leaves of a range as they are stored: E, the entry beside it, and the hashes of full tiles, held against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, type_coerce
from sqlalchemy.types import NullType

from evidence import tables
from evidence.examination.damage import Findings
from evidence.examination.kept import as_bytes, plain, raw
from evidence.examination.trees import TREES, Suspect, Trees, name_short_tile
from evidence.store import TREE_NUMBER, CheckpointRow, ItemRow
from models.digest import DIGEST_BYTES, Algorithm, pair
from models.errors import EvidenceError
from models.evidence import ENTRY_BYTES, Evidence
from models.merkle import leaf_hash, leaf_hashes
from models.tiles import TILE_BYTES, TILE_WIDTH

TileData = dict[tuple[Algorithm, int], bytes]


@dataclass(slots=True)
class Leaf:
    """One leaf: its row, the entry that its E gives, and E itself if another copy of the leaf agrees with it."""

    index: int
    row: ItemRow | None
    made: bytes | None = None
    evidence: Evidence | None = None

    def believe(self) -> None:
        """E is what the row holds, if it can be read."""
        try:
            self.evidence = None if self.row is None or self.row.data is None else Evidence.parse(self.row.data)
        except (EvidenceError, ValueError):
            self.evidence = None


def read_rows(connection: Connection, start: int, stop: int) -> dict[int, ItemRow]:
    """The rows of items in [start, stop) by leaf."""
    c = tables.evidence.c
    query = select(*raw(tables.evidence)).where(c.leaf_index >= start, c.leaf_index < stop).order_by(c.leaf_index)
    found = {}
    for row in connection.execute(query):
        index, identity, entry, data, *rest = plain(row)
        found[index] = ItemRow(index, as_bytes(identity), as_bytes(entry), None if data is None else as_bytes(data), *rest)
    return found


def read_tiles(connection: Connection, start: int, stop: int, size: int, findings: Findings) -> TileData:
    """The full tiles of level 0 over [start, stop) in a log of `size`; those absent or of another length are named.

    Shapes: `start` is a multiple of 256.
    """
    first, last = start // TILE_WIDTH, min(stop, size) // TILE_WIDTH
    c = tables.tile.c
    query = select(c.tree, c.number, type_coerce(c.data, NullType())).where(c.level == 0, c.number >= first, c.number < last)
    held = {(row[0], row[1]): as_bytes(plain(row)[2]) for row in connection.execute(query)}
    found: TileData = {}
    for algorithm in TREES:
        for number in range(first, last):
            data = held.get((TREE_NUMBER[algorithm.value], number))
            findings.count("tiles")
            if data is None or len(data) != TILE_BYTES:
                name_short_tile(findings, algorithm, 0, number, data)
            else:
                found[algorithm, number] = data
    return found


def read_leaf(index: int, row: ItemRow | None, tiles: TileData) -> Leaf:
    """The leaf with its E, if E can be read and the entry or a tile agrees with it."""
    leaf = Leaf(index, row)
    if row is None or row.data is None:
        return leaf
    digests = pair(row.data)
    leaf.made = digests.sm3 + digests.sha256
    if leaf.made != row.entry and not _in_tile(leaf.made, index, tiles):
        return leaf
    leaf.believe()
    return leaf


def _in_tile(entry: bytes, index: int, tiles: TileData) -> bool:
    return any(_tile_hash(tiles, algorithm, index) == leaf_hash(entry, algorithm=algorithm) for algorithm in TREES)


def _tile_hash(tiles: TileData, algorithm: Algorithm, index: int) -> bytes | None:
    data = tiles.get((algorithm, index // TILE_WIDTH))
    at = index % TILE_WIDTH * DIGEST_BYTES
    return None if data is None else data[at : at + DIGEST_BYTES]


def feed(
    trees: Trees,
    leaves: Sequence[Leaf],
    tiles: TileData,
    checkpoints: Sequence[CheckpointRow],
    meet: Callable[[CheckpointRow], None],
) -> None:
    """The trees take the leaves in order; each checkpoint is met at its size."""
    entries = [_agreed(leaf) for leaf in leaves]
    suspects = {place for place, entry in enumerate(entries) if not entry}
    hashes = [leaf_hashes(entries, algorithm=algorithm) for algorithm in TREES]
    start = leaves[0].index if leaves else 0
    for algorithm, made in zip(TREES, hashes, strict=True):
        suspects |= _unlike_tiles(algorithm, made, start, tiles)
    place = 0
    for checkpoint in [*checkpoints, None]:
        end = len(leaves) if checkpoint is None else checkpoint.size - start
        for at in [*sorted(each for each in suspects if place <= each < end), end]:
            if place < at:
                trees.take(hashes[0][place:at], hashes[1][place:at])
            if at < end:
                trees.take_suspect(_suspect(leaves[at], tiles))
            place = at + 1
        place = end
        if checkpoint is not None:
            meet(checkpoint)


def _agreed(leaf: Leaf) -> bytes:
    """The entry that E and the entry column agree on; of an item erased with E, the entry; else nothing."""
    if leaf.row is None or len(leaf.row.entry) != ENTRY_BYTES:
        return b""
    return leaf.row.entry if leaf.row.data is None or leaf.made == leaf.row.entry else b""


def _unlike_tiles(algorithm: Algorithm, made: Sequence[bytes], start: int, tiles: TileData) -> set[int]:
    found: set[int] = set()
    for at in range(0, len(made), TILE_WIDTH):
        data = tiles.get((algorithm, (start + at) // TILE_WIDTH))
        width = made[at : at + TILE_WIDTH]
        if data is None or data == b"".join(width):
            continue
        places = range(len(width))
        found |= {at + place for place in places if data[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES] != width[place]}
    return found


def _suspect(leaf: Leaf, tiles: TileData) -> Suspect:
    entry = None if leaf.row is None or len(leaf.row.entry) != ENTRY_BYTES else leaf.row.entry
    hashes = {algorithm: _tile_hash(tiles, algorithm, leaf.index) for algorithm in TREES}
    held = {algorithm: found for algorithm, found in hashes.items() if found is not None}
    return Suspect(leaf.index, leaf.made, entry, held, _is_likely(leaf))


def _is_likely(leaf: Leaf) -> bool:
    """Whether the bytes stored as E read as the columns beside them say."""
    row = leaf.row
    try:
        evidence = Evidence.parse(row.data if row is not None and row.data is not None else b"")
    except (EvidenceError, ValueError):
        return False
    created = round(evidence.created_at.timestamp() * 1000)
    return row is not None and (bytes.fromhex(evidence.evidence_id[3:]), created) == (row.evidence_id, row.created_ms)
