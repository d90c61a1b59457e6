"""The secrets of items, opened one by one where a batch does not open, so that each damaged one is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, column, func, select, table

from evidence.content import KEY_BYTES
from evidence.errors import Erased, NotFound
from evidence.examination.damage import How, Unit
from evidence.examination.ground import Ground, private
from evidence.keystore import KeyStore
from evidence.store import make_engine
from models.errors import EvidenceError

_TRIED = 64
_SECRET = table("secret", column("item"), column("month"), column("wrapped"))
_ABSENT = NotFound("the store of secrets is absent")


@dataclass(slots=True)
class Secrets:
    """Gives secrets; `failed` keeps, by month, the leaves whose secrets do not open."""

    ground: Ground
    failed: dict[str, set[int]] = field(default_factory=dict)
    months_bad: set[str] = field(default_factory=set)

    def of(self, items: Mapping[bytes, int]) -> dict[bytes, bytes | EvidenceError]:
        """For each item (SM3(S) → leaf) its secret, or the error that says what became of it."""
        store = self.ground.secrets
        found: dict[bytes, bytes | EvidenceError] = dict.fromkeys(items, _ABSENT)
        if store is None or not items:
            return found
        with self.ground.reading_part("secrets"):
            try:
                found.update(store.get_many(items))
            except EvidenceError:
                for item, leaf in items.items():
                    found[item] = self._one(store, item, leaf)
        return found

    def _one(self, store: KeyStore, item: bytes, leaf: int) -> bytes | EvidenceError:
        try:
            return store.get(item)
        except Erased as error:
            return error
        except EvidenceError as error:
            month = self._month(item)
            if month is None:
                return _ABSENT
            self.failed.setdefault(month, set()).add(leaf)
            return error

    def _engine(self) -> Engine:
        return make_engine(self.ground.settings.secrets_url, readers=1)

    def _month(self, item: bytes) -> str | None:
        engine = self._engine()
        try:
            with engine.connect() as connection:
                return connection.execute(select(_SECRET.c.month).where(_SECRET.c.item == item)).scalar()
        finally:
            engine.dispose()

    def check_months(self, staged: Sequence[str] = ()) -> None:
        """Every wrapping key that something is wrapped under is there, whole, and its owner's alone."""
        months = set(staged)
        if self.ground.secrets is not None:
            engine = self._engine()
            try:
                with self.ground.reading_part("secrets"), engine.connect() as connection:
                    months |= {str(month) for month in connection.execute(select(_SECRET.c.month).distinct()).scalars()}
                    self.ground.findings.count("secrets", _count(connection))
                    if engine.dialect.name == "sqlite":
                        self._check_pages(connection)
            finally:
                engine.dispose()
        for month in sorted(months):
            self._check_month(month)

    def _check_pages(self, connection: Connection) -> None:
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check(16)").all():
            if said != "ok":
                detail = "pages or indexes contradict each other"
                self.ground.findings.add(Unit.DATABASE, f"secrets: {said[:100]}", How.ALTERED, detail)

    def _check_month(self, month: str) -> None:
        where = f"keys/kek/{month}.key"
        try:
            self.ground.wrapping.get(month)
        except EvidenceError as error:
            self.months_bad.add(month)
            path = self.ground.settings.home / "keys" / "kek" / f"{month}.key"
            data = private(path, self.ground.findings, where) if month.replace("-", "").isdecimal() else b""
            if data is not None and len(data) != KEY_BYTES:
                self.ground.findings.add(Unit.KEY, where, How.ALTERED, error.message)

    def name_failed(self) -> None:
        """Each secret that does not open is named; where none of a month opens, its wrapping key is."""
        for month, leaves in sorted(self.failed.items()):
            where = f"keys/kek/{month}.key"
            if month in self.months_bad:
                continue
            if len(leaves) > 1 and not self._any_opens(month):
                detail = f"none of the secrets of {month} opens under this wrapping key"
                self.ground.findings.add(Unit.KEY, where, How.ALTERED, detail, leaves=(min(leaves), max(leaves) + 1))
                continue
            for leaf in sorted(leaves):
                detail = "the wrapped secret does not open: altered, or of another item"
                self.ground.findings.add(Unit.SECRET, f"leaf {leaf}", How.ALTERED, detail, leaf=leaf)

    def _any_opens(self, month: str) -> bool:
        store, engine = self.ground.secrets, self._engine()
        try:
            with engine.connect() as connection:
                query = select(_SECRET.c.item).where(_SECRET.c.month == month, _SECRET.c.wrapped.is_not(None)).limit(_TRIED)
                items = [bytes(item) for item in connection.execute(query).scalars()]
        finally:
            engine.dispose()
        return store is not None and any(_opens(store, item) for item in items)


def _opens(store: KeyStore, item: bytes) -> bool:
    try:
        store.get(item)
    except EvidenceError:
        return False
    return True


def _count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(_SECRET)).scalar_one())
