"""The damage map: what differs from what was committed, at the smallest unit, and what remains provable."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from models.canonical import JSONValue

MAX_DAMAGES = 10_000
SHOWN_BYTES = 4

Progress = Callable[[int, int, str], None]
"""Told how many of how many are done, and of what."""


class Unit(StrEnum):
    """The kinds of smallest units in which damage is named."""

    ROW = "row"
    EVIDENCE = "evidence"
    COLUMN = "column"
    ENTRY = "entry"
    TILE = "tile"
    ROOT = "root"
    CHECKPOINT = "checkpoint"
    HEAD = "head"
    IDEMPOTENCY = "idempotency"
    CONFLICT = "conflict"
    LINK = "link"
    BLIND = "blind"
    CONTENT = "content"
    SECRET = "secret"  # noqa: S105 - the name of a unit
    TEMPLATE = "template"
    STREAM = "stream"
    ORIGINAL = "original"
    SEGMENT = "segment"
    FILE = "file"
    CHAIN = "chain"
    ANCHOR = "anchor"
    PAYLOAD = "payload"
    RECORD = "record"
    RECEIPT = "receipt"
    BLOCK = "block"
    NODE = "node"
    KEY = "key"
    HOME = "home"
    SETTING = "setting"
    DATABASE = "database"
    ISSUANCE = "issuance"
    AUDIT = "audit"
    ACCESS = "access"


class How(StrEnum):
    """What became of a unit."""

    ALTERED = "altered"
    MISSING = "missing"
    ADDED = "added"
    UNREADABLE = "unreadable"


UNITS_ZH: Mapping[Unit, str] = {
    Unit.ROW: "存证行",
    Unit.EVIDENCE: "存证体 E",
    Unit.COLUMN: "存证行字段",
    Unit.ENTRY: "日志条目",
    Unit.TILE: "树瓦片",
    Unit.ROOT: "日志根",
    Unit.CHECKPOINT: "检查点",
    Unit.HEAD: "日志头",
    Unit.IDEMPOTENCY: "幂等键",
    Unit.CONFLICT: "冲突记录",
    Unit.LINK: "链式环节",
    Unit.BLIND: "盲索引",
    Unit.CONTENT: "密文内容",
    Unit.SECRET: "存证密钥",
    Unit.TEMPLATE: "模板",
    Unit.STREAM: "流式数据",
    Unit.ORIGINAL: "原件",
    Unit.SEGMENT: "原件分段",
    Unit.FILE: "文件",
    Unit.CHAIN: "锚定序列",
    Unit.ANCHOR: "锚定",
    Unit.PAYLOAD: "上链载荷",
    Unit.RECORD: "上链记录",
    Unit.RECEIPT: "链回执",
    Unit.BLOCK: "区块证明",
    Unit.NODE: "账本节点",
    Unit.KEY: "密钥文件",
    Unit.HOME: "数据目录",
    Unit.SETTING: "设置",
    Unit.DATABASE: "数据库",
    Unit.ISSUANCE: "出证登记",
    Unit.AUDIT: "审计留痕",
    Unit.ACCESS: "账号与令牌",
}
HOW_ZH: Mapping[How, str] = {How.ALTERED: "被改动", How.MISSING: "缺失", How.ADDED: "多出", How.UNREADABLE: "无法读取"}


def shown(value: bytes | str | int | None) -> str | None:
    """At most 8 hex digits of a digest; numbers and words as they are, cut."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return value[:SHOWN_BYTES].hex()
    return str(value)[:40]


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged unit: where it is, what was committed and what was found there, which leaves it touches."""

    unit: Unit
    where: str
    how: How
    detail: str
    expected: str | None = None
    found: str | None = None
    leaves: tuple[int, int] | None = None

    def to_json(self) -> dict[str, JSONValue]:
        """The damage as a JSON object; `leaves` is half open."""
        return {
            "unit": self.unit.value,
            "where": self.where,
            "how": self.how.value,
            "detail": self.detail,
            "expected": self.expected,
            "found": self.found,
            "leaves": None if self.leaves is None else list(self.leaves),
        }


class Leaves:
    """A set of leaf indexes as half-open ranges."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """[start, stop) belongs to the set."""
        if start >= stop:
            return
        low = bisect_right(self._starts, start)
        if low and self._stops[low - 1] >= start:
            low -= 1
            start = self._starts[low]
        high = low
        while high < len(self._starts) and self._starts[high] <= stop:
            stop = max(stop, self._stops[high])
            high += 1
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ranges, ascending, none touching another."""
        return tuple(zip(self._starts, self._stops, strict=True))

    def rest(self, size: int) -> tuple[tuple[int, int], ...]:
        """What of [0, size) is not in the set."""
        found, place = [], 0
        for start, stop in self.ranges():
            if start >= size:
                break
            if place < start:
                found.append((place, start))
            place = max(place, stop)
        if place < size:
            found.append((place, size))
        return tuple(found)


@dataclass(slots=True)
class Findings:
    """Collects damage while an examination runs; each unit is named once, by the first that finds it."""

    damages: dict[tuple[Unit, str], Damage] = field(default_factory=dict)
    more: int = 0
    examined: dict[str, int] = field(default_factory=dict)
    unprovable: Leaves = field(default_factory=Leaves)
    undisclosable: Leaves = field(default_factory=Leaves)
    out_of_reach: list[str] = field(default_factory=list)
    not_checked: dict[str, None] = field(default_factory=dict)
    _muted: bool = False

    def add(
        self,
        unit: Unit,
        where: str,
        how: How,
        detail: str,
        *,
        expected: bytes | str | int | None = None,
        found: bytes | str | int | None = None,
        leaf: int | None = None,
        leaves: tuple[int, int] | None = None,
    ) -> None:
        """This unit is damaged."""
        if self._muted or (unit, where) in self.damages:
            return
        if len(self.damages) >= MAX_DAMAGES:
            self.more += 1
            return
        touched = (leaf, leaf + 1) if leaf is not None else leaves
        self.damages[unit, where] = Damage(unit, where, how, detail, shown(expected), shown(found), touched)

    def has(self, unit: Unit, where: str) -> bool:
        """Whether that unit was named."""
        return (unit, where) in self.damages

    def count(self, what: str, number: int = 1) -> None:
        """`number` more of `what` were examined."""
        if not self._muted:
            self.examined[what] = self.examined.get(what, 0) + number

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Nothing found within is noted: for deriving once more what was examined before."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def lose_proof(self, start: int, stop: int) -> None:
        """The items [start, stop) can no longer be proven from what is stored here."""
        if not self._muted:
            self.unprovable.add(start, stop)

    def lose_content(self, index: int) -> None:
        """The item's values can no longer be shown."""
        if not self._muted:
            self.undisclosable.add(index, index + 1)


@dataclass(frozen=True, slots=True)
class DamageMap:
    """What an examination found. Ranges of leaves are half open and ascending.

    `provable`: items whose E, place in the log and anchor all hold, so that a bundle of them will be
    VALID once what is damaged beside them was mended; `unanchored`: those whose anchor is not
    final yet, which is no damage; `undisclosable`: those whose values cannot be shown any more.
    """

    origin: str
    size: int
    damages: tuple[Damage, ...]
    more: int
    examined: Mapping[str, int]
    provable: tuple[tuple[int, int], ...]
    unprovable: tuple[tuple[int, int], ...]
    undisclosable: tuple[tuple[int, int], ...]
    unanchored: tuple[tuple[int, int], ...]
    out_of_reach: tuple[str, ...]
    not_checked: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged, of what could be examined."""
        return not self.damages

    @property
    def is_whole(self) -> bool:
        """Whether everything was within reach."""
        return not self.out_of_reach

    def to_json(self) -> dict[str, JSONValue]:
        """The map as a JSON object."""
        return {
            "format": "cz-damage/1",
            "clean": self.is_clean,
            "origin": self.origin,
            "size": self.size,
            "damages": [damage.to_json() for damage in self.damages],
            "more": self.more,
            "examined": dict(self.examined),
            "provable": [list(each) for each in self.provable],
            "unprovable": [list(each) for each in self.unprovable],
            "undisclosable": [list(each) for each in self.undisclosable],
            "unanchored": [list(each) for each in self.unanchored],
            "out_of_reach": list(self.out_of_reach),
            "not_checked": list(self.not_checked),
        }
