"""What was done here: issuances and the audit trail.

Nobody signed over these tables. But much of what they say, other things say too: the record of an issuance,
which is evidence itself, gives its row; an issued package hash is that of an item; every item gives a row of the trail.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, select

from evidence import tables
from evidence.batch import idempotency_key
from evidence.examination.admission import Row, accounts_of, rows_of
from evidence.examination.damage import Findings, How, Leaves, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import as_bytes, plain, raw
from evidence.issuance import issue_fields
from evidence.stream_store import stream
from models.canonical import JSONValue, parse
from models.errors import Malformed
from models.evidence import Evidence

ISSUE_TEMPLATE: Final = "issue@1"
PRESERVE: Final = "preserve"
ACTS: Final[Mapping[str, str]] = {
    "issue": "item",
    "read": "item",
    "original": "item",
    "stream-query": "stream",
    "recount": "stream",
}
"""What may stand in the trail beside `preserve`, and what kind of thing it names."""

_SERVICE: Final = "service"
_STAGE: Final = "出证"
_NAME: Final = re.compile(r"is_[0-9a-f]{32}", re.ASCII)
_ITEM: Final = re.compile(r"ev_[0-9a-f]{64}", re.ASCII)
_STATES: Final = ("running", "done", "failed")
_ASKED: Final = {"disclose", "ids", "kind", "matter"}
_PAGE: Final = 500
_GIVES: Final = (("account", ("issued_to",)), ("request", ("matter", "disclosed")), ("result", ("items",)))
"""Which column of an issuance gives which fields of its record."""
_OF_ITEMS: Final = frozenset({Unit.ROW, Unit.EVIDENCE, Unit.COLUMN, Unit.ENTRY})


def _where(name: object) -> str:
    return f"issuance {str(name)[:11]}…"


# --- issuances --------------------------------------------------------------------------------------------------------


def check_issue(connection: Connection, leaf: int, evidence: Evidence, stages: JSONValue, findings: Findings) -> None:
    """The row of a preserved issuance says what its record says: who, what for, which items, with which digests.

    Source: T/SAC 004—2024 6.4.6-p4; formats §6.1 (the issue itself is evidence).
    """
    name = evidence.statement.client_key
    table = tables.issuance
    found = connection.execute(select(*raw(table)).where(table.c.name == name)).one_or_none()
    where = _where(name)
    if found is None:
        findings.add(Unit.ISSUANCE, where, How.MISSING, "the row of an issuance that is recorded in the log is absent", leaf=leaf)
        return
    row = found._asdict()
    if row["leaf_index"] != leaf and not (row["leaf_index"] is None and row["state"] != "done"):
        detail = "column leaf_index is not the record of the issuance"
        findings.add(Unit.ISSUANCE, f"{where} leaf_index", How.ALTERED, detail, expected=leaf, found=row["leaf_index"], leaf=leaf)
    if type(row["created_ms"]) is not int or row["created_ms"] > round(evidence.created_at.timestamp() * 1000):
        detail = "column created_ms is later than the record of the issuance"
        findings.add(Unit.ISSUANCE, f"{where} created_ms", How.ALTERED, detail, leaf=leaf)
    asked, results = _json(row["request"]), _json(row["result"])
    if not _is_request(asked) or not _are_results(results):
        return  # named with the rows
    recorded = stages[_STAGE]
    issued = [entry for entry in results if entry["state"] == "issued"]
    given = issue_fields(name, asked, issued, row["account"], recorded["issued_at"])
    for column, fields in _GIVES:
        if any(given.get(each) != recorded.get(each) for each in fields):
            detail = f"column {column} is not what the record of the issuance says"
            findings.add(Unit.ISSUANCE, f"{where} {column}", How.ALTERED, detail, leaf=leaf)


def check_issuances(connection: Connection, findings: Findings) -> None:
    """Every row of an issuance is coherent, belongs to an account, and names items by their package hashes and its own record."""
    accounts, count = accounts_of(connection), 0
    is_lost = any(unit in _OF_ITEMS for unit, _ in findings.damages)
    for row in rows_of(connection, "issuance"):
        count += 1
        where = _where(row["name"])
        for column, detail in _faults(row, accounts):
            findings.add(Unit.ISSUANCE, f"{where} {column}", How.ALTERED, detail)
        if row["leaf_index"] is not None and not is_lost and _record_of(connection, str(row["name"])) != row["leaf_index"]:
            detail = "column leaf_index is not the record of the issuance"
            findings.add(Unit.ISSUANCE, f"{where} leaf_index", How.ALTERED, detail, found=row["leaf_index"])
        results = _json(row["result"])
        if _are_results(results) and not is_lost and not _are_of_the_log(connection, results):
            detail = "column result names an item that the log does not hold, or another package hash than the item's"
            findings.add(Unit.ISSUANCE, f"{where} result", How.ALTERED, detail)
    findings.count("issuances", count)


def _faults(row: Row, accounts: frozenset[str]) -> Iterable[tuple[str, str]]:
    """(column, what is wrong with it) as far as the row itself tells."""
    asked, results = _json(row["request"]), _json(row["result"])
    if not isinstance(row["name"], str) or not _NAME.fullmatch(row["name"]):
        yield "name", "column name is no name of an issuance"
    if row["account"] not in accounts:
        yield "account", "the row is of an account that does not exist"
    if row["state"] not in _STATES or (row["state"] == "done") != (row["leaf_index"] is not None):
        yield "state", "column state is not what the rest of the row says: done is what has a record"
    if not _are_results(results):
        yield "result", "column result is no list of results"
    elif row["done"] != len(results):
        yield "done", "column done is not the number of results"
    if not _is_request(asked):
        yield "request", "column request is no request"
        return
    if row["total"] != len(asked["ids"]):
        yield "total", "column total is not the number of items asked for"
    if _are_results(results) and [entry["evidence_id"] for entry in results] != asked["ids"][: len(results)]:
        yield "request", "column request names other items than the results"


def _json(data: object) -> JSONValue:
    """What is stored, if it is what the service writes: nothing else comes into the record of an issuance."""
    stored = as_bytes(plain((data,))[0])
    try:
        return parse(stored, max_bytes=len(stored))
    except Malformed:
        return None


def _is_request(value: JSONValue) -> bool:
    return (
        isinstance(value, dict) and set(value) == _ASKED and isinstance(value["ids"], list) and isinstance(value["matter"], str)
    )


def _are_results(value: JSONValue) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("evidence_id"), str)
        and (entry.get("state") == "refused" or _is_issued(entry))
        for entry in value
    )


def _is_issued(entry: Mapping[str, JSONValue]) -> bool:
    bundle = entry.get("bundle")
    digests = isinstance(bundle, dict) and {"sm3", "sha256"} == set(bundle)
    return entry.get("state") == "issued" and isinstance(entry.get("package_hash"), str) and digests


def _record_of(connection: Connection, name: str) -> int | None:
    table = tables.idempotency
    found: int | None = connection.execute(
        select(table.c.leaf_index).where(table.c.key == idempotency_key(_SERVICE, name))
    ).scalar()
    return found


def _are_of_the_log(connection: Connection, results: Sequence[Mapping[str, JSONValue]]) -> bool:
    issued = [entry for entry in results if entry["state"] == "issued"]
    if not all(_ITEM.fullmatch(entry["evidence_id"]) for entry in issued):
        return False
    held = _held(connection, [entry["evidence_id"] for entry in issued])
    return all(
        any(entry["package_hash"] == as_bytes(each.entry)[:32].hex() for each in held.get(entry["evidence_id"], ()))
        for entry in issued
    )


def _held(connection: Connection, names: Sequence[str]) -> dict[str, list[Any]]:
    """The rows of items by name; an altered column may give one name to two."""
    c = tables.evidence.c
    found: dict[str, list[Any]] = {}
    wanted = [bytes.fromhex(name[3:]) for name in dict.fromkeys(names)]
    for start in range(0, len(wanted), _PAGE):
        query = select(c.evidence_id, c.leaf_index, c.entry, c.created_ms, c.submitter)
        for row in connection.execute(query.where(c.evidence_id.in_(wanted[start : start + _PAGE]))):
            found.setdefault(f"ev_{row.evidence_id.hex()}", []).append(row)
    return found


# --- the trail --------------------------------------------------------------------------------------------------------


def check_trail(connection: Connection, ground: Ground, size: int) -> None:
    """Every item below `size` has its row in the trail, one; every other row names what exists.

    Source: T/SAC 004—2024 6.4.6 (行为留痕); formats §8.4.
    """
    trail = _Trail(connection, ground, size)
    rows, count = rows_of(connection, "audit"), 0
    while page := list(islice(rows, _PAGE)):
        count += len(page)
        trail.take(page)
    trail.close()
    ground.findings.count("audit rows", count)


def _rows(first: int, last: int) -> str:
    return f"audit {first}" if first == last else f"audit {first} to {last}"


class _Trail:
    def __init__(self, connection: Connection, ground: Ground, size: int) -> None:
        self._connection, self._findings, self._size = connection, ground.findings, size
        self._accounts = accounts_of(connection)
        self._streams = frozenset(connection.execute(select(stream.c.stream_id)).scalars())
        # A row that was never committed leaves no hole on SQLite; a sequence of PostgreSQL's goes on without it.
        self._is_counted = ground.store.is_sqlite
        self._number, self._last = 0, -1
        self._strange: tuple[int, int] | None = None
        self._met = bytearray(size // 8 + 1)
        hurt = Leaves()
        for (unit, _), damage in self._findings.damages.items():
            if unit in _OF_ITEMS and damage.leaves is not None:
                hurt.add(*damage.leaves)
        self._starts, self._stops = [start for start, _ in hurt.ranges()], [stop for _, stop in hurt.ranges()]

    def take(self, page: Sequence[Row]) -> None:
        """The next rows, by number."""
        held = _held(self._connection, [row["object"] for row in page if self._names_item(row)])
        for row in page:
            self._count(row["number"])
            items = held.get(row["object"], [])
            if row["act"] == PRESERVE:
                self._preserved(row, items)
            else:
                self._acted(row, is_known=bool(items) or bool(self._starts))

    def _name_strange(self, how: How, tail: str) -> None:
        """The last run of rows that say that items were preserved which the log does not hold."""
        if self._strange:
            where = _rows(*self._strange) + tail
            self._findings.add(Unit.AUDIT, where, how, "the trail says that items were preserved which the log does not hold")
            self._strange = None

    def close(self) -> None:
        """Items that no row was found of are named; and a trail that goes on behind the log."""
        self._name_strange(How.ADDED, "")
        for leaf in range(self._size):
            if not self._met[leaf >> 3] >> (leaf & 7) & 1 and not self._is_hurt(leaf):
                detail = "no row of the trail says that the item was preserved"
                self._findings.add(Unit.AUDIT, f"leaf {leaf}", How.MISSING, detail, leaf=leaf)

    @staticmethod
    def _names_item(row: Row) -> bool:
        return isinstance(row["object"], str) and _ITEM.fullmatch(row["object"]) is not None

    def _count(self, number: int) -> None:
        last, self._number = self._number, number
        if self._is_counted and number != last + 1:
            detail = "the numbers of the trail have a hole here"
            self._findings.add(Unit.AUDIT, _rows(last + 1, number - 1), How.MISSING, detail)

    def _preserved(self, row: Row, items: Sequence[Any]) -> None:
        """The row is of one item, and says when it was preserved and for whom."""
        where = f"audit {row['number']}"
        leaf = min((each.leaf_index for each in items), key=lambda each: abs(each - self._last - 1), default=None)
        if leaf is None:
            # Rows and leaves are written in one order: it is, or was, the row of the leaf after the one before.
            if not self._is_hurt(self._last + 1):
                self._strange = (self._strange[0] if self._strange else row["number"], row["number"])
            self._meet(self._last + 1)
            return
        self._name_strange(How.ALTERED, " object")
        if not self._meet(leaf):
            self._findings.add(Unit.AUDIT, where, How.ADDED, "the row says a second time that the item was preserved", leaf=leaf)
        elif not self._is_hurt(leaf):
            (item,) = (each for each in items if each.leaf_index == leaf)
            for column, expected in (("at_ms", item.created_ms), ("account", item.submitter)):
                if row[column] != expected:
                    detail = f"column {column} is not what the item says"
                    self._findings.add(Unit.AUDIT, f"{where} {column}", How.ALTERED, detail, leaf=leaf)

    def _meet(self, leaf: int) -> bool:
        """Note the leaf; whether it was not met before. What came after the examination began is let be."""
        self._last = leaf
        if not 0 <= leaf < self._size:
            return True
        is_new = not self._met[leaf >> 3] >> (leaf & 7) & 1
        self._met[leaf >> 3] |= 1 << (leaf & 7)
        return is_new

    def _acted(self, row: Row, *, is_known: bool) -> None:
        where, kind = f"audit {row['number']}", ACTS.get(row["act"])
        if kind is None:
            self._findings.add(Unit.AUDIT, f"{where} act", How.ALTERED, "column act is no act of this service")
        elif not (is_known if kind == "item" else row["object"] in self._streams):
            self._findings.add(Unit.AUDIT, f"{where} object", How.ALTERED, f"column object names no {kind} that is held here")
        if row["account"] not in self._accounts:
            self._findings.add(Unit.AUDIT, f"{where} account", How.ALTERED, "the row is of an account that does not exist")

    def _is_hurt(self, leaf: int) -> bool:
        place = bisect_right(self._starts, leaf)
        return place > 0 and leaf < self._stops[place - 1]
