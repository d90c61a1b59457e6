"""What the service holds of its streams, opened: declarations with their keywords, slices with their counts and records.

A business account sees its own subject's streams only; another subject's is "not found", so that
nobody learns from an error what exists.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from evidence import stream_store as rows
from evidence.access import Caller, Role
from evidence.batch import moment
from evidence.errors import Ambiguous, Erased, NotFound
from evidence.keystore import KeyStore
from evidence.store import Store
from evidence.stream_archive import Counts, SliceArchive, open_counts, open_keywords
from evidence.stream_store import SliceRow, StreamRow
from models.answer import MAX_NOTES, Declared, Held
from models.canonical import JSONValue, format_time
from models.counting import Counted
from models.declaration import Declaration
from models.errors import Malformed, VerificationError
from models.record import Buffer
from models.slice import Kind, SliceHeader
from streaming.processing import Plan

PAGE = 256


def evidence_name(item: bytes) -> str:
    """The evidence id of an item's 32 bytes."""
    return "ev_" + item.hex()


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A declaration as the service holds it: with its keywords, its secret, and where its item stands."""

    number: int
    leaf_index: int
    evidence_id: str
    declared: Declared
    plan: Plan

    @property
    def declaration(self) -> Declaration:
        """D itself."""
        return self.declared.declaration


def may_see(caller: Caller, subject: str) -> bool:
    """Whether the caller sees streams of that subject."""
    return bool(caller.roles & {Role.AUDITOR, Role.COURT, Role.OPERATOR}) or caller.subject_id == subject


def shows_lines(caller: Caller, subject: str) -> bool:
    """Whether the caller sees lines in clear: a court, or the stream's own subject."""
    return Role.COURT in caller.roles or (Role.BUSINESS in caller.roles and caller.subject_id == subject)


class Shelf:
    """Reads streams. Threads may share it."""

    def __init__(self, *, store: Store, secrets: KeyStore, archive: SliceArchive, clock: Callable[[], datetime]) -> None:
        self._store, self._secrets, self._clock = store, secrets, clock
        self.archive = archive
        self._known: dict[tuple[int, int], Known] = {}
        self._lock = threading.Lock()

    # --- streams ----------------------------------------------------------------------------------------------------

    def find(self, stream_id: str, caller: Caller, submitter: str | None = None) -> StreamRow:
        """The stream of that name that the caller may see; its own account's before another's.

        Raises: NotFound; Ambiguous if several accounts have one of that name.
        """
        with self._store.reading() as connection:
            found = rows.find(connection, stream_id=stream_id, submitter=submitter)
        found = [row for row in found if may_see(caller, row.subject)]
        own = [row for row in found if row.submitter == caller.account]
        if own:
            return own[0]
        if not found:
            raise NotFound("no stream has that id", hint="GET /v1/streams lists those you may see")
        if len(found) > 1:
            raise Ambiguous(f"{len(found)} accounts have a stream of that id: expected submitter to name one")
        return found[0]

    def all(self, caller: Caller) -> list[StreamRow]:
        """The streams that the caller may see."""
        with self._store.reading() as connection:
            return [row for row in rows.find(connection) if may_see(caller, row.subject)]

    def everything(self) -> list[StreamRow]:
        """All streams, for the service itself."""
        with self._store.reading() as connection:
            return rows.find(connection)

    def own(self, stream_id: str, submitter: str) -> StreamRow | None:
        """The stream of that name of that account."""
        with self._store.reading() as connection:
            found = rows.find(connection, stream_id=stream_id, submitter=submitter)
        return found[0] if found else None

    def known(self, row: StreamRow) -> list[Known]:
        """The declarations of a stream in order, opened.

        Raises: Erased; VerificationError if stored bytes were altered.
        """
        with self._store.reading() as connection:
            stored = rows.declarations(connection, row.id)
        found = []
        for one in stored:
            place = (row.id, one.number)
            with self._lock:
                known = self._known.get(place)
            if known is None:
                known = self._open(one)
                with self._lock:
                    self._known[place] = known
            found.append(known)
        return found

    def _open(self, row: rows.DeclarationRow) -> Known:
        secret, name = self._secrets.get(row.evidence_id), evidence_name(row.evidence_id)
        declaration = Declaration.parse(row.data)
        keywords = open_keywords(row.keywords, secret=secret, evidence_id=name)
        plan = Plan.of(declaration, keywords, secret=secret)
        return Known(row.number, row.leaf_index, name, Declared(declaration, keywords, secret), plan)

    def sweep(self) -> None:
        """Files that a crash left without a row are gone. Before slices come in."""

        def known(object_ids: Sequence[bytes]) -> set[bytes]:
            with self._store.reading() as connection:
                return rows.known_objects(connection, object_ids)

        self.archive.sweep(known)

    def health(self) -> tuple[int, int, int]:
        """(streams that have not ended, those whose next slice is overdue, seconds since the quietest one's newest slice)."""
        alive = overdue = silent = 0
        now = self._clock()
        for row in self.everything():
            last_at, next_by, _, ended = self._pace(row)
            if not ended:
                alive += 1
                overdue += next_by is not None and now > next_by
                silent = max(silent, round((now - last_at).total_seconds()))
        return alive, overdue, silent

    def _pace(self, row: StreamRow) -> tuple[datetime, datetime | None, SliceHeader | None, bool]:
        """When the newest slice was made, by when the next must be there, its header, and whether the stream has ended."""
        header = self.newest_header(row)
        if header is not None:
            return header.created_at, header.next_by, header, header.kind == Kind.END
        at = moment(row.created_ms)
        return at, at + timedelta(seconds=self.known(row)[-1].declaration.max_silence_s), None, False

    # --- slices -----------------------------------------------------------------------------------------------------

    def newest(self, row: StreamRow) -> SliceRow | None:
        """The newest slice: the committed offset."""
        with self._store.reading() as connection:
            return rows.newest(connection, row.id)

    def newest_header(self, row: StreamRow) -> SliceHeader | None:
        """H of the newest slice."""
        newest = self.newest(row)
        return None if newest is None else SliceHeader.parse(newest.header)

    def slices(self, row: StreamRow, start: int, limit: int) -> list[SliceRow]:
        """Slices from number `start` on."""
        with self._store.reading() as connection:
            return rows.slices(connection, row.id, start=start, limit=limit)

    def first_from(self, row: StreamRow, at: datetime) -> int | None:
        """The number of the first slice made at or after `at`."""
        with self._store.reading() as connection:
            return rows.first_from(connection, row.id, rows.milliseconds(at))

    def identity(self, row: StreamRow, epoch: int) -> str | None:
        """What the source was in an epoch, as the slice says that opened it."""
        with self._store.reading() as connection:
            found = rows.opening(connection, row.id, epoch)
        opened = None if found is None else SliceHeader.parse(found.header).epoch
        return None if opened is None else opened.identity

    def totals(self, row: StreamRow) -> tuple[int, int]:
        """(slices, lines)."""
        with self._store.reading() as connection:
            return rows.totals(connection, row.id)

    def notes(self, row: StreamRow, first: int, last: int) -> list[bytes]:
        """The fewest recount notes that tell of every slice in first…last that any tells of; no more than a verifier reads."""
        with self._store.reading() as connection:
            found = rows.notes(connection, row.id, first, last)
        return [note for _, _, note in fewest(found)[:MAX_NOTES]]

    def secrets(self, items: Sequence[bytes]) -> dict[bytes, bytes]:
        """The secrets of those slices that have one: not of erased ones."""
        try:
            return self._secrets.get_many(items)
        except Erased:
            kept = [item for item in items if not self.is_erased(item)]
            return self._secrets.get_many(kept)

    def is_erased(self, item: bytes) -> bool:
        """Whether a slice's secret was destroyed, and all it held with it."""
        try:
            self._secrets.get_many([item])
        except Erased:
            return True
        return False

    def records(self, row: SliceRow, secret: bytes) -> Buffer:
        """The records of a slice; none of one without lines.

        Raises: NotFound if its archive is away; VerificationError if it was altered.
        """
        if not row.lines:
            return Buffer.of(())
        slice_id = SliceHeader.parse(row.header).slice_id
        if row.object_id is None:
            raise NotFound(f"the archive of the slice is away: its index still answers counts ({slice_id})")
        try:
            buffer = self.archive.get(row.object_id, secret=secret, slice_id=slice_id)
        except Malformed as error:
            raise VerificationError(f"archive of the slice was altered: {error.message}") from error
        if len(buffer) != row.lines:
            raise VerificationError(f"archive of the slice holds other records than its header states ({slice_id})")
        return buffer

    def summary(self, row: StreamRow, state_of: Callable[[int], str]) -> dict[str, JSONValue]:
        """A stream as lists show it: how far it is, how old its newest slice, by when the next must come."""
        newest, (count, lines) = self.newest(row), self.totals(row)
        declared = self.known(row)[-1].declaration
        now = self._clock()
        last_at, next_by, header, ended = self._pace(row)
        return {
            "stream_id": row.stream_id,
            "submitter": row.submitter,
            "subject": row.subject,
            "source": declared.source,
            "encoding": declared.encoding,
            "slice": declared.slice,
            "index": declared.index,
            "keywords": declared.keywords_size,
            "rules": [entry.rule.name for entry in declared.rules],
            "pushed": row.is_pushed,
            "slices": count,
            "lines": lines,
            "position": None if header is None else str(header.end),
            "newest": None if header is None or newest is None else slice_summary(newest, state_of),
            "lag_s": max(0, round((now - last_at).total_seconds())),
            "next_by": None if next_by is None else format_time(next_by),
            "overdue": next_by is not None and now > next_by,
            "ended": ended,
        }


def fewest(notes: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Of (first, last, note), ascending, as few as cover what all of them cover."""
    chosen: list[tuple[int, int, bytes]] = []
    for note in notes:
        if chosen and note[1] <= chosen[-1][1]:
            continue
        reached = chosen[-2][1] if len(chosen) > 1 else -1
        if chosen and note[0] <= max(reached + 1, chosen[-1][0]):
            chosen.pop()  # what it has beyond the one before, this one has too, and more
        chosen.append(note)
    return chosen


def shown_declarations(known: Sequence[Known]) -> list[JSONValue]:
    """The declarations of a stream as one stream's own answer shows them."""
    return [
        {
            "number": one.number,
            "declaration": one.declaration.data.decode(),
            "evidence_id": one.evidence_id,
            "leaf_index": one.leaf_index,
        }
        for one in known
    ]


def slice_summary(row: SliceRow, state_of: Callable[[int], str]) -> dict[str, JSONValue]:
    """One slice as lists show it."""
    header = SliceHeader.parse(row.header)
    return {
        "slice_id": header.slice_id,
        "number": header.number,
        "kind": header.kind,
        "lines": header.lines,
        "bytes": header.payload_bytes,
        "start": str(header.start),
        "end": str(header.end),
        "slice_create_time": format_time(header.created_at),
        "next_by": None if header.next_by is None else format_time(header.next_by),
        "evidence_id": evidence_name(row.evidence_id),
        "leaf_index": row.leaf_index,
        "state": state_of(row.leaf_index),
        "archived": row.object_id is not None,
        "header": header.data.decode(),
    }


class StreamHoldings:
    """The slices of one stream up to number `last`, as an answer asks for them: in ascending order, a page at a time."""

    def __init__(
        self,
        shelf: Shelf,
        row: StreamRow,
        *,
        last: int,
        proven_at: Callable[[int], datetime | None],
    ) -> None:
        self._shelf, self._row, self._last, self._proven_at = shelf, row, last, proven_at
        self._by_digest = {known.declaration.pair.sm3: known for known in shelf.known(row)}
        self._by_number = {known.number: known for known in self._by_digest.values()}
        self._page: dict[int, SliceRow] = {}
        self._secrets: dict[int, bytes] = {}
        self._counts: tuple[int, Counts] | None = None

    def known(self, digest: bytes) -> Known:
        """The declaration of that SM3. Raises: VerificationError if a slice names one that is not held."""
        if digest not in self._by_digest:
            raise VerificationError("slice names a declaration that the stream does not have")
        return self._by_digest[digest]

    def _declared_as(self, row: SliceRow) -> Known:
        if row.declaration not in self._by_number:
            raise VerificationError(f"column declaration of a slice names none of its stream's (slice {row.number})")
        return self._by_number[row.declaration]

    def declared(self, digest: bytes) -> Declared:
        """As `Holdings.declared`."""
        return self.known(digest).declared

    def _load(self, start: int) -> list[SliceRow]:
        page = [row for row in self._shelf.slices(self._row, start, PAGE) if row.number <= self._last]
        self._page = {row.number: row for row in page}
        found = self._shelf.secrets([row.evidence_id for row in page])
        self._secrets = {row.number: found[row.evidence_id] for row in page if row.evidence_id in found}
        return page

    def erased(self, number: int) -> bool:
        """As `Holdings.erased`."""
        return number not in self._secrets and self._shelf.is_erased(self.row(number).evidence_id)

    def row(self, number: int) -> SliceRow:
        """The stored slice of that number."""
        row = self._page.get(number)
        if row is None:
            self._load(number)
            row = self._page.get(number)
        if row is None:
            raise NotFound(f"no such slice in the stream: {number}")
        return row

    def _rows(self, first: int) -> Iterator[SliceRow]:
        at = first
        while page := self._load(at):
            yield from page
            at = page[-1].number + 1

    def headers(self, first: int) -> Iterator[SliceHeader]:
        """The headers from number `first` up to the last slice of this answer."""
        return (SliceHeader.parse(row.header) for row in self._rows(first))

    def slices(self, first: int) -> Iterator[Held]:
        """As `Holdings.slices`, up to the last slice of this answer."""
        for row in self._rows(first):
            digest = self._declared_as(row).declaration.pair.sm3
            yield Held(row.number, moment(row.created_ms), row.lines, digest, row.header)

    def first_shown(self, moment: datetime) -> int:
        """As `Holdings.first_shown`."""
        found = self._shelf.first_from(self._row, moment)
        return max(0, (self._last + 1 if found is None else min(found, self._last + 1)) - 1)

    def secret(self, number: int) -> bytes:
        """As `Holdings.secret`."""
        if number not in self._secrets:
            self.row(number)
        if number not in self._secrets:
            what = "slice was erased: nothing of it can be opened" if self.erased(number) else "secret of a slice is missing"
            raise VerificationError(f"{what} (slice {number})")
        return self._secrets[number]

    def index_levels(self, number: int) -> bytes | None:
        """As `Holdings.index_levels`."""
        return self.row(number).hashes

    def counts(self, number: int) -> Counts:
        """The counts of a slice, opened. Raises: VerificationError if they were altered."""
        if self._counts is None or self._counts[0] != number:
            row = self.row(number)
            keywords = self._declared_as(row).declared.keywords
            if row.counts is None:
                raise VerificationError(f"counts of a slice are missing (slice {number})")
            name = evidence_name(row.evidence_id)
            self._counts = (number, open_counts(row.counts, keywords, secret=self.secret(number), evidence_id=name))
        return self._counts[1]

    def counted(self, number: int, ranks: Sequence[int] | None) -> Sequence[Counted]:
        """As `Holdings.counted`."""
        index = self.counts(number).index
        return index if ranks is None else [index[rank] for rank in ranks]

    def values(self, number: int, rule: str) -> Sequence[Counted]:
        """As `Holdings.values`."""
        declared = self._declared_as(self.row(number)).declaration
        names = [entry.rule.name for entry in declared.rules]
        if rule not in names:
            raise Malformed("rule is none of the stream's")
        return self.counts(number).values[names.index(rule)]

    def records(self, number: int) -> Buffer:
        """As `Holdings.records`."""
        return self._shelf.records(self.row(number), self.secret(number))

    def proven_at(self, number: int) -> datetime | None:
        """As `Holdings.proven_at`."""
        return self._proven_at(self.row(number).leaf_index)
