"""The archive: every object opened with the keys of those that hold it, every byte read, every row and file accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from evidence.archive import MANIFEST, PART, _owner_aad, _part_aad, _staged_aad
from evidence.content import Wrap, content_key, open_content
from evidence.contents import MAX_CONTENT_BYTES
from evidence.examination.damage import Findings, How, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import as_bytes, plain, raw
from evidence.original import Opening, Original, read_manifest
from evidence.segments import OBJECT_ID_BYTES, SEGMENT_BYTES
from evidence.store import read_content
from evidence.tables import METADATA
from evidence.tables import evidence as items_table
from evidence.upload import ObjectFolder
from models.canonical import JSONValue, parse
from models.digest import Algorithm, Digest, Pair
from models.errors import EvidenceError
from models.evidence import Evidence

_PAGE = 64
_REFERRING = ("original_find", "original_part", "original_staged", "original_owner")
_TABLES = {name: METADATA.tables[name] for name in ("original", *_REFERRING)}


@dataclass(slots=True)
class _Object:
    """One row of the archive with the rows that refer to it."""

    number: int
    object_id: bytes
    kind: int
    size: int
    tags: set[bytes] = field(default_factory=set)
    staged: list[Any] = field(default_factory=list)
    owners: list[Any] = field(default_factory=list)
    parts: list[Any] = field(default_factory=list)
    part_of: list[int] = field(default_factory=list)
    named: dict[tuple[str, int], set[str]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"object {self.object_id.hex()[:8]}…"


@dataclass(slots=True)
class Originals:
    """Examines the archive of a home."""

    ground: Ground

    @property
    def findings(self) -> Findings:
        """Where damage is named."""
        return self.ground.findings

    @property
    def _folder(self) -> ObjectFolder:
        return ObjectFolder(self.ground.settings.home)

    def examine(self, progress: Callable[[int], None]) -> None:
        """Every object, row and file of the archive was examined."""
        done = 0
        after: int | None = -1
        while after is not None:
            place, after = after, None
            with self.ground.reading_part(f"originals after {place}"), self.ground.store.reading() as connection:
                for each in self._page(connection, place):
                    after = each.number
                    with self.ground.reading_part(f"originals, {each.where}"):
                        self._examine(connection, each)
                    done += 1
                    progress(done)
        with self.ground.reading_part("originals"), self.ground.store.reading() as connection:
            self._name_loose(connection)
        with self.ground.reading_part("originals"):
            self._name_stray()

    def months(self) -> list[str]:
        """The months of the wrapping keys that uploads not yet owned lie under."""
        table = _TABLES["original_staged"]
        with self.ground.reading_part("originals"), self.ground.store.reading() as connection:
            return [str(month) for month in connection.execute(select(table.c.month).distinct()).scalars()]
        return []

    # --- rows -------------------------------------------------------------------------------------------------

    def _page(self, connection: Connection, after: int) -> list[_Object]:
        held = _TABLES["original"]
        query = select(*raw(held)).where(held.c.number > after).order_by(held.c.number).limit(_PAGE)
        found = {}
        for row in connection.execute(query):
            number, object_id, kind, size = plain(row)
            found[number] = _Object(number, as_bytes(object_id), kind, size)
        numbers = list(found)
        for name, column in (
            ("original_find", "number"),
            ("original_staged", "number"),
            ("original_owner", "number"),
            ("original_part", "number"),
            ("original_part", "manifest"),
        ):
            table = _TABLES[name]
            for row in connection.execute(select(*raw(table)).where(table.c[column].in_(numbers))):
                _refer(found[getattr(row, column)], name, column, row)
        return list(found.values())

    def _examine(self, connection: Connection, held: _Object) -> None:
        findings = self.findings
        findings.count("objects")
        if held.kind == PART:
            if len(held.part_of) != 1:
                findings.add(Unit.ORIGINAL, held.where, How.ALTERED, "a part belongs to no manifest, or to several")
            return
        if not held.owners and not held.staged:
            detail = "nobody holds the object: the row of its owner is absent"
            findings.add(Unit.ORIGINAL, f"{held.where} owner", How.MISSING, detail)
            return
        keys = {key for key in self._keys(connection, held) if key is not None}
        if len(keys) > 1:
            findings.add(Unit.ORIGINAL, f"{held.where} key", How.ALTERED, "those who hold the object hold different keys")
        for key in keys:
            pair = self._read(connection, held, key)
            if pair is not None:
                self._check_tags(held, pair)
                return

    def _keys(self, connection: Connection, held: _Object) -> Iterator[bytes | None]:
        """The object's key as each who holds it has it wrapped; one that does not open is named."""
        for row in held.staged:
            where = f"{held.where} staged"
            try:
                wrap = self.ground.wrapping.get(row.month)
                yield wrap.open(as_bytes(plain((row.wrapped,))[0]), aad=_staged_aad(held.object_id, row.account))
            except EvidenceError:
                detail = "the key of an upload does not open under its month's key"
                self.findings.add(Unit.ORIGINAL, where, How.ALTERED, detail)
                yield None
        for row in held.owners:
            item, wrapped = (as_bytes(each) for each in plain((row.item, row.wrapped)))
            yield self._owned_key(connection, held, item, row.account, wrapped)

    def _owned_key(self, connection: Connection, held: _Object, item: bytes, account: str, wrapped: bytes) -> bytes | None:
        where, findings = f"{held.where} owner ev_{item.hex()[:8]}…", self.findings
        evidence = _evidence_of(connection, item)
        if evidence is None:
            findings.add(Unit.ORIGINAL, where, How.ALTERED, "the object is owned by no item of the log that can be read")
            return None
        index, parsed = evidence
        if parsed is not None and parsed.statement.submitter != account:
            findings.add(Unit.ORIGINAL, where, How.ALTERED, "column account is not the item's submitter", leaf=index)
        secret = self._secret(item)
        if secret is None:
            return None
        name = f"ev_{item.hex()}"
        held.named[where, index] = self._named(connection, index, (item, secret))
        try:
            return Wrap(content_key(secret, name)).open(wrapped, aad=_owner_aad(held.object_id, item))
        except EvidenceError:
            findings.add(Unit.ORIGINAL, where, How.ALTERED, "the object's key does not open under the item's secret", leaf=index)
            return None

    def _secret(self, item: bytes) -> bytes | None:
        """The item's secret; where there is none, the examination of the items has named it."""
        try:
            return None if self.ground.secrets is None else self.ground.secrets.get(item)
        except EvidenceError:
            return None

    def _named(self, connection: Connection, index: int, item: tuple[bytes, bytes]) -> set[str]:
        """The digests of the originals that the item's content names; where it cannot be read, it was named itself."""
        identity, secret = item
        try:
            sealed = read_content(connection, index)
            value: JSONValue = parse(open_content(secret, f"ev_{identity.hex()}", sealed or b""), max_bytes=MAX_CONTENT_BYTES)
            return {str(each["digest"]) for each in value["originals"]}
        except (EvidenceError, LookupError, TypeError):
            return set()

    # --- bytes ------------------------------------------------------------------------------------------------

    def _read(self, connection: Connection, held: _Object, key: bytes) -> Pair | None:
        """Both digests of the original, every byte decrypted; what does not open is named at its segment."""
        openings = [self._opening(held.object_id, held.size, key)]
        try:
            manifest = None
            if held.kind == MANIFEST:
                manifest = read_manifest(openings[0])
                parts = self._parts(connection, held, key)
                if len(parts) != len(manifest.parts):
                    detail = f"rows of parts are absent or do not open: expected {len(manifest.parts)}, got {len(parts)}"
                    self.findings.add(Unit.ORIGINAL, f"{held.where} parts", How.MISSING, detail)
                    return None
                openings = parts
            with Original(openings, manifest) as original:
                pair = original.verify()
                self.findings.count("original bytes", original.size)
                return pair
        except EvidenceError as error:
            # Read once more, piece by piece, to name each that does not open.
            checked = [self._check_segments(opening) for opening in openings]
            if all(checked):
                self.findings.add(Unit.ORIGINAL, f"{held.where} digests", How.ALTERED, error.message)
            return None

    def _parts(self, connection: Connection, held: _Object, key: bytes) -> list[Opening]:
        """The parts of an original in order, each with its key; those without a row, or that do not open, left out."""
        table, under, found = _TABLES["original"], Wrap(key), []
        for row in sorted(held.parts, key=lambda each: int(each.place)):
            part = connection.execute(select(*raw(table)).where(table.c.number == row.number)).one_or_none()
            if part is None:
                continue
            object_id, wrapped = (as_bytes(each) for each in plain((part.object_id, row.wrapped)))
            try:
                own = under.open(wrapped, aad=_part_aad(object_id, row.place))
            except EvidenceError:
                continue
            found.append(self._opening(object_id, part.size, own))
        return found

    def _opening(self, object_id: bytes, size: int, key: bytes) -> Opening:
        return Opening(self._folder.path(object_id), object_id, Wrap(key), size)

    def _check_segments(self, opening: Opening) -> bool:
        """Every segment opens, or each that does not is named; a file of another length is named as a whole."""
        where, good = f"object {opening.object_id.hex()[:8]}…", True
        if not opening.path.is_file():
            if not self._known([opening.object_id]):
                # An upload that nobody claimed has expired since: rows go first, files after.
                return False
            self.findings.add(Unit.FILE, where, How.MISSING, "the object's file is absent")
            return False
        try:
            reader = opening.reader()
        except EvidenceError as error:
            self._name_file(where, error.message)
            return False
        with reader:
            for number in range(max(1, -(-opening.size // SEGMENT_BYTES))):
                start, stop = number * SEGMENT_BYTES, min(opening.size, (number + 1) * SEGMENT_BYTES)
                try:
                    for _ in reader.read(start, stop):
                        pass
                except EvidenceError as error:
                    good = False
                    self._name_file(where, error.message, number)
        return good

    def _name_file(self, where: str, message: str, number: int | None = None) -> None:
        """A segment that does not open, or the file where its length or its first line is wrong."""
        if message.startswith("segment "):
            number = int(message.split(" ", 2)[1]) if number is None else number
            self.findings.add(Unit.SEGMENT, f"{where} segment {number}", How.ALTERED, message)
        else:
            self.findings.add(Unit.FILE, where, How.ALTERED, message)

    def _check_tags(self, held: _Object, pair: Pair) -> None:
        """The object is found under both digests of its bytes and nothing else, and each item that owns it names one of them."""
        digests = str(Digest(Algorithm.SM3, pair.sm3)), str(Digest(Algorithm.SHA256, pair.sha256))
        for (where, index), named in held.named.items():
            if named and not named & set(digests):
                detail = "the item that owns the object names no original of its digests"
                self.findings.add(Unit.ORIGINAL, where, How.ALTERED, detail, expected=pair.sm3, leaf=index)
        key = self.ground.find_key
        if key is None:
            return
        expected = {key.tag("original", digest) for digest in digests}
        if held.tags != expected:
            how = How.MISSING if held.tags < expected else How.ADDED if held.tags > expected else How.ALTERED
            found = sorted(held.tags - expected) or [b""]
            wanted = sorted(expected - held.tags) or [b""]
            detail = "the object is not found under the digests of its bytes, and under no others"
            self.findings.add(
                Unit.ORIGINAL, f"{held.where} digests", how, detail, expected=wanted[0] or None, found=found[0] or None
            )

    # --- what belongs to nothing ------------------------------------------------------------------------------

    def _name_loose(self, connection: Connection) -> None:
        """Rows that refer to no object."""
        numbers = select(_TABLES["original"].c.number)
        for name in _REFERRING:
            table = _TABLES[name]
            for column in ("number", "manifest") if name == "original_part" else ("number",):
                query = select(table.c[column]).where(table.c[column].not_in(numbers)).distinct().limit(100)
                for number in connection.execute(query).scalars():
                    where = f"{name} row of object number {number}"
                    self.findings.add(Unit.ORIGINAL, where, How.ADDED, "the row refers to an object that has no row")

    def _name_stray(self) -> None:
        """Files of no object. What an upload is about to own is looked at twice: its row comes after its file."""
        folder = self.ground.settings.home / "originals"
        suspects: list[tuple[Path, bytes | None]] = []
        for path in sorted(folder.rglob("*")):
            if path.is_dir() or path.parent == folder / "tmp":
                continue
            suspects.append((path, _object_id(path, folder)))
        for start in range(0, len(suspects), _PAGE):
            page = suspects[start : start + _PAGE]
            known = self._known([name for _, name in page if name is not None])
            for path, name in page:
                if name is None:
                    self._name_stray_file(path.parent.name, "a file whose name is no object's")
                elif name not in known and self._is_stray(path, name):
                    self._name_stray_file(f"{name.hex()[:8]}…", "a file of the archive that belongs to no object")

    def _name_stray_file(self, where: str, detail: str) -> None:
        self.findings.add(Unit.FILE, f"originals {where}", How.ADDED, detail)

    def _known(self, names: Sequence[bytes]) -> set[bytes]:
        table = _TABLES["original"]
        with self.ground.store.reading() as connection:
            query = select(*raw(table)).where(table.c.object_id.in_(names))
            return {as_bytes(plain((row.object_id,))[0]) for row in connection.execute(query)}

    def _is_stray(self, path: Path, name: bytes) -> bool:
        busy = name in set(self._folder.unsettled())
        return not busy and name not in self._known([name]) and path.exists()


def _refer(held: _Object, table: str, column: str, row: Any) -> None:
    if table == "original_find":
        held.tags.add(as_bytes(plain((row.tag,))[0]))
    elif table == "original_staged":
        held.staged.append(row)
    elif table == "original_owner":
        held.owners.append(row)
    elif column == "manifest":
        held.parts.append(row)
    else:
        held.part_of.append(row.manifest)


def _object_id(path: Path, folder: Path) -> bytes | None:
    """The object whose file lies there, if it is the place of one."""
    name = path.parent.name + path.name
    try:
        found = bytes.fromhex(name)
    except ValueError:
        return None
    is_place = path.parent.parent == folder and len(path.parent.name) == 2
    return found if is_place and len(found) == OBJECT_ID_BYTES and found.hex() == name else None


def _evidence_of(connection: Connection, item: bytes) -> tuple[int, Evidence | None] | None:
    """The leaf of an item and its E, where it can be read."""
    c = items_table.c
    for row in connection.execute(select(*raw(items_table)).where(c.evidence_id == item).limit(2)):
        data = plain((row.data,))[0]
        try:
            return row.leaf_index, None if data is None else Evidence.parse(as_bytes(data))
        except (EvidenceError, ValueError):
            return row.leaf_index, None
    return None
