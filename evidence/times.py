"""Ends of time ranges as people and programs write them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

from models.canonical import JSONValue, beijing_seconds
from models.errors import Malformed

BEIJING = timezone(timedelta(hours=8))
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)


def range_end(text: JSONValue, *, name: str, is_last: bool = False) -> datetime:
    """The moment that an end of a half-open range names; a bare date is that day in Beijing.

    `is_last` makes a bare date the end of that day, so that from = to = one date is that day.
    Raises: Malformed naming the parameter.
    Source: interface §3 (times).
    """
    wrong = f"{name} has wrong form: expected RFC 3339 with zone, for example 2026-11-21T10:00:00+08:00, or a date"
    if not isinstance(text, str):
        raise Malformed(wrong)
    try:
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text) + timedelta(days=1 if is_last else 0)
            return datetime(day.year, day.month, day.day, tzinfo=BEIJING).astimezone(UTC)
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Malformed(wrong) from error
    raise Malformed(wrong)


def beijing_time(at: datetime) -> str:
    """`at` as a TIME field: RFC 3339 with an explicit offset, cut to the second (formats, Notation)."""
    return beijing_seconds(at).replace(" ", "T") + "+08:00"
