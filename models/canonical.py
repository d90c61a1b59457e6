"""The one way a value becomes bytes and bytes become a value.

JCS (RFC 8785) over a narrow set of values: objects, arrays, NFC strings without U+0000 and lone
surrogates, booleans, null and integers below 2⁵³. Anything else is refused, never repaired, so
that two programs can never read different things from the same signed bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, NoReturn

from models.errors import Malformed

JSONValue = Any
"""A value of JSON: dict, list, str, int, bool or None. mypy cannot say so without a cast at each use."""

MAX_DEPTH = 16
MAX_INTEGER = (1 << 53) - 1
MAX_BODY_BYTES = 1 << 20

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{3})Z", re.ASCII)
_ASCII = re.compile("[\x00-\x7f]")
_PIECE = 1 << 16
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_SURROGATE_OR_NUL = re.compile("[\ud800-\udfff\x00]")
_SURE_DIGITS = 15
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,15})", re.ASCII)


def is_nfc(text: str) -> bool:
    """Whether `text` is in Unicode normal form C.

    Asked piece by piece: to tell, `unicodedata` may write the whole text anew, four bytes a character and more than
    once. A piece begins at an ASCII character, which never joins what stands before it.
    """
    start = 0
    while start < len(text):
        found = _ASCII.search(text, start + _PIECE)
        end = found.start() if found is not None else len(text)
        if not unicodedata.is_normalized("NFC", text[start:end]):
            return False
        start = end
    return True


def _check_text(text: str, what: str) -> None:
    if text.isascii():
        if "\x00" in text:
            raise Malformed(f"{what} holds U+0000, which is not allowed")
        return
    if _SURROGATE_OR_NUL.search(text):
        raise Malformed(f"{what} holds U+0000 or a lone surrogate, which is not allowed")
    if not is_nfc(text):
        raise Malformed(f"{what} is not in Unicode normal form C: expected NFC", hint="normalise the text to NFC before sending")


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")


def _ordered(value: JSONValue, depth: int) -> JSONValue:
    """Check `value` and give it back with the members of every object in JCS order (by UTF-16 units)."""
    kind = type(value)
    if kind is str:
        _check_text(value, "string")
        return value
    if value is None or value is True or value is False:
        return value
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise Malformed("integer is out of range: expected less than 2^53 in size", hint="send large numbers as strings")
        return value
    if kind is dict:
        if depth >= MAX_DEPTH:
            raise Malformed(f"JSON is nested too deep: expected at most {MAX_DEPTH} levels")
        return {name: _ordered(value[name], depth + 1) for name in _names(value)}
    if kind is list or kind is tuple:
        if depth >= MAX_DEPTH:
            raise Malformed(f"JSON is nested too deep: expected at most {MAX_DEPTH} levels")
        return [_ordered(member, depth + 1) for member in value]
    return _ordered(_plain(value), depth)


def _plain(value: JSONValue) -> JSONValue:
    """A value of another class as the plain one it stands for; nearly none is."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return list(value)
    raise Malformed(f"value of type {type(value).__name__} has no canonical form: expected JSON without floats")


def _names(value: dict[str, JSONValue]) -> list[str]:
    """The member names of an object, checked, in JCS order."""
    names = list(value)
    astral = False
    for name in names:
        if not isinstance(name, str):
            raise Malformed("member name is not a string")
        _check_text(name, "member name")
        astral = astral or (not name.isascii() and _ASTRAL.search(name) is not None)
    names.sort(key=_utf16 if astral else None)
    return names


_encode_string = json.encoder.encode_basestring


def compact_encoder(*, sort_keys: bool = False) -> Callable[[JSONValue], str]:
    """What writes a value that is known to be JSON, without spaces and without escapes that need not be; it checks nothing.

    `JSONEncoder.encode` makes the encoder in C anew at each call, which takes longer than writing a small value.
    """
    plain = json.JSONEncoder(
        ensure_ascii=False, separators=(",", ":"), check_circular=False, allow_nan=False, sort_keys=sort_keys
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    chunks = make(None, plain.default, _encode_string, None, ":", ",", sort_keys, False, False)
    return lambda value: "".join(chunks(value, 0))


_encode = compact_encoder()


def canonical_text(value: JSONValue) -> str:
    """The JCS text of `value`.

    Raises: Malformed if `value` holds a float, a bad string, a large integer or is nested too deep.
    Source: RFC 8785; formats, Notation (JCS).
    """
    return _encode(_ordered(value, 0))


def canonical(value: JSONValue) -> bytes:
    """The JCS bytes of `value`: what is hashed and signed.

    Shapes: JSON value, depth ≤ 16 → UTF-8 without a final newline.
    Raises: Malformed if `value` holds a float, a bad string, a large integer or is nested too deep.
    Source: RFC 8785; formats, Notation (JCS).
    """
    return canonical_text(value).encode()


def quoted(text: str) -> str:
    """The JCS text of one string: what an encoder of fixed members is put together from.

    Raises: Malformed if the text is not NFC or holds U+0000 or a lone surrogate.
    """
    _check_text(text, "string")
    return _encode_string(text)


def _pairs(members: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
    found = dict(members)
    if len(found) != len(members):
        raise Malformed("JSON object has a member twice: expected each name once")
    return found


def _integer(text: str) -> int:
    if len(text) <= _SURE_DIGITS and text != "-0" and text.isascii():
        return int(text)
    if text == "-0" or not _INTEGER.fullmatch(text) or not -MAX_INTEGER <= (number := int(text)) <= MAX_INTEGER:
        raise Malformed(
            "number is not an allowed integer: expected less than 2^53 in size and not -0", hint="send large numbers as strings"
        )
    return number


def _no_float(_text: str) -> NoReturn:
    raise Malformed("number is not an integer: floats are not allowed", hint="send decimal fractions as strings")


_decode = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float)


# A string literal, also one without its end: else the scan would start anew at each quote, which is quadratic.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NO_BRACKETS_NOR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _depth_is_bounded(data: bytes, limit: int) -> bool:
    """Scan the bytes once for nesting, so that the recursive parser is never handed a deep text."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return True
    # Texts without brackets leave nothing but pairs of quotes, and runs of them are even. The first text that holds a bracket
    # or has no end leaves a run that is odd; only then, and where a quote may be escaped, the texts are looked for one by one.
    brackets = b'"' if b"\\" in data else data.translate(None, _NO_BRACKETS_NOR_QUOTES).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING.sub(b"", data).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) <= limit


def parse(data: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> JSONValue:
    """The value that strict JSON text `data` holds; it need not be canonical.

    Shapes: UTF-8 without byte-order mark, ≤ `max_bytes`, depth ≤ 16.
    Raises: Malformed if it is too long, too deep, not UTF-8, not JSON, or holds a double member
        name, a float, an integer of 2⁵³ or more, −0, U+0000, a lone surrogate or text not in NFC.
    Source: formats, Notation (JCS) and §11 (JSON).
    """
    if len(data) > max_bytes:
        raise Malformed(f"JSON text is too long: expected at most {max_bytes} bytes, got {len(data)}")
    if not _depth_is_bounded(data, MAX_DEPTH):
        raise Malformed(f"JSON is nested too deep: expected at most {MAX_DEPTH} levels")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"JSON text is not UTF-8 at byte {error.start}") from error
    try:
        value = _decode.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"text is not JSON: {error.msg.lower()} at character {error.pos}") from error
    except RecursionError as error:
        raise Malformed(f"JSON is nested too deep: expected at most {MAX_DEPTH} levels") from error
    # What the decoder let through can be wrong in its texts only, and then only through an escape (U+0000, a lone surrogate,
    # something not NFC) or where the whole is not NFC: every part of an NFC text is NFC (UAX #15, closed under substrings).
    if (b"\\" in data and b"\\u" in data) or not (text.isascii() or is_nfc(text)):
        del text
        _ordered(value, 0)
    return value


def parse_canonical(data: bytes, *, max_bytes: int = MAX_BODY_BYTES, what: str = "JSON text") -> JSONValue:
    """The value of `data`, which is exactly its own canonical form.

    Raises: Malformed if it is not strict JSON or JCS(parse(data)) ≠ data.
    Source: formats, Notation ("is canonical").
    """
    value = parse(data, max_bytes=max_bytes)
    if canonical(value) != data:
        raise Malformed(f"{what} is not canonical: expected the JCS form (RFC 8785), byte for byte")
    return value


def members(value: JSONValue, names: str, what: str) -> tuple[JSONValue, ...]:
    """The values of an object that has exactly the members `names` (separated by spaces), in that order.

    Raises: Malformed if `value` is no object, a member is missing or one is unknown.
    """
    wanted = names.split()
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not an object")
    if set(value) != set(wanted):
        missing = [name for name in wanted if name not in value]
        if missing:
            raise Malformed(f"{what} lacks a member: expected {missing[0]}")
        raise Malformed(f"{what} has an unknown member: expected only {', '.join(sorted(wanted))}")
    return tuple(value[name] for name in wanted)


def format_time(moment: datetime) -> str:
    """`moment` as `YYYY-MM-DDThh:mm:ss.sssZ`, cut to the millisecond.

    Raises: Malformed if it has no zone.
    Source: formats, Notation (Time).
    """
    if moment.tzinfo is None:
        raise Malformed("time has no zone")
    moment = moment.astimezone(UTC)
    return f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def parse_time(text: JSONValue, *, what: str = "time") -> datetime:
    """The aware UTC time that `text` states.

    Raises: Malformed if it is not exactly of the form `2026-11-21T06:00:00.000Z` or no such time exists.
    """
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise Malformed(f"{what} has wrong form: expected for example 2026-11-21T06:00:00.000Z")
    *whole, milli = (int(group) for group in match.groups())
    try:
        year, month, day, hour, minute, second = whole
        return datetime(year, month, day, hour, minute, second, milli * 1000, UTC)
    except ValueError as error:
        raise Malformed(f"{what} names no time that exists") from error


BEIJING = timedelta(hours=8)


def beijing_seconds(moment: datetime) -> str:
    """`moment` as the standard prints CreateTime and UploadTime: `YYYY-MM-DD HH:MM:SS` at UTC+08:00, cut.

    Raises: Malformed if that lies beyond the year 9999.
    Source: T/SAC 004—2024 App. A c); formats §2.9 and §11 (times are cut).
    """
    try:
        local = moment.astimezone(UTC) + BEIJING
    except OverflowError as error:
        raise Malformed("time lies beyond the year 9999 in Beijing") from error
    return f"{local.year:04d}-{local:%m-%d %H:%M:%S}"


def b64(data: bytes) -> str:
    """Padded base64, the form of notes and proofs."""
    return base64.b64encode(data).decode("ascii")


def b64_array(digests: Sequence[bytes]) -> str:
    """The JSON array of the `b64` of each of many digests, by one call: a zero byte makes each of them whole groups of three.

    Shapes: n digests of 32 bytes → ASCII text.
    """
    if not digests:
        return "[]"
    text = binascii.b2a_base64(b"\0".join(digests) + b"\0", newline=False)
    return '["' + b'=","'.join(struct.unpack("43sx" * len(digests), text)).decode("ascii") + '="]'


def b64u(data: bytes) -> str:
    """URL-safe base64 without padding, the form of salts."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: JSONValue, *, size: int | None = None, what: str = "value") -> bytes:
    """The bytes of padded base64 in its one form.

    Raises: Malformed if it has another form, spare bits, or not `size` bytes.
    """
    return _unbase(text, size, what, b64, lambda raw: base64.b64decode(raw, validate=True))


def unb64u(text: JSONValue, *, size: int | None = None, what: str = "value") -> bytes:
    """The bytes of unpadded URL-safe base64 in its one form.

    Raises: Malformed if it has another form, spare bits, or not `size` bytes.
    """
    return _unbase(text, size, what, b64u, lambda raw: base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))


def _unbase(
    text: JSONValue, size: int | None, what: str, encode: Callable[[bytes], str], decode: Callable[[str], bytes]
) -> bytes:
    if not isinstance(text, str) or not text.isascii():
        raise Malformed(f"{what} is not base64 text")
    try:
        data = decode(text)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"{what} is not base64") from error
    if encode(data) != text:
        raise Malformed(f"{what} is not base64 in its one form")
    if size is not None and len(data) != size:
        raise Malformed(f"{what} has wrong length: expected {size} bytes, got {len(data)}")
    return data
