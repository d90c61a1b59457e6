"""Where the log stands at one moment: everything an examination compares later is bounded by it.

The head, the sums over the tables beside items and what lies outside the log are read in one
transaction. All else is read afterwards in small ones: what lies below the size never changes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from evidence import tables
from evidence.anchors import FINAL
from evidence.errors import HomeRefused
from evidence.examination.damage import Findings, How, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import Tally, outside, stored
from evidence.examination.trees import TREE_OF, full_tiles, tile_name
from evidence.store import CheckpointRow, HeadRow, read_checkpoint, read_head
from models.checkpoint import Checkpoint, Note
from models.errors import EvidenceError, Malformed
from models.names import check_origin


@dataclass(slots=True)
class Snapshot:
    """The log at one moment: its size, its name, the sums of the tables beside items, how far each chain's list went."""

    size: int
    origin: str
    head: HeadRow | None
    tally: Tally
    unread: set[Unit]
    firsts: dict[str, int] = field(default_factory=dict)
    last_anchor: dict[str, int] = field(default_factory=dict)
    final_end: dict[str, int] = field(default_factory=dict)


def take(connection: Connection, ground: Ground) -> Snapshot:
    """The snapshot; what lies outside the log is named.

    Raises: HomeRefused if the database holds no log at all.
    """
    findings = ground.findings
    head, newest = read_head(connection), read_checkpoint(connection)
    rows = _row_count(connection)
    if head is None and newest is None and not rows:
        raise HomeRefused("the database holds no log: expected `evidence init` to have run")
    if head is None:
        findings.add(Unit.HEAD, "head", How.MISSING, "the row that says where the log stands is absent")
    size = _size(head, newest, rows, findings)
    tally, unread = stored(connection, size, findings)
    snapshot = Snapshot(size, _origin(ground, head, newest), head, tally, unread)
    _name_outside(connection, size, findings)
    _name_spare_tiles(connection, size, findings)
    c = tables.anchor.c
    snapshot.firsts = {row.id: row.first for row in connection.execute(select(tables.chain))}
    last = select(c.chain, func.max(c.start)).group_by(c.chain)
    snapshot.last_anchor = {row[0]: row[1] for row in connection.execute(last)}
    final = select(c.chain, func.max(c.end)).where(c.state == FINAL).group_by(c.chain)
    snapshot.final_end = {row[0]: row[1] for row in connection.execute(final)}
    return snapshot


def _row_count(connection: Connection) -> int:
    newest = connection.execute(select(func.max(tables.evidence.c.leaf_index))).scalar()
    return newest + 1 if isinstance(newest, int) else 0


def _size(head: HeadRow | None, newest: CheckpointRow | None, rows: int, findings: Findings) -> int:
    """How many leaves the log has: head row, newest checkpoint and rows of items say it; the odd one out is named."""
    signed = 0 if newest is None else newest.size
    if head is None or head.size == signed:
        return signed
    votes = Counter([head.size, signed, rows]).most_common(1)
    size = votes[0][0] if votes[0][1] > 1 else min(max(head.size, signed), rows)
    if size != head.size:
        detail = "column size is not that of the newest checkpoint"
        findings.add(Unit.HEAD, "head size", How.ALTERED, detail, expected=signed, found=head.size)
    elif signed < size:
        detail = "the newest checkpoint is absent: the head stands beyond it"
        findings.add(Unit.CHECKPOINT, f"size {size}", How.MISSING, detail, expected=size, found=signed)
    return size


def _origin(ground: Ground, head: HeadRow | None, newest: CheckpointRow | None) -> str:
    """The log's name, as most of its signed note, head row, home.json and settings have it."""
    votes: Counter[str] = Counter()
    if newest is not None:
        try:
            votes[Checkpoint.parse(Note.parse(newest.note).text).origin] += 2
        except (EvidenceError, TypeError):
            votes[ground.settings.origin] += 0
    for name in (None if head is None else head.origin, None if ground.facts is None else ground.facts.origin):
        if name is not None and _is_origin(name):
            votes[name] += 2
    votes[ground.settings.origin] += 1
    origin = votes.most_common(1)[0][0]
    if head is not None and head.origin != origin:
        ground.findings.add(Unit.HEAD, "head origin", How.ALTERED, "column origin is not the log's name", expected=origin)
    return origin


def _is_origin(name: str) -> bool:
    try:
        check_origin(name)
    except Malformed:
        return False
    return True


def _name_outside(connection: Connection, size: int, findings: Findings) -> None:
    for unit, table in ((Unit.ROW, tables.evidence), (Unit.CONTENT, tables.content)):
        for leaf in outside(connection, table, size):
            detail = "row names a leaf that the log does not have"
            findings.add(unit, f"leaf {leaf}", How.ADDED, detail, found=leaf)
    c = tables.checkpoint.c
    for beyond in connection.execute(select(c.size).where((c.size > size) | (c.size < 1)).limit(100)).scalars():
        detail = "a checkpoint of a size that the log does not have"
        findings.add(Unit.CHECKPOINT, f"size {beyond}", How.ADDED, detail, found=beyond)


def _name_spare_tiles(connection: Connection, size: int, findings: Findings) -> None:
    c, full = tables.tile.c, full_tiles(size)
    for tree, level, number in connection.execute(select(c.tree, c.level, c.number)):
        if tree not in TREE_OF or not 0 <= number < full.get(level, 0):
            where = tile_name(TREE_OF[tree], level, number) if tree in TREE_OF else f"tree {tree} tile {level}/{number}"
            findings.add(Unit.TILE, where, How.ADDED, "the log has no such full tile")


def check_head(snapshot: Snapshot, created_ms: int | None, newest: CheckpointRow | None, findings: Findings) -> None:
    """The head row states what the newest checkpoint and the newest item state."""
    head = snapshot.head
    if head is None:
        return
    expected: list[tuple[str, object, object]] = []
    if created_ms is not None:
        expected.append(("newest_ms", created_ms, head.newest_ms))
    if newest is not None and newest.size == snapshot.size:
        expected.append(("signed_at_s", newest.signed_at_s, head.signed_at_s))
        for name, text, found in (("sm3_root", newest.note, head.sm3_root), ("sha256_root", newest.twin, head.sha256_root)):
            try:
                expected.append((name, Checkpoint.parse(Note.parse(text).text).root, found))
            except (EvidenceError, TypeError):
                continue
    for name, wanted, got in expected:
        if wanted != got:
            detail = f"column {name} is not what the newest checkpoint and item state"
            told = [each if isinstance(each, bytes | int) else None for each in (wanted, got)]
            findings.add(Unit.HEAD, f"head {name}", How.ALTERED, detail, expected=told[0], found=told[1])
