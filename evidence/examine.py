"""`examine`: everything is re-derived from stored bytes and from the chain, beside a running service; what differs is named.

Nothing is believed because it was once written: a row is believed because it follows from E, E
because it is a leaf of the tree, the tree because its root was signed, and the signed root
because the chain holds it. Nothing is changed, nothing is locked, and memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from evidence import store as rows
from evidence.examination import ledger, notes
from evidence.examination.acts import check_issuances, check_trail
from evidence.examination.admission import check_admission
from evidence.examination.anchored import ChainList, name_strangers
from evidence.examination.bounds import check_blocks
from evidence.examination.damage import DamageMap, Findings, How, Progress, Unit
from evidence.examination.ground import Ground, check_database, check_names, check_windows, kept_heads, open_ground
from evidence.examination.items import Items
from evidence.examination.kept import BUCKET, Row, Tally, any_tag, as_bytes, name_differences, plain
from evidence.examination.leaves import Leaf, TileData, feed, read_leaf, read_rows, read_tiles
from evidence.examination.ledger import Comparison, Nodes
from evidence.examination.originals import Originals
from evidence.examination.slices import Slices
from evidence.examination.snapshot import Snapshot, check_head, take
from evidence.examination.trees import Suspect, Trees
from evidence.examination.unwrapping import Secrets
from evidence.settings import Settings
from evidence.store import TREE_NUMBER, CheckpointRow
from models.digest import Algorithm

BATCH = 1024
_KEY_TAGS = 8
_UNCOMMITTED = (
    "roles, ends and revocations of tokens, and who read what: no digest says what these rows should be",
    "epoch of the head, times and reasons of open anchors: no digest says what they should be",
)

__all__ = ["DamageMap", "examine"]


def _silent(_done: int, _total: int, _what: str) -> None:
    """Nobody is told how far it is."""


def examine(settings: Settings, *, clock: Callable[[], datetime], progress: Progress | None = None) -> DamageMap:
    """The damage map of the home that `settings` names; a service may write to it meanwhile. Changes nothing.

    To be called where no event loop runs. `progress` is told how many of how many, and of what.
    Raises: HomeRefused if there is no home, or its schema is of another version.
    Source: architecture §3 (examine.py); reliability, global invariants I1–I6, R9; moonshots #13.
    """
    findings = Findings(not_checked=dict.fromkeys(_UNCOMMITTED))
    ground = open_ground(settings, findings, clock=clock)
    if ground is None:
        return _damage_map(findings, settings.origin, 0, 0)
    try:
        with asyncio.Runner() as runner:
            return _Examination(ground, runner, progress or _silent).run()
    finally:
        ground.close()


class _Examination:
    """One run over one home."""

    def __init__(self, ground: Ground, runner: asyncio.Runner, progress: Progress) -> None:
        self._ground, self._runner, self._progress = ground, runner, progress
        self._findings = ground.findings
        self._secrets = Secrets(ground)
        self._items = Items(ground, self._secrets)
        self._notes = notes.Notes(ground)
        self._trees = Trees(self._findings, self._read_tile)
        self._given = Tally()
        self._lists: dict[str, ChainList] = {}
        self._before: int | None = None
        self._sizes: frozenset[int] = frozenset()
        self._newest: CheckpointRow | None = None
        self._kept: dict[str, tuple[int, bytes]] = {}

    def run(self) -> DamageMap:
        """Everything was examined, in the order in which one thing rests on another."""
        ground, originals = self._ground, Originals(self._ground)
        # Before the snapshot: what is kept outside never runs ahead of what the log then holds.
        with ground.reading_part("secrets"):
            self._kept = kept_heads(ground)
        snapshot = None
        with ground.reading_part("head"), ground.store.reading() as connection:
            snapshot = take(connection, ground)
        if snapshot is None:
            return _damage_map(self._findings, ground.settings.origin, 0, 0)
        ground.use_origin(snapshot.origin)
        check_names(ground, snapshot.origin)
        nodes = self._runner.run(ledger.open_nodes(ground))
        try:
            self._secrets.check_months(originals.months())
            self._open_lists(snapshot, nodes)
            self._walk(snapshot)
            self._finish_walk(snapshot)
            self._compare_kept(snapshot)
            originals.examine(lambda done: self._progress(done, 0, "originals"))
            Slices(ground).examine(lambda done: self._progress(done, 0, "slices"))
            self._check_acts(snapshot)
            with ground.reading_part("block proofs"):
                check_blocks(ground, {chain: each.trust for chain, each in nodes.items()})
            self._compare_chains(snapshot, nodes)
        finally:
            for each in nodes.values():
                self._runner.run(each.close())
        ledger.name_unnamed(ground, snapshot, list(nodes))
        check_database(ground)
        return _damage_map(self._findings, snapshot.origin, snapshot.size, self._anchored())

    # --- items, trees, checkpoints, anchors -------------------------------------------------------------------

    def _open_lists(self, snapshot: Snapshot, nodes: dict[str, Nodes]) -> None:
        for chain in sorted(set(snapshot.firsts) | (set(snapshot.last_anchor) & set(nodes))):
            trust = nodes[chain].trust if chain in nodes else None
            last = snapshot.last_anchor.get(chain, -1)
            self._lists[chain] = ChainList(self._ground, chain, snapshot.firsts.get(chain), last, trust)

    def _walk(self, snapshot: Snapshot) -> None:
        for start in range(0, snapshot.size, BATCH):
            stop = min(start + BATCH, snapshot.size)
            part = self._ground.reading_part(f"items {start} to {stop - 1}", leaves=(start, stop))
            with part, self._ground.store.reading() as connection:
                self._examine_range(connection, start, stop, snapshot.size)
            for lost in range(self._trees.size, stop):
                self._trees.take_suspect(Suspect(lost, None, None, {}))
                self._items.facts.unread.add(lost)
            self._progress(stop, snapshot.size, "items")

    def _leaves(self, connection: Connection, start: int, stop: int, size: int) -> list[Leaf]:
        return self._leaves_and_tiles(connection, start, stop, size)[0]

    def _leaves_and_tiles(self, connection: Connection, start: int, stop: int, size: int) -> tuple[list[Leaf], TileData]:
        held = read_rows(connection, start, stop)
        tiles = read_tiles(connection, start, stop, size, self._findings)
        return [read_leaf(index, held.get(index), tiles) for index in range(start, stop)], tiles

    def _examine_range(self, connection: Connection, start: int, stop: int, size: int) -> None:
        leaves, tiles = self._leaves_and_tiles(connection, start, stop, size)
        self._name_missing(leaves)
        checkpoints = notes.read_checkpoints(connection, start, stop)
        created = {leaf.index: _created_ms(leaf) for leaf in leaves}

        def meet(row: CheckpointRow) -> None:
            self._meet(row, created.get(row.size - 1))

        feed(self._trees, leaves, tiles, checkpoints, meet)
        for leaf in leaves:
            self._judge(leaf)
        created = {leaf.index: _created_ms(leaf) for leaf in leaves}
        self._check_times(created, checkpoints)
        items = self._items.examine(connection, leaves, self._give)
        self._findings.count("items", sum(leaf.row is not None for leaf in leaves))
        for chain in self._lists.values():
            for item in items:
                chain.advance(connection, item.index)
                chain.meet(item)

    def _judge(self, leaf: Leaf) -> None:
        """E is believed where the trees named the other copy of the leaf, and not where they named E."""
        where = f"leaf {leaf.index}"
        if self._findings.has(Unit.EVIDENCE, where):
            leaf.evidence = None
        elif leaf.evidence is None and self._findings.has(Unit.ENTRY, where):
            leaf.believe()

    def _give(self, unit: Unit, leaf: int, row: Row) -> None:
        self._given.add(unit, leaf, row)

    def _meet(self, row: CheckpointRow, created_ms: int | None) -> None:
        read = self._notes.read(row)
        self._notes.name_roots(row.size, self._trees.meet(read.roots, is_signed=read.is_signed), read)
        if read.t is not None:
            self._notes.check_time(row.size, read.t, created_ms)
        self._newest = row
        root = read.roots.get(Algorithm.SM3)
        for name, kept in self._kept.items():
            if kept[0] == row.size and read.is_signed and kept[1] != root:
                detail = "the head kept outside the database is not that of this log"
                self._findings.add(Unit.HEAD, f"{name} root", How.ALTERED, detail, expected=root, found=kept[1])

    def _check_times(self, created: dict[int, int | None], checkpoints: Sequence[CheckpointRow]) -> None:
        """created_at never falls along the log, and a checkpoint stands wherever it changes: every commit has one of each."""
        sizes = frozenset(row.size for row in checkpoints)
        for leaf, moment in created.items():
            before, self._before = self._before, moment
            if moment is None or before is None or self._trees.is_lost_at(leaf):
                continue
            if moment < before:
                detail = "created_at is before that of the item before it: it never falls along the log"
                self._findings.add(Unit.EVIDENCE, f"leaf {leaf} created_at", How.ALTERED, detail, leaf=leaf)
            elif moment != before and leaf not in self._sizes | sizes:
                detail = "a commit ended here, and its checkpoint is absent"
                self._findings.add(Unit.CHECKPOINT, f"size {leaf}", How.MISSING, detail, leaves=(leaf - 1, leaf))
        self._sizes = sizes

    def _name_missing(self, leaves: Sequence[Leaf]) -> None:
        """Leaves without a row, as ranges."""
        absent = [leaf.index for leaf in leaves if leaf.row is None]
        start = None
        for place, index in enumerate(absent):
            start = index if start is None else start
            if place + 1 == len(absent) or absent[place + 1] != index + 1:
                where = f"leaf {index}" if start == index else f"leaves {start} to {index}"
                detail = "the log has this leaf, and the table of items has no row of it"
                self._findings.add(Unit.ROW, where, How.MISSING, detail, leaves=(start, index + 1))
                self._findings.lose_proof(start, index + 1)
                start = None

    def _read_tile(self, algorithm: Algorithm, level: int, number: int) -> bytes | None:
        with self._ground.store.reading() as connection:
            data = rows.read_tile(connection, TREE_NUMBER[algorithm.value], level, number)
        return None if data is None else as_bytes(plain((data,))[0])

    def _finish_walk(self, snapshot: Snapshot) -> None:
        ground, findings, facts = self._ground, self._findings, self._items.facts
        self._trees.finish()
        self._notes.finish()
        handled: set[int] = set()
        with ground.reading_part("anchors"), ground.store.reading() as connection:
            for chain in self._lists.values():
                chain.finish(connection, snapshot.size)
                handled |= chain.handled
            name_strangers(connection, set(self._lists), handled, findings)
        check_head(snapshot, self._before, self._newest, findings)
        self._check_kept_heads(snapshot)
        self._secrets.name_failed()
        self._items.check_erasures()
        home = ground.facts
        if home is not None and not facts.keys_changed:
            check_windows(home, findings)
        if home is not None and facts.subject is not None and facts.subject != home.subject:
            detail = "subject is not the one that the service's own items name"
            findings.add(Unit.HOME, "home.json subject", How.ALTERED, detail)

    def _check_kept_heads(self, snapshot: Snapshot) -> None:
        for name, (size, _) in self._kept.items():
            if size > snapshot.size:
                detail = "the log is behind the head that is kept outside the database"
                self._findings.add(Unit.HEAD, f"{name} size", How.ALTERED, detail, expected=size, found=snapshot.size)
            elif size > 0:
                with self._ground.reading_part("checkpoints"), self._ground.store.reading() as connection:
                    if rows.read_checkpoint(connection, size=size) is None:
                        detail = "the checkpoint of a head that is kept outside the database is absent"
                        self._findings.add(Unit.CHECKPOINT, f"size {size}", How.MISSING, detail, leaves=(size - 1, size))

    def _check_acts(self, snapshot: Snapshot) -> None:
        ground = self._ground
        with ground.reading_part("accounts"), ground.store.reading() as connection:
            check_admission(connection, ground)
        with ground.reading_part("issuances"), ground.store.reading() as connection:
            check_issuances(connection, self._findings)
        with ground.reading_part("audit trail"), ground.store.reading() as connection:
            check_trail(connection, ground, snapshot.size)

    # --- tables beside items ----------------------------------------------------------------------------------

    def _compare_kept(self, snapshot: Snapshot) -> None:
        differing = [place for place in self._given.differing(snapshot.tally) if place[0] not in snapshot.unread]
        for place in sorted({bucket for _, bucket in differing}):
            start, stop = place * BUCKET, min((place + 1) * BUCKET, snapshot.size)
            units = {unit for unit, bucket in differing if bucket == place}
            with self._ground.reading_part(f"rows of leaves {start} to {stop - 1}"):
                self._compare_bucket(units, start, stop, snapshot.size)

    def _compare_bucket(self, units: set[Unit], start: int, stop: int, size: int) -> None:
        given: dict[Unit, list[Row]] = {unit: [] for unit in units}

        def give(unit: Unit, _leaf: int, row: Row) -> None:
            if unit in given:
                given[unit].append(row)

        with self._ground.store.reading() as connection:
            with self._findings.muted():
                for low in range(start, stop, BATCH):
                    leaves = self._leaves(connection, low, min(low + BATCH, stop), size)
                    self._items.examine(connection, leaves, give)
            for unit, expected in sorted(given.items()):
                if unit is Unit.BLIND and self._is_key_replaced(connection, expected):
                    continue
                unread = self._items.facts.unread
                name_differences(connection, unit, (start, stop), expected, unread, self._findings)

    def _is_key_replaced(self, connection: Connection, expected: Sequence[Row]) -> bool:
        """None of many tags is stored: not the rows are at fault, but the key that makes tags."""
        if self._ground.find_key is None:
            return True
        sample = [row[0] for row in expected[: 4 * _KEY_TAGS]]
        if len(sample) < _KEY_TAGS or any_tag(connection, sample):
            return False
        detail = "none of the tags that this key makes stands in the blind index"
        self._findings.add(Unit.KEY, "keys/find.key", How.ALTERED, detail)
        self._ground.find_key = None
        return True

    # --- chains -----------------------------------------------------------------------------------------------

    def _compare_chains(self, snapshot: Snapshot, nodes: dict[str, Nodes]) -> None:
        for chain, each in nodes.items():
            if chain not in self._lists:
                continue
            first = self._lists[chain].begin
            comparison = Comparison(self._ground, each, snapshot, first, lambda done: self._progress(done, 0, "anchors"))
            with self._ground.reading_part("anchors"):
                self._runner.run(comparison.run())

    def _anchored(self) -> int:
        """Every leaf below is held by good final anchors on as many chains as the policy wants."""
        ends = sorted((chain.final_end for chain in self._lists.values()), reverse=True)
        quorum = self._ground.settings.quorum
        return ends[quorum - 1] if len(ends) >= quorum else 0


def _created_ms(leaf: Leaf) -> int | None:
    return None if leaf.evidence is None else round(leaf.evidence.created_at.timestamp() * 1000)


def _damage_map(findings: Findings, origin: str, size: int, anchored: int) -> DamageMap:
    anchored = min(anchored, size)
    unprovable = findings.unprovable.ranges()
    provable = tuple((start, min(stop, anchored)) for start, stop in findings.unprovable.rest(size) if start < anchored)
    return DamageMap(
        origin=origin,
        size=size,
        damages=tuple(findings.damages.values()),
        more=findings.more,
        examined=dict(sorted(findings.examined.items())),
        provable=provable,
        unprovable=unprovable,
        undisclosable=findings.undisclosable.ranges(),
        unanchored=((anchored, size),) if anchored < size else (),
        out_of_reach=tuple(dict.fromkeys(findings.out_of_reach)),
        not_checked=tuple(findings.not_checked),
    )
