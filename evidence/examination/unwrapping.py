"""The secrets of items, opened one by one where a batch does not open, so that each damaged one is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection, column, func, select, table

from evidence.content import KEY_BYTES
from evidence.errors import Erased, NotFound, Unready
from evidence.examination.damage import How, Unit
from evidence.examination.ground import Ground, private
from evidence.examination.kept import plain
from evidence.keystore import KeyStore
from evidence.store import make_engine
from models.errors import EvidenceError

_TRIED = 64
_PER_QUERY = 500
_SECRET = table("secret", column("item"), column("month"), column("wrapped"))
_ABSENT = NotFound("secret is absent")
_UNREAD = Unready("the store of secrets cannot be read")

Found = dict[bytes, bytes | EvidenceError]


@dataclass(slots=True)
class Secrets:
    """Gives secrets; `failed` keeps, by month, the leaves whose secrets do not open though their month's key is good."""

    ground: Ground
    failed: dict[str, set[int]] = field(default_factory=dict)
    months_bad: set[str] = field(default_factory=set)

    def of(self, items: Mapping[bytes, int]) -> Found:
        """For each item (SM3(S) → leaf) its secret, or the error that says what became of it; Unready where it was named."""
        store = self.ground.secrets
        if store is None or not items:
            return dict.fromkeys(items, _UNREAD)
        found: Found = dict.fromkeys(items, _UNREAD)
        with self.ground.reading_part("secrets"):
            try:
                opened = store.get_many(items)
            except Unready:
                raise
            except EvidenceError:
                found.update(self._each(store, items))
            else:
                found.update(dict.fromkeys(items, _ABSENT))
                found.update(opened)
        return found

    def _each(self, store: KeyStore, items: Mapping[bytes, int]) -> Found:
        months = self._months(list(items))
        found: Found = {}
        for item, leaf in items.items():
            month = months.get(item)
            if month is None:
                found[item] = _ABSENT
            elif month in self.months_bad:
                found[item] = _UNREAD
            else:
                found[item] = self._one(store, item, leaf, month)
        return found

    def _one(self, store: KeyStore, item: bytes, leaf: int, month: str) -> bytes | EvidenceError:
        try:
            return store.get(item)
        except (Erased, Unready) as error:
            return error
        except EvidenceError:
            self.failed.setdefault(month, set()).add(leaf)
            return _UNREAD

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        engine = make_engine(self.ground.settings.secrets_url, readers=1)
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def _months(self, items: Sequence[bytes]) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        with self._reading() as connection:
            for start in range(0, len(items), _PER_QUERY):
                query = select(_SECRET.c.item, _SECRET.c.month).where(_SECRET.c.item.in_(items[start : start + _PER_QUERY]))
                found.update((plain(row)[0], str(row[1])) for row in connection.execute(query))
        return found

    # --- the keys that wrap them ------------------------------------------------------------------------------

    def check_months(self, staged: Sequence[str] = ()) -> None:
        """Every wrapping key that something is wrapped under is there, its owner's alone, and opens what is wrapped under it."""
        months = set(staged)
        if self.ground.secrets is not None:
            with self.ground.reading_part("secrets"), self._reading() as connection:
                months |= {str(month) for month in connection.execute(select(_SECRET.c.month).distinct()).scalars()}
                count = connection.execute(select(func.count()).select_from(_SECRET)).scalar_one()
                self.ground.findings.count("secrets", int(count))
                if connection.dialect.name == "sqlite":
                    self._check_pages(connection)
        for month in sorted(months):
            self._check_month(month)

    def _check_pages(self, connection: Connection) -> None:
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check(16)").all():
            if said != "ok":
                detail = "pages or indexes contradict each other"
                self.ground.findings.add(Unit.DATABASE, f"secrets: {said[:100]}", How.ALTERED, detail)

    def _check_month(self, month: str) -> None:
        where, findings = f"keys/kek/{month}.key", self.ground.findings
        try:
            self.ground.wrapping.get(month)
        except EvidenceError as error:
            self.months_bad.add(month)
            path = self.ground.settings.home / "keys" / "kek" / f"{month}.key"
            data = private(path, findings, where) if month.replace("-", "").isdecimal() else b""
            if data is not None and len(data) != KEY_BYTES:
                findings.add(Unit.KEY, where, How.ALTERED, error.message)
            return
        with self.ground.reading_part("secrets"):
            if self._opens_nothing(month):
                self.months_bad.add(month)
                findings.add(Unit.KEY, where, How.ALTERED, "no secret of the month opens under this wrapping key")

    def _opens_nothing(self, month: str) -> bool:
        """Several secrets were wrapped in the month, and none that is tried opens: a single one may itself be damaged."""
        store = self.ground.secrets
        if store is None:
            return False
        with self._reading() as connection:
            query = select(_SECRET.c.item).where(_SECRET.c.month == month, _SECRET.c.wrapped.is_not(None)).limit(_TRIED)
            items = [bytes(item) for item in connection.execute(query).scalars()]
        return len(items) > 1 and not any(_opens(store, item) for item in items)

    def name_failed(self) -> None:
        """Each secret that does not open is named."""
        for leaf in sorted(leaf for leaves in self.failed.values() for leaf in leaves):
            detail = "the wrapped secret does not open: altered, or of another item"
            self.ground.findings.add(Unit.SECRET, f"leaf {leaf}", How.ALTERED, detail, leaf=leaf)


def _opens(store: KeyStore, item: bytes) -> bool:
    try:
        store.get(item)
    except EvidenceError:
        return False
    return True
