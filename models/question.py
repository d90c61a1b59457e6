"""What is asked of a stream: which stream, which words or which value, over which time of collection.

The question is in the answer and printed first; whether it was the one asked is the reader's to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from models.canonical import JSONValue, b64u, canonical, format_time, members, parse_canonical, parse_time, unb64u
from models.declaration import Declaration, check_stream_id, check_text
from models.errors import Malformed
from models.extraction import MAX_VALUE_BYTES
from models.keywords import MAX_ASKED, MAX_KEYWORD_BYTES, check_keyword
from models.names import check_format, check_name, check_origin

MAX_QUESTION_BYTES = 64 << 10


class Op(StrEnum):
    """Whether a line must hold all the keywords, or any of them."""

    AND = "and"
    OR = "or"


class AskedValue(NamedTuple):
    """A value of an extraction rule."""

    rule: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """A question to one stream over [start, end) of collection time; `data` are its canonical bytes.

    Shapes: 1–16 keywords strictly ascending bytewise, or none and a value.
    Source: T/SAC 004—2024 C.2-a, 6.4.5-d; formats §5.6, §6.1, §11 (Streams).
    """

    log: str
    submitter: str
    stream_id: str
    start: datetime
    end: datetime
    keywords: tuple[bytes, ...]
    op: str
    value: AskedValue | None
    data: bytes = field(default=b"", repr=False)

    @classmethod
    def build(
        cls,
        *,
        log: str,
        submitter: str,
        stream_id: str,
        start: datetime,
        end: datetime,
        keywords: Sequence[bytes] = (),
        op: str = Op.OR,
        value: AskedValue | None = None,
    ) -> Question:
        """The question over these facts; keywords are put in order.

        Raises: Malformed if it asks nothing, too much, a keyword twice, or of an empty or reversed range.
        """
        shown = None if value is None else {"rule": value.rule, "v": b64u(value.value)}
        asked = {
            "format": "cz-query/1", "from": format_time(start), "keywords": [b64u(keyword) for keyword in sorted(keywords)],
            "log": log, "op": op, "stream_id": stream_id, "submitter": submitter, "to": format_time(end), "value": shown,
        }  # fmt: skip
        return cls.parse(canonical(asked))

    @classmethod
    def parse(cls, data: bytes) -> Question:
        """The question whose canonical bytes are `data`. Raises: Malformed; Unknown for another version."""
        value = parse_canonical(data, max_bytes=MAX_QUESTION_BYTES, what="question")
        check_format(value, "cz-query")
        _, start, listed, log, op, stream_id, submitter, end, asked = members(
            value, "format from keywords log op stream_id submitter to value", "question"
        )
        if op not in (Op.AND.value, Op.OR.value):
            raise Malformed("op of the question has wrong value: expected and or or")
        if not isinstance(listed, list):
            raise Malformed("keywords of the question is not an array")
        keywords = tuple(unb64u(entry, what="keyword of the question") for entry in listed)
        if list(keywords) != sorted(set(keywords)) or not all(1 <= len(keyword) <= MAX_KEYWORD_BYTES for keyword in keywords):
            raise Malformed("keywords of the question do not ascend bytewise, each once and of 1 to 256 bytes")
        if len(keywords) > MAX_ASKED or bool(keywords) == (asked is not None):
            raise Malformed(f"question asks too much or nothing: expected 1 to {MAX_ASKED} keywords, or one value of a rule")
        found = None
        if asked is not None:
            rule, v = members(asked, "rule v", "value of the question")
            found = AskedValue(check_text(rule, "rule of the question", 64), unb64u(v, what="value of the question"))
            if not 1 <= len(found.value) <= MAX_VALUE_BYTES:
                raise Malformed(f"value of the question has wrong form: expected a rule and 1 to {MAX_VALUE_BYTES} bytes")
        question = cls(
            check_origin(log),
            check_name(submitter, "submitter of the question"),
            check_stream_id(stream_id),
            parse_time(start, what="from"),
            parse_time(end, what="to"),
            keywords,
            op,
            found,
            data,
        )
        if question.start >= question.end:
            raise Malformed("range of the question is empty or reversed: expected from before to")
        return question

    def to_json(self) -> JSONValue:
        """The question as a JSON value, as the report prints it."""
        return parse_canonical(self.data)

    def check_fits(self, declaration: Declaration) -> None:
        """Pass a question that can be put to a stream so declared, whether or not its keywords are in K.

        Raises: Malformed if it names another stream, or a keyword that the declared rule can never count.
        """
        if (self.log, self.stream_id) != (declaration.log, declaration.stream_id):
            raise Malformed("question is of another stream than the declaration")
        if self.submitter != declaration.collector.name:
            raise Malformed("question is of another submitter than the declaration's collector")
        for keyword in self.keywords:
            check_keyword(keyword, case=declaration.case, encoding=declaration.encoding)

    def demanded(self, found: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
        """The lines that the positions of each keyword demand: in all of them, or in any; ascending."""
        sets = [{line for line, _ in places} for places in found]
        if not sets:
            return []
        return sorted(set.intersection(*sets) if self.op == Op.AND else set.union(*sets))
