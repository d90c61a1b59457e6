"""Strict reading of TOML values, and writing them on one line each: what the trust file is made of."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from models.canonical import MAX_INTEGER, is_nfc
from models.errors import Malformed

MAX_DOTS = 32
_STRING = re.compile(r""""(?:[^"\\]|\\.)*+"|'[^']*+'""")
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_MAX_TEXT = 256
Table = dict[str, Any]


def read_toml(data: bytes) -> Table:
    """The table that TOML text in UTF-8 states.

    Raises: Malformed if it is no TOML, has a line that would take the parser time in the square of its length, or a
        text that is not NFC: a report could not quote it, and two writings of one name would be two names.
    """
    try:
        text = data.decode("utf-8")
        _check_dots(text)
        value = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("trust file is not TOML in UTF-8") from error
    _check_texts(value)
    return value


def _check_texts(value: Table) -> None:
    waiting: list[object] = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            waiting += [*found, *found.values()]
        elif isinstance(found, list):
            waiting += found
        elif isinstance(found, str) and not is_nfc(found):
            raise Malformed("trust file holds a text that is not in Unicode normal form C: expected NFC")


def _check_dots(text: str) -> None:
    """A key of very many dotted parts takes tomllib time in their square; a trust file needs none."""
    for line in text.splitlines():
        if line.count(".") > MAX_DOTS and _STRING.sub("", line).count(".") > MAX_DOTS:
            raise Malformed(f"trust file has a line of too many dots: expected at most {MAX_DOTS} outside texts")


def table_of(value: object, what: str, names: str, needed: str = "") -> Table:
    """The table `value`, which has only the members `names` and all of `needed`. Raises: Malformed otherwise."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} of the trust file is not a table")
    for name in needed.split():
        if name not in value:
            raise Malformed(f"{what} of the trust file lacks a member: expected {name}")
    if set(value) - set(names.split()):
        raise Malformed(f"{what} of the trust file has an unknown member: expected only {', '.join(names.split())}")
    return value


def tables_of(value: Table, name: str) -> list[Any]:
    """The list that member `name` is, empty if it is absent. Raises: Malformed otherwise."""
    found = value.get(name, [])
    if not isinstance(found, list):
        raise Malformed(f"{name} of the trust file is not a list of tables")
    return found


def text_of(value: object, what: str) -> str:
    """`value` as a text of 1 to 256 characters. Raises: Malformed otherwise."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or any(letter < " " for letter in value):
        raise Malformed(f"{what} of the trust file has wrong form: expected 1 to {_MAX_TEXT} characters")
    return value


def count_of(value: object, what: str, least: int = 0) -> int:
    """`value` as an integer from `least` below 2^53. Raises: Malformed otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_INTEGER:
        raise Malformed(f"{what} of the trust file has wrong form: expected an integer from {least}")
    return value


def moment_of(value: object, what: str) -> datetime | None:
    """`value` as an aware UTC time; None if it is absent. Raises: Malformed otherwise, and of a time without offset."""
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Malformed(f"{what} of the trust file has wrong form: expected a time with offset, for example 2026-01-01T00:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise Malformed(f"{what} of the trust file is out of range") from error


def lines_of(members: Mapping[str, object]) -> list[str]:
    """One line `name = value` for each member that is not None."""
    return [f"{name} = {value_of(value)}" for name, value in members.items() if value is not None]


def value_of(value: object) -> str:
    """One TOML value on one line: what the trust file holds, and nothing else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_of(entry) for entry in value) + "]"
    if isinstance(value, Mapping):
        keys = {name: name if _BARE.fullmatch(name) else value_of(name) for name in value}
        inner = ", ".join(f"{keys[name]} = {value_of(entry)}" for name, entry in value.items() if entry is not None)
        return "{ " + inner + " }" if inner else "{}"
    raise Malformed(f"value of type {type(value).__name__} has no place in a trust file")
