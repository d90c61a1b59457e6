"""One field of a template: its type, the form its values have, and how that form is told to a person.

Nothing is repaired: a value either has the one form or is refused, and the message shows the right
form with an example. What was sent is described by type and length only, since it may be personal.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from dataclasses import field as attribute
from datetime import UTC, date, datetime
from enum import StrEnum
from types import UnionType
from typing import Any

from models.canonical import MAX_INTEGER, JSONValue, format_time
from models.digest import Digest
from models.errors import Malformed, Unknown

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?", re.ASCII)
_NUMBER_TEXT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", re.ASCII)
_COUNT_TEXT = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d):(\d\d)(?:\.[0-9]*[1-9])?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII)
_SURROGATE_OR_NUL = re.compile("[\ud800-\udfff\x00]")
_TWO_DIGESTS = re.compile("sm3:[0-9a-f]{64} sha256:[0-9a-f]{64}")
_LEAP_SECOND = 60

EMPTY_CODE_TITLE = "空值"
"""The title that 枚举 tables give to the code that says: no value (erratum T23)."""


class FieldType(StrEnum):
    """The types of field values (T/SAC 004—2024 App. A, B; what each means is ours, erratum T20)."""

    CHARACTER = "CHARACTER"
    TEXT = "TEXT"
    NUMBER = "NUMBER"
    DECIMAL = "DECIMAL"
    DATE = "DATE"
    TIME = "TIME"
    BOOLEAN = "BOOLEAN"
    FILE_OBJECT = "FILE_OBJECT"
    OBJECT_ARRAY = "OBJECT_ARRAY"


class Mask(StrEnum):
    """How a field is shown to those who may not see its value (`models.masking`)."""

    KEEP = "KEEP"
    SUPPRESS = "SUPPRESS"
    MASK_NAME = "MASK_NAME"
    MASK_PHONE = "MASK_PHONE"
    MASK_ID = "MASK_ID"
    MASK_CARD = "MASK_CARD"
    MASK_ACCOUNT = "MASK_ACCOUNT"
    MASK_EMAIL = "MASK_EMAIL"
    MASK_ADDRESS = "MASK_ADDRESS"
    MASK_DOB = "MASK_DOB"
    BAND_AGE = "BAND_AGE"
    MASK_IP = "MASK_IP"
    MASK_MAC = "MASK_MAC"
    MASK_DEVICE_ID = "MASK_DEVICE_ID"
    MASK_NICK = "MASK_NICK"
    MASK_CERT = "MASK_CERT"
    MASK_AMOUNT_BAND = "MASK_AMOUNT_BAND"
    FILE_HASH_ONLY = "FILE_HASH_ONLY"
    REDACT_TEXT = "REDACT_TEXT"


class Form(StrEnum):
    """What the text of a CHARACTER field says, where the standard types a number or a date as CHARACTER."""

    NUMBER = "number"
    COUNT = "count"
    DATE = "date"


@dataclass(frozen=True, slots=True)
class Choice:
    """The codes that the elements of an OBJECT_ARRAY may have together: one of `sets`, each code once."""

    by: str
    sets: tuple[frozenset[int | str], ...]
    expected: str


@dataclass(frozen=True, slots=True)
class Detail:
    """What a template says of a field beyond its schema: for intake and display, never for verification."""

    note: str = ""
    also: tuple[str, ...] = ()
    reading: str = ""
    errata: tuple[str, ...] = ()
    mask: Mask | None = None
    form: Form | None = None
    items: tuple[Field, ...] = ()
    choice: Choice | None = None
    twin_required: bool = False


NO_DETAIL = Detail()


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `place` counts over all fields of the template in file order and numbers its salt.

    `max` counts code points. `enum` maps a code (integer for NUMBER, text for CHARACTER) to its title.
    `grade` is the class of personal information, 1 to 4, or None where the field is not personal.
    `search` is true where the field may be looked up by its exact value through the blind index.
    """

    name: str
    title: str
    type: FieldType
    required: bool
    place: int = 0
    max: int | None = None
    enum: Mapping[int | str, str] | None = None
    enum_title: str = ""
    grade: int | None = None
    search: bool = False
    clause: str = ""
    detail: Detail = NO_DETAIL
    accepts: Callable[[Any], bool] = attribute(init=False, repr=False, compare=False)
    """Whether intake takes a value that is given and not null: made with the field, because every item asks it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "accepts", _acceptor(self))

    @property
    def items(self) -> tuple[Field, ...]:
        """The members that each object of an OBJECT_ARRAY has; empty where the template does not say."""
        return self.detail.items


_FILE_MEMBERS = ({"digest", "name", "size"}, {"digest", "name", "size", "twin"})


def is_date(value: JSONValue) -> bool:
    """Whether `value` is a DATE: `YYYY-MM-DD`, a day that exists."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def is_time(value: JSONValue) -> bool:
    """Whether `value` is a TIME: RFC 3339 with `T`, seconds, no trailing zero in the fraction, an explicit offset.

    Source: formats, Notation; a 60th second only where RFC 3339 §5.7 lets one be (23:59:60 UTC at the end of a month).
    """
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return False
    minute, second, offset = match.groups()
    leap = int(second) == _LEAP_SECOND
    try:
        moment = datetime.fromisoformat(f"{minute}:{'59' if leap else second}{'+00:00' if offset == 'Z' else offset}")
        if leap:
            moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return not leap or (moment.hour, moment.minute, moment.day) == (23, 59, monthrange(moment.year, moment.month)[1])


def is_decimal(value: JSONValue) -> bool:
    """Whether `value` is a DECIMAL: text, no plus sign, no exponent, no trailing zero in the fraction, not `-0`."""
    return isinstance(value, str) and value != "-0" and _DECIMAL.fullmatch(value) is not None


def is_number(value: JSONValue) -> bool:
    """Whether `value` is a NUMBER: a JSON integer below 2⁵³ in size."""
    return type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER


def is_text(value: JSONValue) -> bool:
    """Whether `value` is text that has a canonical form: NFC, no U+0000, no lone surrogate."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return "\x00" not in value
    return _SURROGATE_OR_NUL.search(value) is None and unicodedata.is_normalized("NFC", value)


def is_file_object(value: JSONValue) -> bool:
    """Whether `value` is a FILE_OBJECT: `digest`, `name`, `size` and perhaps `twin`, the digest under the other algorithm.

    Raises: Unknown if a digest names an algorithm that is none of ours.
    Source: formats §2.2; T/SAC 004—2024 App. B names the type and leaves it open (erratum T20).
    """
    if not isinstance(value, dict) or value.keys() not in _FILE_MEMBERS:
        return False
    if not is_text(value["name"]) or not is_number(value["size"]) or value["size"] < 0:
        return False
    first, second = value["digest"], value.get("twin")
    if type(first) is str and type(second) is str and _TWO_DIGESTS.fullmatch(f"{first} {second}"):
        return True  # as almost every one is: a fifth of the time
    try:
        first = Digest.parse(value["digest"])
        return "twin" not in value or Digest.parse(value["twin"]).algorithm != first.algorithm
    except Malformed:
        return False


def is_object_array(value: JSONValue) -> bool:
    """Whether `value` is an OBJECT_ARRAY: an array of flat objects of text, integers, booleans and null."""
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        return False
    return all(_is_scalar(member) and is_text(name) for element in value for name, member in element.items())


def _is_scalar(value: JSONValue) -> bool:
    return value is None or isinstance(value, bool) or is_number(value) or is_text(value)


_IS_TYPE: dict[FieldType, Callable[[Any], bool]] = {
    FieldType.CHARACTER: is_text,
    FieldType.TEXT: is_text,
    FieldType.NUMBER: is_number,
    FieldType.DECIMAL: is_decimal,
    FieldType.DATE: is_date,
    FieldType.TIME: is_time,
    FieldType.BOOLEAN: lambda value: isinstance(value, bool),
    FieldType.FILE_OBJECT: is_file_object,
    FieldType.OBJECT_ARRAY: is_object_array,
}

_IS_FORM: dict[Form, Callable[[str], bool]] = {
    Form.NUMBER: lambda text: text != "-0" and _NUMBER_TEXT.fullmatch(text) is not None,
    Form.COUNT: lambda text: _COUNT_TEXT.fullmatch(text) is not None,
    Form.DATE: is_date,
}


def satisfies(field: Field, value: JSONValue) -> bool:
    """Whether `value` alone satisfies the schema of `field`: type, `max`, `enum`, `required` (check 6 of the verifier).

    Raises: Unknown if a file's digest names an algorithm that is none of ours.
    """
    if value is None:
        return not field.required
    if not _IS_TYPE[field.type](value):
        return False
    if field.max is not None and len(value) > field.max:
        return False
    return field.enum is None or value in field.enum


def is_acceptable(field: Field, value: JSONValue) -> bool:
    """Whether intake takes `value`, given or null: the schema, and what the template says beyond it.

    A required text is not blank (erratum T27), a required code is not 空值 (T23), a text that the
    standard means as a number or date has its form (T13, T14).
    """
    return not field.required if value is None else field.accepts(value)


def _acceptor(field: Field) -> Callable[[Any], bool]:
    """What `field` asks of a value, with all that it says looked up once."""
    if field.type in {FieldType.CHARACTER, FieldType.TEXT}:
        return _text_acceptor(field)
    is_type, required, twin, codes = _IS_TYPE[field.type], field.required, field.detail.twin_required, field.enum
    if codes is not None:
        taken = {code for code, title in codes.items() if not (required and title == EMPTY_CODE_TITLE)}
        return lambda value: is_type(value) and value in taken
    if field.type is not FieldType.FILE_OBJECT:
        return is_type

    def accepts_file(value: JSONValue) -> bool:
        try:
            return is_file_object(value) and (not twin or "twin" in value)
        except Unknown:
            return False

    return accepts_file


def _text_acceptor(field: Field) -> Callable[[Any], bool]:
    required, limit, codes, form = field.required, field.max, field.enum, field.detail.form
    has_form = None if form is None else _IS_FORM[form]

    def accepts_text(value: JSONValue) -> bool:
        return (
            is_text(value)
            and (limit is None or len(value) <= limit)
            and (codes is None or value in codes)
            and (not required or bool(value.strip()))
            and (has_form is None or has_form(value))
        )

    return accepts_text


_FILE_EXAMPLE = '{"digest": "sm3:66c7f0f4…", "name": "合同.pdf", "size": 1024, "twin": "sha256:ba7816bf…"}'
_EXPECTED: dict[FieldType, str] = {
    FieldType.CHARACTER: "text in Unicode normal form C, for example 示例",
    FieldType.TEXT: "text in Unicode normal form C, for example 示例",
    FieldType.NUMBER: "a JSON integer below 2^53 in size, for example 1",
    FieldType.DECIMAL: "a decimal number as text without plus sign, exponent or trailing zeros, for example 12.5",
    FieldType.DATE: "a day YYYY-MM-DD that exists, for example 2026-11-21",
    FieldType.TIME: "RFC 3339 with seconds and offset, no trailing zeros in the fraction, for example 2026-11-21T10:32:05+08:00",
    FieldType.BOOLEAN: "true or false, for example true",
    FieldType.FILE_OBJECT: f"digest, name, size and twin of a file, digests in lower-case hex, for example {_FILE_EXAMPLE}",
    FieldType.OBJECT_ARRAY: 'an array of flat objects, for example [{"type": 1, "code": "91110000MA0000000X"}]',
}
_EXPECTED_FORM: dict[Form, str] = {
    Form.NUMBER: "a number written as text, without sign +, separators or unit, for example 12.50",
    Form.COUNT: "a whole number written as text, for example 4",
    Form.DATE: "a day YYYY-MM-DD written as text, for example 2026-11-21",
}


def expectation(field: Field) -> str:
    """What `field` takes, in words and with an example."""
    if field.enum is not None:
        codes = {code: title for code, title in field.enum.items() if not (field.required and title == EMPTY_CODE_TITLE)}
        listed = ", ".join(f"{code} {title}" for code, title in codes.items())
        kind = "an integer" if field.type is FieldType.NUMBER else "text"
        return f"{kind}, one of {listed}; for example {next(iter(codes), '')}"
    text = _EXPECTED[field.type] if field.detail.form is None else _EXPECTED_FORM[field.detail.form]
    if field.max is not None:
        text = f"at most {field.max} characters of {text}"
    if field.detail.twin_required:
        text = f"{text} (both digests)"
    return f"{text}, not blank" if field.required and field.type in {FieldType.CHARACTER, FieldType.TEXT} else text


def described(value: JSONValue) -> str:
    """The type and length of `value`, and never the value itself."""
    if value is None:
        return "null"
    for kind, sentence in _DESCRIBED:
        if isinstance(value, kind):
            return sentence.format(len(value) if isinstance(value, Sized) else 0)
    return "something that JSON does not have"


_DESCRIBED: tuple[tuple[type | UnionType, str], ...] = (
    (bool, "a boolean"),
    (str, "text of {} characters"),
    (int, "an integer"),
    (float, "a number with a fraction"),
    (dict, "an object of {} members"),
    (list | tuple, "an array of {} elements"),
)


def field_time(moment: datetime) -> str:
    """`moment` as a TIME field has it: UTC, cut to the millisecond, without trailing zeros in the fraction.

    Raises: Malformed if it has no zone.
    """
    seconds, _, fraction = format_time(moment)[:-1].partition(".")
    return f"{seconds}.{fraction}".rstrip("0").rstrip(".") + "Z" if int(fraction) else f"{seconds}Z"
