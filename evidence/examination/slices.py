"""What is kept of slices beside their headers: records and counts, derived again and held to what was signed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import select

from evidence.errors import NotFound
from evidence.examination.damage import How, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import as_bytes, plain
from evidence.stream_archive import SliceArchive
from evidence.stream_recounting import check_counts, derive_again
from evidence.stream_shelf import Shelf, StreamHoldings
from evidence.stream_store import SliceRow, StreamRow, slice_
from evidence.upload import ObjectFolder
from models.errors import EvidenceError
from models.slice import SliceHeader

_FOLDER: Final = "streams"


class Slices:
    """The slices of all streams of a home, each from its own bytes."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._findings = ground.findings

    def examine(self, progress: Callable[[int], None]) -> None:
        """Content, counts and roots of every slice are what its header states; every file of the archive is a slice's.

        Source: T/SAC 004—2024 C.3, C.4; formats §5.5, §5.7.
        """
        ground = self._ground
        if ground.secrets is None:
            return
        archive = SliceArchive(ground.settings.home)
        shelf = Shelf(store=ground.store, secrets=ground.secrets, archive=archive, clock=ground.clock)
        done = 0
        for row in shelf.everything():
            with ground.reading_part(f"stream {row.stream_id}"):
                done = self._stream(shelf, row, done, progress)
        with ground.reading_part("archive of slices"):
            self._name_stray()

    def _stream(self, shelf: Shelf, row: StreamRow, done: int, progress: Callable[[int], None]) -> int:
        what = "newest slice"
        try:
            newest = shelf.newest(row)
            if newest is None:
                return done
            what = "declarations"
            holdings = StreamHoldings(shelf, row, last=newest.number, proven_at=lambda _: None)
        except EvidenceError as error:
            self._findings.add(Unit.STREAM, f"stream {row.stream_id} {what}", How.UNREADABLE, error.message)
            return done
        number = 0
        while number <= newest.number:
            self._slice(holdings, row, number)
            number += 1
            done += 1
            progress(done)
        self._findings.count("slices", number)
        return done

    def _slice(self, holdings: StreamHoldings, row: StreamRow, number: int) -> None:
        where = f"slice {row.stream_id}/{number}"
        try:
            kept = holdings.row(number)
            if holdings.erased(number):
                self._name_left(where, kept)
                return
            header = SliceHeader.parse(kept.header)
        except EvidenceError:
            return  # a row that is absent, or no header, is named with its leaf
        for what, check in (("records", derive_again), ("counts", check_counts)):
            try:
                check(header, holdings)
            except NotFound as error:
                self._findings.add(Unit.STREAM, f"{where} {what}", How.MISSING, error.message, leaf=kept.leaf_index)
            except EvidenceError as error:
                self._findings.add(Unit.STREAM, f"{where} {what}", How.ALTERED, error.message, leaf=kept.leaf_index)

    def _name_left(self, where: str, kept: SliceRow) -> None:
        """Nothing of an erased slice is kept: not its records, and not what is counted in them (formats §7.1)."""
        for what, column in (("records", kept.object_id), ("counts", kept.counts)):
            if column is not None:
                detail = "the slice was erased, and this is still there"
                self._findings.add(Unit.STREAM, f"{where} {what}", How.ADDED, detail, leaf=kept.leaf_index)

    def _name_stray(self) -> None:
        """Files that no slice names. One that is on its way in has its row a moment later, so it is asked for twice."""
        folder = ObjectFolder(self._ground.settings.home, name=_FOLDER)
        under_way = set(folder.unsettled())
        with self._ground.store.reading() as connection:
            names = map(plain, connection.execute(select(slice_.c.object_id)))
            known = {as_bytes(name) for (name,) in names if name is not None}
        for object_id in folder.objects():
            if object_id not in known and object_id not in under_way:
                self._findings.add(Unit.FILE, f"{_FOLDER}/{object_id.hex()}", How.ADDED, "file that no slice names")
