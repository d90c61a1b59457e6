"""Item secrets, wrapped, in a store of their own with its own backups (formats §7.2, §8.2).

A secret is written here before its item is: a secret without an item is swept, an item without
its secret could never be opened. Rows are appended under an ascending number, so that SQLite
never copies a wrapped secret to another page, and what `destroy` overwrites is its only copy.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from evidence.errors import Erased, NotFound, StorageFull, Unready
from evidence.keys import WrappingKeys
from evidence.statements import insert_many, run
from evidence.steps import Step, StepFunction, no_step
from evidence.store import make_engine, storage_error
from models.errors import Malformed, VerificationError

SECRET_BYTES = 32
ITEM_BYTES = 32
_PER_QUERY = 500
_READERS = 4

_METADATA = MetaData()
# `wrapped` is null once destroyed: the row stays as a marker, so that nothing is ever put there again.
_secret = Table(
    "secret",
    _METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("item", LargeBinary(ITEM_BYTES), nullable=False, unique=True),
    Column("month", String(7), nullable=False),
    Column("wrapped", LargeBinary, nullable=True),
)

# Where the log stood at the last commit but one, kept apart from the log's own database.
_head = Table(
    "head_lock",
    _METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("old_size", BigInteger, nullable=False),
    Column("old_root", LargeBinary(32), nullable=False),
    Column("new_size", BigInteger, nullable=False),
    Column("new_root", LargeBinary(32), nullable=False),
)


class HeadLock(NamedTuple):
    """The commit that was about to happen: SM3 head before and after it (formats §3.4)."""

    old_size: int
    old_root: bytes
    new_size: int
    new_root: bytes


_READ = select(_secret.c.item, _secret.c.month, _secret.c.wrapped).where(_secret.c.item.in_(bindparam("items", expanding=True)))


def _aad(item: bytes) -> bytes:
    return b"ev_" + item.hex().encode()


def _secure(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA secure_delete=ON")


class KeyStore:
    """The secrets of all items. Threads may share it; one transaction writes at a time.

    `url` is a SQLAlchemy URL: a SQLite file, or a PostgreSQL database other than the main one.
    """

    def __init__(self, url: str, *, wrapping: WrappingKeys, step: StepFunction = no_step) -> None:
        self._wrapping = wrapping
        self._step = step
        self._writer = make_engine(url, readers=0)
        self._reader = make_engine(url, readers=_READERS)
        self._is_sqlite = self._writer.dialect.name == "sqlite"
        self._lock = threading.Lock()
        path = self._writer.url.database
        if self._is_sqlite and path:
            event.listen(self._writer, "connect", _secure)
            # Made before SQLite makes it, so that it and the files beside it are never open to others.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._writing() as connection:
            _METADATA.create_all(connection)

    def close(self) -> None:
        """Every connection is closed."""
        self._writer.dispose()
        self._reader.dispose()

    def put_many(self, secrets: Sequence[tuple[bytes, bytes]], *, head: HeadLock | None = None) -> dict[bytes, bytes]:
        """The secrets of these items are stored, durable on return, in one transaction with one flush.

        Idempotent. An item that has a secret keeps it: what was stored and differs from what was
        given is returned, and the caller must use that one. `head`, the commit that is about to
        happen, is kept in the same transaction: the head lock outside the main database.
        Shapes: (SM3(S) of 32 bytes, secret of 32 bytes) each.
        Raises: Erased if an item was destroyed (nothing of the call is stored then); StorageFull,
            Unready if the store cannot write.
        """
        if not secrets and head is None:
            return {}
        month, wrap = self._wrapping.current()
        for item, secret in secrets:
            if len(item) != ITEM_BYTES or len(secret) != SECRET_BYTES:
                raise Malformed(f"item or secret has wrong length: expected 32 bytes each, got {len(item)} and {len(secret)}")
        sealed = wrap.seal_each([(secret, _aad(item)) for item, secret in secrets])
        rows = [(item, month, wrapped) for (item, _), wrapped in zip(secrets, sealed, strict=True)]
        self._step(Step.SECRETS_BEFORE)
        try:
            with self._writing() as connection:
                if rows:
                    insert_many(connection, _secret, rows)
                self._keep_head(connection, head)
        except IntegrityError:
            # Rare: a repeat after a crash, or the same item twice in one call.
            standing = self._put_missing(rows, secrets, head)
        else:
            standing = {}
        self._step(Step.SECRETS_AFTER)
        return standing

    def _keep_head(self, connection: Connection, head: HeadLock | None) -> None:
        if head is None:
            return
        change = "UPDATE head_lock SET old_size = ?, old_root = ?, new_size = ?, new_root = ?"
        if not run(connection, change, tuple(head)).rowcount:
            connection.execute(insert(_head).values(id=1, **head._asdict()))

    def head(self) -> HeadLock | None:
        """The commit that was about to happen when something was last put here."""
        with self._answering(), self._reader.connect() as connection, connection.begin():
            row = connection.execute(select(_head)).one_or_none()
        return None if row is None else HeadLock(row.old_size, bytes(row.old_root), row.new_size, bytes(row.new_root))

    def _put_missing(
        self, rows: Sequence[tuple[Any, ...]], secrets: Sequence[tuple[bytes, bytes]], head: HeadLock | None
    ) -> dict[bytes, bytes]:
        with self._writing() as connection:
            found = self._read(connection, [item for item, _ in secrets])
            missing: dict[bytes, tuple[Any, ...]] = {}
            for row, (item, secret) in zip(rows, secrets, strict=True):
                if item not in found:
                    found[item] = secret
                    missing[item] = row
            if missing:
                insert_many(connection, _secret, list(missing.values()))
            self._keep_head(connection, head)
        return {item: found[item] for item, secret in secrets if found[item] != secret}

    def get(self, item: bytes) -> bytes:
        """The item's secret.

        Raises: NotFound if none was put; Erased if it was destroyed; VerificationError if the stored bytes were altered.
        """
        found = self.get_many([item])
        if item not in found:
            raise NotFound(f"secret is absent (evidence ev_{item.hex()[:8]}…)")
        return found[item]

    def get_many(self, items: Iterable[bytes]) -> dict[bytes, bytes]:
        """The secrets of those of `items` that have one.

        Raises: Erased if one was destroyed; VerificationError if stored bytes were altered.
        """
        with self._answering(), self._reader.connect() as connection, connection.begin():
            return self._read(connection, list(items))

    def _read(self, connection: Connection, items: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(items), _PER_QUERY):
            for stored, month, wrapped in connection.execute(_READ, {"items": items[start : start + _PER_QUERY]}).all():
                item = bytes(stored)
                name = f"ev_{item.hex()[:8]}…"
                if wrapped is None:
                    raise Erased(f"secret was destroyed (evidence {name})")
                wrap = self._wrapping.get(month)
                secret = wrap.open(bytes(wrapped), aad=_aad(item), what=f"wrapped secret of evidence {name}")
                if len(secret) != SECRET_BYTES:
                    raise VerificationError(f"stored secret has wrong length: expected {SECRET_BYTES} bytes (evidence {name})")
                found[item] = secret
        return found

    def destroy(self, item: bytes) -> None:
        """The wrapped secret is gone from this store for good; a marker stays. Durable on return, idempotent.

        On SQLite its bytes are overwritten and the write-ahead log is emptied; on PostgreSQL the dead
        row is vacuumed, and its bytes may lie in a free part of a page until that is used again.
        Raises: NotFound if none was put; Unready if a reader held the store (repeat it), StorageFull.
        Source: formats §7.1, §7.2.
        """
        with self._writing() as connection:
            done = connection.execute(update(_secret).where(_secret.c.item == item).values(wrapped=None))
            if not done.rowcount:
                raise NotFound(f"secret is absent (evidence ev_{item.hex()[:8]}…)")
        self._scrub()

    def is_destroyed(self, item: bytes) -> bool:
        """Whether the item's secret was destroyed. Raises: NotFound if none was put."""
        with self._answering(), self._reader.connect() as connection, connection.begin():
            row = connection.execute(select(_secret.c.wrapped).where(_secret.c.item == item)).one_or_none()
        if row is None:
            raise NotFound(f"secret is absent (evidence ev_{item.hex()[:8]}…)")
        return row.wrapped is None

    def items(self, after: bytes | None = None, limit: int = 1000) -> list[bytes]:
        """The items that have a secret (none destroyed), ascending by item, above `after`."""
        query = select(_secret.c.item).where(_secret.c.wrapped.is_not(None)).order_by(_secret.c.item).limit(limit)
        if after is not None:
            query = query.where(_secret.c.item > after)
        with self._answering(), self._reader.connect() as connection, connection.begin():
            return [bytes(item) for item in connection.execute(query).scalars()]

    def sweep(self, known: Callable[[Sequence[bytes]], Collection[bytes]]) -> int:
        """Secrets whose item was never stored are gone; says how many there were.

        To be called before intake begins: a secret is put before its item, so that one just put
        would look like a left-over. `known` gives those of the items handed to it that are stored.
        """
        gone, after = 0, None
        while page := self.items(after):
            after = page[-1]
            stored = set(known(page))
            spare = [item for item in page if item not in stored]
            for start in range(0, len(spare), _PER_QUERY):
                with self._writing() as connection:
                    connection.execute(delete(_secret).where(_secret.c.item.in_(spare[start : start + _PER_QUERY])))
            gone += len(spare)
        if gone:
            self._scrub()
        return gone

    def _scrub(self) -> None:
        """Copies of rows that a commit leaves outside the table are gone."""
        if not self._is_sqlite:
            with self._answering(), self._writer.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM secret"))
            return
        # Not through a transaction: SQLite cannot empty its log from within one.
        with self._lock, closing(self._writer.raw_connection()) as raw, closing(raw.cursor()) as cursor:
            try:
                (busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                raise StorageFull("the secret store cannot be written", retry_after_s=30) from error
        if busy:
            raise Unready("the secret store is being read: its log could not be emptied", hint="repeat the erasure")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._lock, self._answering(), self._writer.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise storage_error(error) from error
