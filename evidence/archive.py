"""Originals (原件): streamed in, checked, encrypted, and held apart from the database under random names.

Each object has a key of its own. Until an item owns the object that key lies wrapped under the
month's KEK, once per account that uploaded it; from then on under K_content of every item that owns
it, so that destroying the item's secret destroys the way to its originals. A digest of an original
can be guessed, so it stands nowhere: objects are found by the blind index only. And whoever knows
only a digest gets nothing by it: an account owns what it uploaded itself, every byte of it.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from evidence.access import answering
from evidence.content import Randomness, Wrap, content_key
from evidence.errors import NotFound, Overloaded
from evidence.keys import FindKey, WrappingKeys
from evidence.original import Manifest, Opening, Original, read_manifest
from evidence.steps import Step, StepFunction, no_step
from evidence.tables import COUNTER, METADATA
from evidence.upload import Finished, ObjectFolder, Piece, Upload, gathered, in_thread
from models.digest import Algorithm, Digest, Pair
from models.errors import EvidenceError, VerificationError

MAX_UPLOADS = 64
WHOLE, PART, MANIFEST = 0, 1, 2
_PER_QUERY = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# One row an object (file). `size` is that of its plaintext.
_held = Table(
    "original",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("object_id", LargeBinary(16), nullable=False, unique=True),
    Column("kind", SmallInteger, nullable=False),
    Column("size", COUNTER, nullable=False),
)

# Both digests of an original, blinded, → the object that holds it or its manifest.
_find = Table(
    "original_find",
    METADATA,
    Column("tag", LargeBinary(16), primary_key=True),
    Column("number", COUNTER, ForeignKey("original.number"), primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# Which part of which manifest an object is; its key under the manifest's.
_part = Table(
    "original_part",
    METADATA,
    Column("manifest", COUNTER, ForeignKey("original.number"), primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("number", COUNTER, ForeignKey("original.number"), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# Uploaded by an account and not yet owned by an item of it: the key under the KEK of that month.
_staged = Table(
    "original_staged",
    METADATA,
    Column("number", COUNTER, ForeignKey("original.number"), primary_key=True, autoincrement=False),
    Column("account", String(128), primary_key=True),
    Column("month", String(7), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("staged_ms", COUNTER, nullable=False),
    sqlite_with_rowid=False,
)

# Owned by an item: the key under K_content of that item.
_owner = Table(
    "original_owner",
    METADATA,
    Column("number", COUNTER, ForeignKey("original.number"), primary_key=True, autoincrement=False),
    Column("item", LargeBinary(32), primary_key=True),
    Column("account", String(128), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Index("original_owner_by_item", "item"),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True)
class Stored:
    """An original that is held now; `created` unless this account had uploaded it before."""

    pair: Pair
    size: int
    parts: int
    created: bool


def _identity(item: bytes) -> str:
    return f"ev_{item.hex()}"


def _staged_aad(object_id: bytes, account: str) -> bytes:
    return b"cz-staged/1\x00" + object_id + account.encode()


def _owner_aad(object_id: bytes, item: bytes) -> bytes:
    return b"cz-owner/1\x00" + object_id + item


def _part_aad(object_id: bytes, place: int) -> bytes:
    return b"cz-part/1\x00" + object_id + place.to_bytes(4)


class Archive:
    """The originals of a home. Threads and tasks may share it; one process writes.

    `secret_of` gives an item's secret (the key store's `get`), so that an account need not upload
    again what one of its items owns.
    """

    def __init__(
        self,
        home: Path,
        writer: Engine,
        *,
        find_key: FindKey,
        wrapping: WrappingKeys,
        secret_of: Callable[[bytes], bytes],
        clock: Callable[[], datetime],
        unit_limit_bytes: int,
        reader: Engine | None = None,
        max_bytes: int | None = None,
        randomness: Randomness = os.urandom,
        step: StepFunction = no_step,
    ) -> None:
        self._folder = ObjectFolder(home)
        self._writer = writer
        self._reader = reader or writer
        self._find_key = find_key
        self._wrapping = wrapping
        self._secret_of = secret_of
        self._clock = clock
        self._limit = unit_limit_bytes
        self._max = max_bytes
        self._randomness = randomness
        self._step = step
        self._uploads = 0
        self._busy: weakref.WeakValueDictionary[bytes, asyncio.Lock] = weakref.WeakValueDictionary()
        self._folder.prepare()

    # --- in ---------------------------------------------------------------------------------------------------

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes], *, account: str) -> Stored:
        """The original is held for `account`: on the disk, encrypted, its row committed.

        Idempotent; may run concurrently, also for one digest. The whole body is read even if the
        original is held already: that it can be sent is the proof that the account has it. If the
        body ends early, has another digest or the task is cancelled, nothing is left.
        Raises: VerificationError if the digest differs; TooLarge; Overloaded if too many uploads
            run; StorageFull, Unready if it cannot be stored.
        Source: formats §8.3; 6.4.2-f.
        """
        if self._uploads >= MAX_UPLOADS:
            raise Overloaded(f"too many uploads at once: expected at most {MAX_UPLOADS}")
        self._uploads += 1
        upload = Upload(
            self._folder, unit_limit_bytes=self._limit, max_bytes=self._max, randomness=self._randomness, step=self._step
        )
        try:
            async for data in gathered(chunks):
                await in_thread(partial(upload.write, data))
            finished = await in_thread(partial(upload.finish, digest))
            async with self._alone(finished.pair.sm3):
                created = await in_thread(partial(self._keep, upload, finished, account))
            return Stored(finished.pair, finished.size, len(finished.pieces), created)
        finally:
            self._uploads -= 1
            await in_thread(upload.abandon)

    @asynccontextmanager
    async def _alone(self, digest: bytes) -> AsyncIterator[None]:
        """Of several uploads of one original, the second sees what the first has stored."""
        lock = self._busy.setdefault(digest, asyncio.Lock())
        async with lock:
            yield

    def _keep(self, upload: Upload, finished: Finished, account: str) -> bool:
        known = self._reusable(finished.pair, account)
        if known is not None:
            number, object_id, key = known
            with self._writing() as connection:
                return self._stage(connection, number, object_id, key, account)
        self._step(Step.ORIGINAL_RENAME_BEFORE)
        # From here on a failure may leave rows or lasting names behind: `_settle` decides which to believe.
        upload.release()
        try:
            self._folder.publish(finished.object_ids)
            self._step(Step.ORIGINAL_RENAME_AFTER)
            self._step(Step.ORIGINAL_ROW_BEFORE)
            with self._writing() as connection:
                self._insert(connection, finished, account)
        except EvidenceError as error:
            if not (isinstance(error.__cause__, DBAPIError) and error.__cause__.connection_invalidated):
                # A COMMIT of unknown outcome is left to the next start; else the rows say what to do.
                with suppress(EvidenceError, OSError):
                    self._settle(finished.object_ids)
            raise
        self._step(Step.ORIGINAL_ROW_AFTER)
        self._folder.keep(finished.object_ids)
        return True

    def _insert(self, connection: Connection, finished: Finished, account: str) -> None:
        kind = WHOLE if finished.manifest is None else PART
        numbers = [self._insert_object(connection, piece, kind) for piece in finished.pieces]
        head = finished.head
        number = numbers[0]
        if finished.manifest is not None:
            number = self._insert_object(connection, finished.manifest, MANIFEST)
            under = Wrap(finished.manifest.key, randomness=self._randomness)
            rows = [
                {
                    "manifest": number,
                    "place": place,
                    "number": own,
                    "wrapped": under.seal(piece.key, aad=_part_aad(piece.object_id, place)),
                }
                for place, (own, piece) in enumerate(zip(numbers, finished.pieces, strict=True))
            ]
            connection.execute(insert(_part), rows)
        connection.execute(insert(_find), [{"tag": tag, "number": number} for tag in self._tags(finished.pair)])
        self._stage(connection, number, head.object_id, head.key, account)

    def _insert_object(self, connection: Connection, piece: Piece, kind: int) -> int:
        done = connection.execute(insert(_held).values(object_id=piece.object_id, kind=kind, size=piece.size))
        key = done.inserted_primary_key
        return int(key[0]) if key is not None else 0

    def _stage(self, connection: Connection, number: int, object_id: bytes, key: bytes, account: str) -> bool:
        now = (self._clock() - _EPOCH) // timedelta(milliseconds=1)
        mine = (_staged.c.number == number) & (_staged.c.account == account)
        if connection.execute(update(_staged).where(mine).values(staged_ms=now)).rowcount:
            return False
        month, wrap = self._wrapping.current()
        wrapped = wrap.seal(key, aad=_staged_aad(object_id, account))
        row = {"number": number, "account": account, "month": month, "wrapped": wrapped, "staged_ms": now}
        connection.execute(insert(_staged), row)
        return True

    def _reusable(self, pair: Pair, account: str) -> tuple[int, bytes, bytes] | None:
        """An object that holds these very bytes whole, with its key; read through, so that a rotten copy is not relied on."""
        with self._reading() as connection:
            candidates = list(self._keys(connection, self._tags(pair)[0], account, any_account=True))
        for number, object_id, key in candidates:
            with suppress(EvidenceError):
                with self._reading() as connection:
                    original = self._assemble(connection, number, key)
                if original.verify() == pair:
                    return number, object_id, key
        return None

    # --- owned ------------------------------------------------------------------------------------------------

    def claim(self, connection: Connection, digest: Digest | str, item: bytes, k_content: bytes, *, account: str) -> bool:
        """The item owns the original, if `account` has uploaded it or an item of the account owns it; says whether.

        Part of the sequencer's transaction. Idempotent. Raises nothing of the data: an original
        that cannot be claimed is one that is not held.
        Shapes: `item` SM3(S) of 32 bytes, `k_content` 16 bytes.
        Source: formats §7.3.
        """
        tag = self._tag(digest)
        if self._owned(connection, item, tag) is not None:
            return True
        for number, object_id, key in self._keys(connection, tag, account, any_account=False):
            wrapped = Wrap(k_content, randomness=self._randomness).seal(key, aad=_owner_aad(object_id, item))
            connection.execute(insert(_owner), {"number": number, "item": item, "account": account, "wrapped": wrapped})
            connection.execute(delete(_staged).where(_staged.c.number == number, _staged.c.account == account))
            return True
        return False

    def _keys(self, connection: Connection, tag: bytes, account: str, *, any_account: bool) -> Iterator[tuple[int, bytes, bytes]]:
        """The objects of a tag whose key can be had: those staged first, then those owned."""
        number = _held.c.number
        base = select(number, _held.c.object_id).join(_find, _find.c.number == number).where(_find.c.tag == tag)
        staged = base.add_columns(_staged.c.account, _staged.c.month, _staged.c.wrapped).join(_staged, _staged.c.number == number)
        owned = base.add_columns(_owner.c.item, _owner.c.wrapped).join(_owner, _owner.c.number == number)
        if not any_account:
            staged = staged.where(_staged.c.account == account)
            owned = owned.where(_owner.c.account == account)
        for row in connection.execute(staged.order_by(_staged.c.account != account, number)).all():
            with suppress(EvidenceError):
                wrap = self._wrapping.get(row.month)
                object_id = bytes(row.object_id)
                yield row.number, object_id, wrap.open(bytes(row.wrapped), aad=_staged_aad(object_id, row.account))
        for row in connection.execute(owned.order_by(_owner.c.account != account, number)).all():
            with suppress(EvidenceError):
                item, object_id = bytes(row.item), bytes(row.object_id)
                wrap = Wrap(content_key(self._secret_of(item), _identity(item)))
                yield row.number, object_id, wrap.open(bytes(row.wrapped), aad=_owner_aad(object_id, item))

    def _owned(self, connection: Connection, item: bytes, tag: bytes) -> Any:
        query = (
            select(_held.c.number, _held.c.object_id, _owner.c.wrapped)
            .join(_find, _find.c.number == _held.c.number)
            .join(_owner, _owner.c.number == _held.c.number)
            .where(_find.c.tag == tag, _owner.c.item == item)
        )
        return connection.execute(query).first()

    def is_held(self, connection: Connection, item: bytes, digest: Digest | str) -> bool:
        """Whether the item owns an original of this digest."""
        return self._owned(connection, item, self._tag(digest)) is not None

    def owners(self, connection: Connection, digest: Digest | str, *, limit: int = 1000) -> list[bytes]:
        """The items that own an original of this digest, at most `limit`."""
        query = (
            select(_owner.c.item)
            .distinct()
            .join(_find, _find.c.number == _owner.c.number)
            .where(_find.c.tag == self._tag(digest))
            .order_by(_owner.c.item)
            .limit(limit)
        )
        return [bytes(item) for item in connection.execute(query).scalars()]

    # --- out --------------------------------------------------------------------------------------------------

    def open_original(self, connection: Connection, item: bytes, secret: bytes, digest: Digest | str) -> Original:
        """The original of this digest that the item owns, open for reading; close it, or read it to its end.

        Raises: NotFound if the item owns none; VerificationError if what is stored was altered.
        """
        row = self._owned(connection, item, self._tag(digest))
        if row is None:
            hint = "upload it with PUT /v1/originals/{digest}"
            raise NotFound(f"original is not held (evidence {_identity(item)[:11]}…)", hint=hint)
        object_id = bytes(row.object_id)
        wrap = Wrap(content_key(secret, _identity(item)))
        what = f"key of object {object_id.hex()[:8]}…"
        return self._assemble(connection, row.number, wrap.open(bytes(row.wrapped), aad=_owner_aad(object_id, item), what=what))

    def verify_original(self, connection: Connection, item: bytes, secret: bytes, digest: Digest | str) -> Pair:
        """Both digests of an original that the item owns, computed from every stored byte.

        Raises: NotFound; VerificationError naming what was altered, or if the digest is another.
        """
        expected = Digest.parse(str(digest))
        with self.open_original(connection, item, secret, expected) as original:
            pair = original.verify()
        got = pair.sm3 if expected.algorithm is Algorithm.SM3 else pair.sha256
        if got != expected.value:
            wanted = expected.value.hex()[:8]
            raise VerificationError(f"stored original has another digest: expected {wanted}…, got {got.hex()[:8]}…")
        return pair

    def _assemble(self, connection: Connection, number: int, key: bytes) -> Original:
        row = connection.execute(select(_held).where(_held.c.number == number)).one()
        head = self._opening(row, key)
        if row.kind != MANIFEST:
            return Original((head,), None)
        manifest: Manifest = read_manifest(head)
        query = (
            select(_held, _part.c.place, _part.c.wrapped)
            .join(_part, _part.c.number == _held.c.number)
            .where(_part.c.manifest == number)
            .order_by(_part.c.place)
        )
        under = Wrap(key)
        openings = []
        for part in connection.execute(query):
            aad = _part_aad(bytes(part.object_id), part.place)
            openings.append(self._opening(part, under.open(bytes(part.wrapped), aad=aad, what=f"key of part {part.place}")))
        if len(openings) != len(manifest.parts):
            raise VerificationError(f"original lacks parts: expected {len(manifest.parts)}, got {len(openings)}")
        return Original(openings, manifest)

    def _opening(self, row: Any, key: bytes) -> Opening:
        object_id = bytes(row.object_id)
        return Opening(self._folder.path(object_id), object_id, Wrap(key), row.size)

    # --- order ------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """What uploads and removals left unfinished when the process died is gone; says how many files. At start only."""
        return self._settle(self._folder.unsettled())

    def _settle(self, object_ids: Sequence[bytes]) -> int:
        """An object in `tmp` with a row keeps its lasting name only; one without a row goes altogether."""
        for start in range(0, len(object_ids), _PER_QUERY):
            some = object_ids[start : start + _PER_QUERY]
            with self._reading() as connection:
                rows = connection.execute(select(_held.c.object_id).where(_held.c.object_id.in_(some))).scalars()
                known = {bytes(row) for row in rows}
            self._folder.keep(known)
            self._folder.remove(name for name in some if name not in known)
        return len(object_ids)

    def expire(self, before: datetime) -> int:
        """Uploads that no item has claimed since `before` are gone, with their files unless something else holds them.

        Says how many originals went. Safe beside uploads and claims: rows go first, and files after.
        """
        limit = (before - _EPOCH) // timedelta(milliseconds=1)
        with self._writing() as connection:
            connection.execute(delete(_staged).where(_staged.c.staged_ms < limit))
            heads = (
                select(_held.c.number)
                .where(_held.c.kind != PART)
                .where(_held.c.number.not_in(select(_staged.c.number)), _held.c.number.not_in(select(_owner.c.number)))
            )
            spare = list(connection.execute(heads).scalars())
            gone: list[bytes] = []
            for number in spare:
                parts = list(connection.execute(select(_part.c.number).where(_part.c.manifest == number)).scalars())
                numbers = [number, *parts]
                names = select(_held.c.object_id).where(_held.c.number.in_(numbers))
                gone += [bytes(name) for name in connection.execute(names).scalars()]
                connection.execute(delete(_part).where(_part.c.manifest == number))
                connection.execute(delete(_find).where(_find.c.number == number))
                connection.execute(delete(_held).where(_held.c.number.in_(numbers)))
            # Before the commit: if we die after it, the files are still named in `tmp` and go at the next start.
            self._folder.retire(gone)
        self._folder.remove(gone)
        return len(spare)

    def stray(self, connection: Connection) -> Iterator[str]:
        """One sentence for every object without its file and every file without its object; for `examine`."""
        known: set[bytes] = set()
        for object_id in connection.execute(select(_held.c.object_id)).scalars():
            known.add(bytes(object_id))
            if not self._folder.path(bytes(object_id)).is_file():
                yield f"object {bytes(object_id).hex()[:8]}… has no file"
        busy = set(self._folder.unsettled())
        for object_id in self._folder.objects():
            if object_id not in known and object_id not in busy:
                yield f"file {object_id.hex()[:8]}… of the archive belongs to no object"

    def _tag(self, digest: Digest | str) -> bytes:
        return self._find_key.tag("original", str(digest))

    def _tags(self, pair: Pair) -> tuple[bytes, bytes]:
        return self._tag(Digest(Algorithm.SM3, pair.sm3)), self._tag(Digest(Algorithm.SHA256, pair.sha256))

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with answering(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with answering(), self._reader.begin() as connection:
            yield connection
