"""The conditions of a search, read strictly: every wrong one is reported at once."""

from __future__ import annotations

from datetime import datetime

from evidence.blind import DIGEST, LINK
from evidence.times import range_end
from models.canonical import MAX_INTEGER, JSONValue, parse, unb64u
from models.digest import Digest
from models.errors import EvidenceError, Malformed, Problem
from models.validation import unknown_members

PAGE = 50
MAX_PAGE = 1000
_CRITERIA = {"digest", "template", "subject", "field", "link_code", "axis", "from", "to", "limit", "cursor", "expand"}


class Criteria:
    """The conditions of a search, read strictly; `problems` names every one that is wrong."""

    def __init__(self, body: JSONValue) -> None:
        self.problems: list[Problem] = []
        self.values: list[tuple[str, JSONValue]] = []
        self.template: str | None = None
        self.subject: str | None = None
        self.axis, self.limit, self.expand = "preserved", PAGE, False
        self.since: datetime | None = None
        self.until: datetime | None = None
        self.before: int | None = None
        self.size: int | None = None
        if not isinstance(body, dict):
            self._add("", "search", "an object of conditions")
            return
        self.problems += unknown_members("", "condition", "查询条件", body, sorted(_CRITERIA), "6.4.5-b", of="a search")
        for name, value in body.items():
            if name in _CRITERIA and value is not None:
                getattr(self, f"_read_{name}")(value)
        if self.since is not None and self.until is not None and self.since >= self.until:
            # Answered, it would say that there is nothing.
            self._add("/to", "to", "a time after from")

    def _add(self, pointer: str, field: str, expected: str) -> None:
        self.problems.append(Problem(pointer, field, "查询条件", expected, "something else", "6.4.5-b"))

    def _text(self, name: str, value: JSONValue, limit: int = 128) -> str | None:
        if isinstance(value, str) and 0 < len(value) <= limit:
            return value
        self._add(f"/{name}", name, f"a text of 1 to {limit} characters")
        return None

    def _read_digest(self, value: JSONValue) -> None:
        try:
            self.values.append((DIGEST, str(Digest.parse(value))))
        except EvidenceError:
            self._add("/digest", "digest", "algorithm:hex, for example sm3:… of 64 hex digits")

    def _read_template(self, value: JSONValue) -> None:
        self.template = self._text("template", value)

    def _read_subject(self, value: JSONValue) -> None:
        self.subject = self._text("subject", value)

    def _read_link_code(self, value: JSONValue) -> None:
        code = self._text("link_code", value)
        if code is not None:
            self.values.append((LINK, code))

    def _read_field(self, value: JSONValue) -> None:
        if not isinstance(value, dict) or not value:
            self._add("/field", "field", "an object of field names and exact values")
            return
        self.values.extend((name, given) for name, given in value.items())

    def _read_axis(self, value: JSONValue) -> None:
        if value in ("occurred", "preserved", "final"):
            self.axis = str(value)
        else:
            self._add("/axis", "axis", "occurred, preserved or final")

    def _read_from(self, value: JSONValue) -> None:
        self.since = self._moment("from", value)

    def _read_to(self, value: JSONValue) -> None:
        self.until = self._moment("to", value)

    def _moment(self, name: str, value: JSONValue) -> datetime | None:
        try:
            return range_end(value, name=name, is_last=name == "to")
        except Malformed as error:
            self._add(f"/{name}", name, error.message.partition("expected ")[2])
            return None

    def _read_limit(self, value: JSONValue) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PAGE:
            self._add("/limit", "limit", f"a whole number from 1 to {MAX_PAGE}")
        else:
            self.limit = value

    def _read_expand(self, value: JSONValue) -> None:
        if value == "transaction":
            self.expand = True
        else:
            self._add("/expand", "expand", "transaction")

    def _read_cursor(self, value: JSONValue) -> None:
        try:
            found = parse(unb64u(value, what="cursor"))
        except Malformed:
            found = None
        if not isinstance(found, list) or len(found) != 2 or not all(type(n) is int and 0 <= n <= MAX_INTEGER for n in found):
            self._add("/cursor", "cursor", "the next_cursor of an earlier page")
            return
        self.before, self.size = found
