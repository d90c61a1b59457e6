"""Who may come in: accounts, their roles and subject, and their tokens.

A token is 32 random bytes that are shown once; only its SM3 is stored, so the database lets nobody
in. Known tokens are remembered for less than a second, so that the hot path asks no database and
a token revoked by another process stops within that second.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Engine, LargeBinary, String, Table, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from evidence.errors import Conflict, Forbidden, NotFound, Unauthorised, Unready
from evidence.store import storage_error
from evidence.tables import COUNTER, METADATA
from models.canonical import b64u, format_time
from models.certificate import Certificate
from models.checkpoint import STATEMENT_TYPE, VerifierKey
from models.digest import sm3
from models.errors import Malformed
from models.names import check_name

TOKEN_PREFIX = "cz_"  # noqa: S105 - the public beginning of every token, so that scanners can find leaked ones
TOKEN_BYTES = 32
CHECK_BYTES = 3
TOKEN_LENGTH = len(TOKEN_PREFIX) + 43 + 4
REMEMBERED_S = 0.8

_TOKEN = re.compile(r"cz_[A-Za-z0-9_-]{47}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_account = Table(
    "account",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("account", String(128), nullable=False, unique=True),
    Column("roles", String(128), nullable=False),
    Column("subject_id", String(128), nullable=False),
    Column("subject_name", String(256), nullable=False),
    Column("created_ms", COUNTER, nullable=False),
)

_token = Table(
    "token",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("account", String(128), nullable=False, index=True),
    Column("created_ms", COUNTER, nullable=False),
    Column("expires_ms", COUNTER, nullable=True),
    Column("revoked_ms", COUNTER, nullable=True),
)

# A submitter who signs: the key (named as the account) or certificate under which it does.
_key = Table(
    "submitter_key",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("account", String(128), nullable=False, index=True),
    Column("key_id", LargeBinary(4), nullable=False),
    Column("public_key", LargeBinary(65), nullable=False, unique=True),
    Column("vkey", String(512), nullable=False),
    Column("registered_ms", COUNTER, nullable=False),
)

# Every certificate anyone may fetch; account null for those of nodes and authorities.
_certificate = Table(
    "certificate",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("account", String(128), nullable=True, index=True),
    Column("der", LargeBinary, nullable=False),
    Column("registered_ms", COUNTER, nullable=False),
)


class Role(StrEnum):
    """What an account may do (interface §2): own subject · all metadata and proofs · one item with contents · run it."""

    BUSINESS = "business"
    AUDITOR = "auditor"
    COURT = "court"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. The subject is empty for accounts that submit nothing."""

    account: str
    roles: frozenset[Role]
    subject_id: str
    subject_name: str

    def require(self, *roles: Role) -> None:
        """Pass a caller who has one of `roles`. Raises: Forbidden otherwise."""
        if self.roles.isdisjoint(roles):
            raise Forbidden(
                f"role does not allow this: expected {' or '.join(roles)}, got {', '.join(sorted(self.roles))}",
                hint="ask an operator for an account with that role",
            )


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as `access list` shows it. `expires_at` is that of the newest token, None if it has no end."""

    account: str
    roles: tuple[Role, ...]
    subject_id: str
    subject_name: str
    created_at: datetime
    expires_at: datetime | None
    state: str
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """The row for `--json`."""
        return {
            "account": self.account,
            "created_at": format_time(self.created_at),
            "expires_at": None if self.expires_at is None else format_time(self.expires_at),
            "roles": list(self.roles),
            "state": self.state,
            "subject": {"id": self.subject_id, "name": self.subject_name} if self.subject_id else None,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    expires_at: datetime | None
    seen: float


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)


def make_token(randomness: Callable[[int], bytes]) -> str:
    """A new token: `cz_` ‖ b64u of 32 random bytes ‖ b64u of 3 check bytes, 50 characters."""
    body = b64u(randomness(TOKEN_BYTES))
    return TOKEN_PREFIX + body + b64u(sm3(body.encode())[:CHECK_BYTES])


def token_digest(token: str) -> bytes:
    """The SM3 under which a token is stored.

    Raises: Unauthorised if it cannot be a token of ours: form or check bytes are wrong.
    """
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise Unauthorised("token has wrong form: expected cz_ and 47 characters", hint="send Authorization: Bearer cz_…")
    body = token[len(TOKEN_PREFIX) : -4]
    if b64u(sm3(body.encode())[:CHECK_BYTES]) != token[-4:]:
        raise Unauthorised("token is mistyped: its check characters do not fit")
    return sm3(token.encode())


class Access:
    """Accounts and tokens of the main database. Threads may share it.

    `now_s` only measures how long a token was remembered; everything else goes by `clock`.
    """

    def __init__(
        self,
        writer: Engine,
        *,
        reader: Engine | None = None,
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes] = os.urandom,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._reader = reader or writer
        self._clock = clock
        self._randomness = randomness
        self._now_s = now_s
        self._known: dict[bytes, _Known] = {}
        self._generation = 0
        self._lock = threading.Lock()

    def add(self, account: str, *, roles: Iterable[Role], subject: tuple[str, str] | None, expires_at: datetime | None) -> str:
        """The account exists, durably; its token, which is shown here and never again.

        Raises: Malformed if a name, role or end has wrong form, or a business account has no
            subject; Conflict if the account exists.
        """
        check_name(account, "account")
        found = self._roles(roles)
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise Malformed("end of the access is past: expected a time to come")
        if subject is not None:
            check_name(subject[0], "subject id")
            check_name(subject[1], "subject name")
        elif Role.BUSINESS in found:
            raise Malformed("business account has no subject: expected an id and a name")
        token = make_token(self._randomness)
        row = {
            "account": account,
            "roles": " ".join(sorted(found)),
            "subject_id": subject[0] if subject else "",
            "subject_name": subject[1] if subject else "",
            "created_ms": _milliseconds(now),
        }
        with self.writing() as connection:
            try:
                connection.execute(insert(_account), row)
            except IntegrityError as error:
                hint = "use access rotate for a new token"
                raise Conflict("account exists: expected a new name", record_id=None, hint=hint) from error
            self._insert_token(connection, account, token, now, expires_at)
        return token

    def authenticate(self, token: str) -> Caller:
        """Who holds this token.

        Raises: Unauthorised if it is malformed, unknown, expired or revoked.
        """
        # What is remembered was of the right form: that is looked at only in what is not.
        digest = sm3(token.encode())
        known = self._known.get(digest)
        if known is None or self._now_s() - known.seen > REMEMBERED_S:
            known = self._look_up(token_digest(token))
        if known.expires_at is not None and self._clock() >= known.expires_at:
            self._known.pop(digest, None)
            raise Unauthorised("token has expired", hint="ask an operator to rotate it")
        return known.caller

    def _look_up(self, digest: bytes) -> _Known:
        # Both taken before the question, so that its answer does not outlive a revocation made meanwhile.
        seen = self._now_s()
        generation = self._generation
        query = (
            select(_token.c.expires_ms, _token.c.revoked_ms, _account)
            .join(_account, _account.c.account == _token.c.account)
            .where(_token.c.digest == digest)
        )
        with self.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or row.revoked_ms is not None:
            self._known.pop(digest, None)
        if row is None:
            raise Unauthorised("token is unknown")
        if row.revoked_ms is not None:
            raise Unauthorised("token was revoked", hint="ask an operator for a new one")
        caller = Caller(row.account, frozenset(Role(role) for role in row.roles.split()), row.subject_id, row.subject_name)
        known = _Known(caller, _moment(row.expires_ms), seen)
        with self._lock:
            if generation == self._generation:
                self._known[digest] = known
        return known

    def list(self) -> tuple[AccountRow, ...]:
        """All accounts in the order of their making, with the state of their access."""
        now = _milliseconds(self._clock())
        with self.reading() as connection:
            accounts = connection.execute(select(_account).order_by(_account.c.number)).all()
            tokens: dict[str, list[Any]] = {}
            for token in connection.execute(select(_token).order_by(_token.c.number)):
                tokens.setdefault(token.account, []).append(token)
        found = []
        for row in accounts:
            own = tokens.get(row.account, [])
            alive = [token for token in own if token.revoked_ms is None]
            active = [token for token in alive if token.expires_ms is None or token.expires_ms > now]
            state = "active" if active else "expired" if alive else "revoked"
            newest = (active or alive or own or [None])[-1]
            found.append(
                AccountRow(
                    row.account,
                    tuple(Role(role) for role in row.roles.split()),
                    row.subject_id,
                    row.subject_name,
                    _EPOCH + timedelta(milliseconds=row.created_ms),
                    None if newest is None else _moment(newest.expires_ms),
                    state,
                    len(active),
                )
            )
        return tuple(found)

    def revoke(self, account: str) -> None:
        """No token of the account lets anyone in any more: here at once, in other processes within a second.

        Idempotent. Raises: NotFound if there is no such account.
        """
        with self.writing() as connection:
            self._require(connection, account)
            self._revoke(connection, account)
        self._forget(account)

    def rotate(self, account: str, *, expires_at: datetime | None = None) -> str:
        """A new token for the account, shown here and never again; all its earlier ones are revoked.

        Without `expires_at` the new token ends when the newest of the earlier ones would have.
        Raises: NotFound if there is no such account; Malformed if that end is past.
        """
        now = self._clock()
        token = make_token(self._randomness)
        with self.writing() as connection:
            self._require(connection, account)
            newest = select(_token.c.expires_ms).where(_token.c.account == account).order_by(_token.c.number.desc()).limit(1)
            end = _moment(connection.execute(newest).scalar()) if expires_at is None else expires_at
            if end is not None and end <= now:
                raise Malformed("end of the access is past: expected a time to come", hint="give a new end with --expires")
            self._revoke(connection, account)
            self._insert_token(connection, account, token, now, end)
        self._forget(account)
        return token

    # --- keys and certificates of submitters ------------------------------------------------------------------

    def register_key(self, account: str, text: str) -> VerifierKey:
        """The account signs under this verifier key; idempotent.

        Raises: NotFound if there is no such account; Malformed if it is no statement key named as
            the account; Conflict if the key is registered for another account.
        Source: formats §11 (a submitter's vkey).
        """
        key = VerifierKey.parse(text)
        if key.type != STATEMENT_TYPE or key.name != account:
            raise Malformed("verifier key is another than expected: type statement/v1, named as the account")
        row = {
            "account": account,
            "key_id": key.key_id,
            "public_key": key.public_key,
            "vkey": str(key),
            "registered_ms": _milliseconds(self._clock()),
        }
        self._register(account, _key, _key.c.public_key == key.public_key, row, "key")
        return key

    def submitter_keys(self, account: str | None = None) -> tuple[VerifierKey, ...]:
        """The keys of an account, or of all, in the order of registration; each is named as its account."""
        query = select(_key.c.vkey).order_by(_key.c.number)
        with self.reading() as connection:
            found = connection.execute(query if account is None else query.where(_key.c.account == account)).scalars().all()
        return tuple(VerifierKey.parse(text) for text in found)

    def register_certificate(self, account: str | None, der_or_pem: bytes) -> Certificate:
        """The certificate can be fetched by anyone; with an account, statements of it may be signed under it. Idempotent.

        Raises: NotFound if there is no such account; Malformed, Unknown if it is no SM2 certificate;
            Conflict if it is registered for another account.
        Source: T/SAC 004—2024 6.4.3-a; formats §2.3.
        """
        certificate = Certificate.parse(der_or_pem)
        row = {
            "digest": certificate.digest.value,
            "account": account,
            "der": certificate.der,
            "registered_ms": _milliseconds(self._clock()),
        }
        self._register(account, _certificate, _certificate.c.digest == certificate.digest.value, row, "certificate")
        return certificate

    def certificate(self, digest: bytes) -> bytes:
        """The DER of a registered certificate by its SM3. Raises: NotFound."""
        with self.reading() as connection:
            der = connection.execute(select(_certificate.c.der).where(_certificate.c.digest == digest)).scalar()
        if der is None:
            raise NotFound(f"certificate is not registered ({digest.hex()[:8]}…)")
        return bytes(der)

    def certificates(self, account: str | None = None) -> tuple[tuple[str | None, Certificate], ...]:
        """(account, certificate) of an account, or of all, in the order of registration."""
        query = select(_certificate.c.account, _certificate.c.der).order_by(_certificate.c.number)
        with self.reading() as connection:
            found = connection.execute(query if account is None else query.where(_certificate.c.account == account)).all()
        return tuple((row.account, Certificate.parse(bytes(row.der))) for row in found)

    def _register(self, account: str | None, table: Table, same: ColumnElement[bool], row: dict[str, Any], what: str) -> None:
        with self.writing() as connection:
            if account is not None:
                self._require(connection, account)
            known = connection.execute(select(table.c.account).where(same)).one_or_none()
            if known is None:
                connection.execute(insert(table), row)
            elif known.account != account:
                raise Conflict(f"{what} is registered for another account: expected one that is nobody's yet", record_id=None)

    def _roles(self, roles: Iterable[Role]) -> frozenset[Role]:
        try:
            found = frozenset(Role(role) for role in roles)
        except ValueError as error:
            raise Malformed(f"role is unknown: expected one of {', '.join(Role)}") from error
        if not found:
            raise Malformed(f"account has no role: expected one of {', '.join(Role)}")
        return found

    def _require(self, connection: Connection, account: str) -> None:
        if connection.execute(select(_account.c.number).where(_account.c.account == account)).one_or_none() is None:
            raise NotFound("account is unknown", hint="see access list")

    def _revoke(self, connection: Connection, account: str) -> None:
        standing = (_token.c.account == account) & _token.c.revoked_ms.is_(None)
        connection.execute(update(_token).where(standing).values(revoked_ms=_milliseconds(self._clock())))

    def _insert_token(self, connection: Connection, account: str, token: str, now: datetime, end: datetime | None) -> None:
        row = {
            "digest": token_digest(token),
            "account": account,
            "created_ms": _milliseconds(now),
            "expires_ms": None if end is None else _milliseconds(end),
            "revoked_ms": None,
        }
        connection.execute(insert(_token), row)

    def _forget(self, account: str) -> None:
        with self._lock:
            self._generation += 1
            self._known = {digest: known for digest, known in self._known.items() if known.caller.account != account}

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A short transaction that writes. Raises: Unready, StorageFull."""
        with answering(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A short transaction that reads. Raises: Unready."""
        with answering(), self._reader.begin() as connection:
            yield connection


@contextmanager
def answering() -> Iterator[None]:
    """What the database refuses within becomes an error that a caller can be told. Raises: Unready, StorageFull."""
    try:
        yield
    except DBAPIError as error:
        raise storage_error(error) from error
    except PoolTimeout as error:
        raise Unready("the database is busy: no connection became free") from error
