"""Who may come in, as the tables say it: accounts, tokens, keys, certificates and revocation lists, each in itself coherent.

Nobody signed over these rows: that a role was given, or a token taken back, only whoever did it can tell. But
a digest, an id or an issuer beside a key or certificate follows from it, and a token from its account.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, select

from evidence.access import Role, token_digest
from evidence.examination.damage import How, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import as_bytes, raw
from evidence.tables import METADATA
from models.checkpoint import STATEMENT_TYPE, VerifierKey
from models.digest import sm3
from models.errors import EvidenceError
from models.names import check_name
from models.x509 import RevocationList

__all__ = ["accounts_of", "check_admission", "rows_of"]

_DIGEST_BYTES: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE: Final = 500

Row = dict[str, Any]


def rows_of(connection: Connection, name: str) -> Iterator[Row]:
    """The rows of a table by number, bytes as bytes whatever the database holds; a page at a time."""
    table = METADATA.tables[name]
    blobs = {column.name for column in table.columns if column.type.python_type is bytes}
    result = connection.execution_options(yield_per=_PAGE).execute(select(*raw(table)).order_by(table.c.number))
    for page in result.partitions():
        for found in page:
            row = found._asdict()
            yield {each: as_bytes(_plain(value)) if each in blobs and value is not None else value for each, value in row.items()}


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


def accounts_of(connection: Connection) -> frozenset[str]:
    """The names of all accounts."""
    account = METADATA.tables["account"]
    return frozenset(connection.execute(select(account.c.account)).scalars())


def check_admission(connection: Connection, ground: Ground) -> None:
    """Every row follows from what it holds, and belongs to an account that exists; the local token is one that was given out.

    Source: interface §2 (access), formats §2.3, §8.4.
    """
    accounts = accounts_of(connection)
    _Admission(ground, accounts).examine(connection)
    _check_local_token(connection, ground)


class _Admission:
    def __init__(self, ground: Ground, accounts: Container[str]) -> None:
        self._findings, self._accounts = ground.findings, accounts

    def examine(self, connection: Connection) -> None:
        judges: dict[str, Callable[[Row], Row]] = {
            "account": self._account,
            "token": self._token,
            "submitter_key": self._key,
            "certificate": self._certificate,
            "revocation_list": self._list,
        }
        for name, judge in judges.items():
            count = 0
            for row in rows_of(connection, name):
                count += 1
                where = f"{name} {row['number']}"
                try:
                    expected = judge(row)
                except (EvidenceError, ValueError, TypeError, AttributeError) as error:
                    said = error.message if isinstance(error, EvidenceError) else "a column has another form"
                    self._findings.add(Unit.ACCESS, where, How.ALTERED, f"the row holds what cannot be: {said}")
                    continue
                for column, wanted in expected.items():
                    if row[column] != wanted:
                        detail = f"column {column} does not follow from the rest of the row"
                        self._findings.add(Unit.ACCESS, f"{where} {column}", How.ALTERED, detail)
                self._check_owner(where, row)
            self._findings.count(f"{name} rows", count)

    def _check_owner(self, where: str, row: Row) -> None:
        account = row.get("account")
        if account is not None and account not in self._accounts:
            self._findings.add(Unit.ACCESS, f"{where} account", How.ALTERED, "the row is of an account that does not exist")

    @staticmethod
    def _account(row: Row) -> Row:
        check_name(row["account"], "account")
        roles = frozenset(Role(role) for role in row["roles"].split())
        if not roles:
            raise ValueError(row["number"])
        if row["subject_id"] or row["subject_name"] or Role.BUSINESS in roles:
            check_name(row["subject_id"], "subject id")
            check_name(row["subject_name"], "subject name")
        return {"roles": " ".join(sorted(roles))}

    @staticmethod
    def _token(row: Row) -> Row:
        """A token ends after it was made; its digest says nothing but its length."""
        end = row["expires_ms"]
        if len(row["digest"]) != _DIGEST_BYTES or (end is not None and not row["created_ms"] < end):
            raise ValueError(row["number"])
        return {}

    @staticmethod
    def _key(row: Row) -> Row:
        key = VerifierKey.parse(row["vkey"])
        if key.type != STATEMENT_TYPE:
            raise ValueError(row["number"])
        return {"account": key.name, "key_id": key.key_id, "public_key": key.public_key, "vkey": str(key)}

    @staticmethod
    def _certificate(row: Row) -> Row:
        return {"digest": sm3(row["der"])}

    @staticmethod
    def _list(row: Row) -> Row:
        digest = sm3(row["der"])
        if digest != row["digest"]:
            return {"digest": digest}
        found = RevocationList.parse(row["der"])
        return {"issuer": found.issuer_der, "this_ms": (found.this_update - _EPOCH) // timedelta(milliseconds=1)}


def _check_local_token(connection: Connection, ground: Ground) -> None:
    """The file of the local token holds one that this service gave out."""
    path = ground.settings.home / "token"
    if not path.is_file():
        return
    token = METADATA.tables["token"]
    try:
        digest = token_digest(path.read_text("ascii").strip())
        known = connection.execute(select(token.c.number).where(token.c.digest == digest)).first() is not None
    except (EvidenceError, OSError, UnicodeDecodeError):
        known = False
    if not known:
        ground.findings.add(Unit.KEY, "token", How.ALTERED, "the file holds no token that was given out here")
