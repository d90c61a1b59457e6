"""How far collectors, and producers who push, are behind their sources, as they themselves said last.

Only they see the source's end, and what they say of it is worth as much as it is new. So it is
kept in memory with the time at which it was said: after a restart of the service, or from one
that says nothing, it is unknown, which is not 0.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from models.canonical import JSONValue, format_time
from models.declaration import Declaration
from models.errors import Malformed
from models.recount import counts_bytes

MAX_BEHIND: Final = (1 << 53) - 1
FRESH_S: Final = 60
"""For so long what a collector said counts as what is; collectors say it every ten seconds."""


class Unit(StrEnum):
    """What a stream's positions count."""

    BYTES = "bytes"
    RECORDS = "records"


def unit_of(declaration: Declaration) -> Unit:
    """What the positions of a stream with that declaration count."""
    return Unit.BYTES if counts_bytes(declaration) else Unit.RECORDS


@dataclass(frozen=True, slots=True)
class Behind:
    """What a collector had not read yet of what its source held, and when it said so."""

    count: int
    unit: Unit
    at: datetime

    def to_json(self) -> dict[str, JSONValue]:
        """As the streams are listed with it."""
        return {"count": self.count, "unit": str(self.unit), "at": format_time(self.at)}


def read_behind(body: JSONValue) -> int | None:
    """What a collector says: how much its source has that it did not read; None where it cannot tell now. Raises: Malformed."""
    if isinstance(body, dict) and set(body) == {"behind"}:
        behind = body["behind"]
        if behind is None or (isinstance(behind, int) and not isinstance(behind, bool) and 0 <= behind <= MAX_BEHIND):
            return behind
    raise Malformed("progress has wrong form: expected an object of behind, a number of bytes or records, or null")


class Reports:
    """What each collector said last, by the row id of its stream. Threads may share it."""

    def __init__(self, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._said: dict[int, Behind] = {}
        self._lock = threading.Lock()

    def say(self, row_id: int, behind: int | None, unit: Unit) -> Behind | None:
        """The collector of the stream said so now; what it can tell no more is forgotten."""
        with self._lock:
            if behind is None:
                self._said.pop(row_id, None)
                return None
            said = self._said[row_id] = Behind(behind, unit, self._clock())
            return said

    def last(self, row_id: int) -> Behind | None:
        """What was said last of the stream, however old; None: unknown."""
        with self._lock:
            return self._said.get(row_id)

    def fresh(self) -> tuple[int, dict[str, float]]:
        """(streams of which it is known now, the most that any of them is behind by unit; a unit without any is left out)."""
        since = self._clock() - timedelta(seconds=FRESH_S)
        with self._lock:
            known = [said for said in self._said.values() if said.at >= since]
        most: dict[str, float] = {}
        for said in known:
            most[said.unit] = max(most.get(said.unit, 0), said.count)
        return len(known), most
