"""Canonical bytes: the same as a second implementation of RFC 8785, and nothing doubtful let in."""

import contextlib
import json
import re
import time
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from models.canonical import (
    MAX_BODY_BYTES,
    MAX_INTEGER,
    JSONValue,
    b64,
    b64_array,
    b64u,
    beijing_seconds,
    canonical,
    canonical_text,
    compact_encoder,
    format_time,
    members,
    parse,
    parse_canonical,
    parse_time,
    unb64,
    unb64u,
)
from models.errors import Malformed

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map(
    lambda text: unicodedata.normalize("NFC", text)
)
SCALAR = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20)


def depth(value: JSONValue) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max((depth(each) for each in inner), default=0)
    return 0


@settings(max_examples=300)
@given(VALUE.filter(lambda value: depth(value) <= 16))
def test_canonical_form_is_that_of_a_second_implementation(value: JSONValue) -> None:
    data = canonical(value)
    assert data == rfc8785.dumps(value)
    assert parse(data) == parse_canonical(data) == value
    assert canonical_text(value).encode() == data


@pytest.mark.parametrize("made_in", ["C", "Python"])
@given(value=VALUE | st.floats(allow_nan=False, allow_infinity=False))
def test_compact_encoder_writes_what_json_does(made_in: str, value: JSONValue) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if made_in == "Python":
            patch.setattr("json.encoder.c_make_encoder", None)
        plain, ordered = compact_encoder(), compact_encoder(sort_keys=True)
    assert plain(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert ordered(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for wrong, error in ((float("nan"), ValueError), ([value, {1, 2}], TypeError)):
        with pytest.raises(error):
            plain(wrong)


def test_compact_encoder_writes_a_long_value_in_one_piece() -> None:
    value = [{"a": number} for number in range(60_000)]
    assert compact_encoder()(value) == json.dumps(value, separators=(",", ":"))


@given(VALUE.filter(lambda value: depth(value) <= 16))
def test_any_writing_of_a_value_reads_the_same(value: JSONValue) -> None:
    assert parse(json.dumps(value, indent=3).encode()) == value
    assert canonical(parse(json.dumps(value).encode())) == canonical(value)


def test_members_are_sorted_by_utf16_units() -> None:
    # RFC 8785 3.2.3: U+1F600 begins with the unit D83D, so it comes before U+FB33 though its code point is larger.
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6", "דּ"]
    value = {name: 0 for name in names if unicodedata.is_normalized("NFC", name)}
    assert canonical(value) == rfc8785.dumps(value)
    assert list(json.loads(canonical({"\U0001f600": 1, "\uff5e": 2}))) == ["\U0001f600", "\uff5e"]


def test_text_is_escaped_as_the_rfc_prints_it() -> None:
    text = '€$\u000f\nA\'B"\\\\"/\u2028\x7f\b\t\f\r\x1f'
    assert canonical(text) == rfc8785.dumps(text)
    assert canonical("\x0f/\x7f") == b'"\\u000f/\x7f"'


BAD_TEXTS = {
    "empty": b"",
    "space": b"  ",
    "byte-order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "not UTF-8": b'"\xff"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'"\\udc00x"',
    "surrogates reversed": b'"\\ude00\\ud83d"',
    "lone surrogate in a name": b'{"\\ud800":1}',
    "U+0000": b'"\\u0000"',
    "U+0000 in a name": b'{"\\u0000":1}',
    "raw control character": b'"\n"',
    "not NFC": '"e\u0301"'.encode(),
    "not NFC by escape": b'"e\\u0301"',
    "name not NFC": '{"e\u0301":1}'.encode(),
    "member twice": b'{"a":1,"a":1}',
    "member twice by escape": b'{"a":1,"\\u0061":2}',
    "member twice inside": b'[{"b":{"a":1,"a":2}}]',
    "float": b"1.0",
    "exponent": b"1e2",
    "negative exponent": b"10e-1",
    "-0": b"-0",
    "-0 inside": b'{"a":-0}',
    "-0.0": b"-0.0",
    "leading zero": b"01",
    "plus": b"+1",
    "2^53": b"9007199254740992",
    "-2^53": b"-9007199254740992",
    "huge": b"9" * 5000,
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "single quotes": b"{'a':1}",
    "trailing comma": b"[1,]",
    "trailing comma in an object": b'{"a":1,}',
    "comment": b"[1]//x",
    "two values": b"1 2",
    "value and bracket": b"[]]",
    "open": b"[1",
    "open text": b'"abc',
    "bad escape": b'"\\x41"',
    "short escape": b'"\\u12"',
    "name without quotes": b"{a:1}",
    "True": b"True",
    "no-break space": b"\xc2\xa0[]",
    "form feed": b"\f[]",
    "17 deep": b"[" * 17 + b"]" * 17,
    "17 deep in objects": b'{"a":' * 17 + b"1" + b"}" * 17,
    "100000 deep": b"[" * 100_000 + b"]" * 100_000,
    "100000 deep and open": b'{"a":' * 100_000,
    "deep after a text with brackets": b'["]]]]]]]]]]]]",' + b"[" * 17 + b"]" * 18,
}


@pytest.mark.parametrize("data", BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_refuses_doubtful_text(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [b"[" * 16 + b"]" * 16, b'{"a":' * 16 + b"1" + b"}" * 16, b'"' + b"[" * 99 + b'"', b"9007199254740991", b"-9007199254740991"],
    ids=["16 deep", "16 deep in objects", "brackets in a text", "2^53 - 1", "-(2^53 - 1)"],
)
def test_passes_what_is_just_within(data: bytes) -> None:
    assert canonical(parse(data)) == data


@pytest.mark.parametrize(
    "data", [b'{"a": 1}', b'{"b":1,"a":2}', b'"\\u0041"', b'"\\/"', b"[]\n", b" []", b'"\\u001F"', b'"\\u00e9"']
)
def test_refuses_text_that_is_not_its_own_canonical_form(data: bytes) -> None:
    parse(data)
    with pytest.raises(Malformed, match="not canonical"):
        parse_canonical(data)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        1 << 53,
        -(1 << 53),
        "\0",
        "\ud800",
        "e\u0301",
        {1: 2},
        {"e\u0301": 1},
        {None: 1},
        b"x",
        bytearray(2),
        {1, 2},
        object(),
    ],
    ids=lambda value: type(value).__name__ if type(value) is object else repr(value),
)
def test_refuses_values_without_a_canonical_form(value: object) -> None:
    with pytest.raises(Malformed):
        canonical(value)
    with pytest.raises(Malformed):
        canonical({"a": [value]})
    with pytest.raises(Malformed):
        canonical(memoryview(b"ab"))


def nested(levels: int) -> JSONValue:
    value: JSONValue = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_refuses_values_nested_too_deep() -> None:
    canonical(nested(16))
    for levels in (17, 5000):
        with pytest.raises(Malformed, match="too deep"):
            canonical(nested(levels))


def test_refuses_text_that_is_too_long() -> None:
    with pytest.raises(Malformed, match="too long"):
        parse(b'"' + b"a" * MAX_BODY_BYTES + b'"')
    assert parse(b'"abc"', max_bytes=5) == "abc"
    with pytest.raises(Malformed, match="too long"):
        parse(b'"abc"', max_bytes=4)


SLOW: dict[str, Callable[[int], bytes]] = {
    "quotes": lambda n: b"[]" * 20 + b'"' * n,
    "backslashes": lambda n: b"[]" * 20 + b'"' + b"\\" * n,
    "brackets": lambda n: b"[]" * (n // 2),
    "open texts": lambda n: b"[[]]" * 20 + b'"\\' * (n // 2),
    "marks of one class": lambda n: ('"e' + "\u0316" * (n // 2) + '"').encode(),
    "marks of two classes": lambda n: ('"' + "\u0316" * (n // 4) + "\u0301" * (n // 4) + '"').encode(),
    "marks out of order": lambda n: ('"' + "é\u0323" * (n // 4) + '"').encode(),
    "marks after a letter": lambda n: ('"é' + "\u0323" * (n // 2) + '"').encode(),
    "digits": lambda n: b"9" * n,
    "objects": lambda n: b"[" + b'{"a":1},' * (n // 8) + b"1]",
    "names": lambda n: ("{" + ",".join(f'"{i:06d}":0' for i in range(n // 11)) + "}").encode(),
}


def seconds(data: bytes) -> float:
    start = time.thread_time()
    with contextlib.suppress(Malformed):
        parse(data, max_bytes=1 << 22)
    return time.thread_time() - start


@pytest.mark.parametrize("make", SLOW.values(), ids=SLOW.keys())
def test_time_grows_with_the_length_and_no_faster(make: Callable[[int], bytes]) -> None:
    # Sixteen times the length may cost sixteen times as much; a quadratic scan costs 256 times.
    short, long = (min(seconds(make(size)) for _ in range(2)) for size in (1 << 15, 1 << 19))
    assert long < max(64 * short, 0.5)


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\u0d8e1-. tnf', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = parse(data)
    except Malformed:
        return
    assert parse_canonical(canonical(value)) == value


LITERALS = [
    "null",
    "true",
    "False",
    "NaN",
    "-Infinity",
    "1.0",
    "1e2",
    "-0",
    "0",
    "00",
    "-1",
    "+1",
    "-",
    "\uff11",
    "1\uff11",
    "\u0661",
]
INTEGERS = ["9" * 15, "-" + "9" * 15, "1" + "0" * 15, "9007199254740991", "-9007199254740991", "9007199254740992", "9" * 4301]
QUOTED = ['"a"', r'"\u0061"', r'"\ud83d\ude00"', r'"\ud800"', r'"\u0000"', r'"\\u0000"', r'"\\"', r'"\""', r'"\x"', '"\x01"']
COMPOSED = ['"\u00e9"', '"e\u0301"', r'"e\u0301"', r'"\u0301"', '"\u0301"', '"\U0001f600"', '"\u4e2d\uff0c"']
ATOMS = st.sampled_from([*LITERALS, *INTEGERS, *QUOTED, *COMPOSED])
WRITTEN = st.recursive(
    ATOMS | st.integers().map(str),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda members: f"[{','.join(members)}]")
        | st.lists(st.tuples(ATOMS, inner), max_size=4).map(
            lambda members: "{" + " , ".join(f"{a}: {b}" for a, b in members) + "}"
        )
    ),
    max_leaves=12,
)


def read_plainly(data: bytes) -> JSONValue:
    """What `parse` reads, by the rules one after another and each over the whole."""

    def pairs(members: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
        if len({name for name, _ in members}) != len(members):
            raise Malformed("twice")
        return dict(members)

    def integer(text: str) -> int:
        if not re.fullmatch("-?(0|[1-9][0-9]{0,15})", text) or text == "-0" or abs(int(text)) > MAX_INTEGER:
            raise Malformed("integer")
        return int(text)

    def refuse(_text: str) -> JSONValue:
        raise Malformed("float")

    try:
        value = json.loads(data.decode(), object_pairs_hook=pairs, parse_int=integer, parse_float=refuse, parse_constant=refuse)
    except ValueError as error:
        raise Malformed("not JSON") from error
    canonical(value)
    return value


@settings(max_examples=500)
@given(WRITTEN)
def test_reading_is_that_of_the_rules_one_after_another(text: str) -> None:
    data = text.encode()
    try:
        expected = read_plainly(data)
    except Malformed:
        with pytest.raises(Malformed):
            parse(data)
    else:
        read = parse(data)
        assert read == expected
        assert canonical(read) == canonical(expected)


def nesting(data: bytes) -> int:
    """How deep brackets stand in each other outside of texts, byte by byte."""
    deepest = now = 0
    in_text = False
    place = 0
    while place < len(data):
        byte = data[place : place + 1]
        if in_text and byte == b"\\":
            place += 1
        elif byte == b'"':
            in_text = not in_text
        elif not in_text:
            now += (byte in {b"[", b"{"}) - (byte in {b"]", b"}"})
            deepest = max(deepest, now)
        place += 1
    return deepest


PIECES = st.sampled_from(
    [b'"', b'""', b'"["', b'"]]"', b'"a"', b"[", b"[[[[", b"]", b"{", b"}", b"\\", b'\\"', b'"\\\\"', b"a", b","]
)


@settings(max_examples=1000)
@given(st.lists(PIECES, max_size=60).map(b"".join))
def test_nesting_is_that_of_brackets_outside_of_texts(data: bytes) -> None:
    deep, said = b"[" * 12 + data, ""
    try:
        parse(deep)
    except Malformed as error:
        said = error.message
    assert ("nested too deep" in said) == (nesting(deep) > 16)


def test_members_are_exactly_those_named() -> None:
    assert members({"b": 2, "a": 1}, "a b", "thing") == (1, 2)
    for value, word in (
        ({"a": 1}, "lacks"),
        ({"a": 1, "b": 2, "c": 3}, "unknown"),
        ([], "no object|not an object"),
        (None, "object"),
    ):
        with pytest.raises(Malformed, match=word):
            members(value, "a b", "thing")


def test_error_never_repeats_what_was_sent() -> None:
    for data in (b'{"secret-name":1,"secret-name":2}', b'"secret\\x"', b'["secret" "secret"]', b'"secret\\u0000"', b"[secret]"):
        with pytest.raises(Malformed) as caught:
            parse(data)
        assert "secret" not in str(caught.value)


# --- times -----------------------------------------------------------------------------------------

MOMENT = datetime(2026, 11, 21, 6, 0, 0, 123999, UTC)


def test_time_is_cut_to_the_millisecond() -> None:
    assert format_time(MOMENT) == "2026-11-21T06:00:00.123Z"
    assert format_time(MOMENT.astimezone(timezone(timedelta(hours=8)))) == "2026-11-21T06:00:00.123Z"
    assert parse_time("2026-11-21T06:00:00.123Z") == MOMENT.replace(microsecond=123000)
    with pytest.raises(Malformed, match="zone"):
        format_time(MOMENT.replace(tzinfo=None))


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_reads_back(moment: datetime) -> None:
    cut = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert parse_time(format_time(moment)) == cut


@pytest.mark.parametrize(
    "text",
    [
        *("2026-11-21T06:00:00Z", "2026-11-21T06:00:00.1Z", "2026-11-21T06:00:00.1234Z", "2026-11-21 06:00:00.000Z"),
        *("2026-11-21T06:00:00.000+00:00", "2026-11-21T06:00:00.000z", "2026-11-21t06:00:00.000Z", "2026-11-21T06:00:00.000Z\n"),
        *("2026-02-30T06:00:00.000Z", "2026-11-21T24:00:00.000Z", "2026-11-21T06:00:60.000Z", "0000-01-01T00:00:00.000Z"),
        *("12026-11-21T06:00:00.000Z", "٢٠٢٦-11-21T06:00:00.000Z", "", None, 5, ["2026-11-21T06:00:00.000Z"]),
    ],
)
def test_refuses_times_of_another_form(text: JSONValue) -> None:
    with pytest.raises(Malformed):
        parse_time(text)


def test_beijing_time_is_cut_to_the_second() -> None:
    assert beijing_seconds(datetime(2026, 11, 21, 16, 30, 59, 999999, UTC)) == "2026-11-22 00:30:59"
    assert beijing_seconds(datetime(7, 1, 1, tzinfo=UTC)) == "0007-01-01 08:00:00"
    with pytest.raises(Malformed, match="9999"):
        beijing_seconds(datetime(9999, 12, 31, 20, tzinfo=UTC))


# --- base64 ------------------------------------------------------------------------------------------


@given(st.binary(max_size=70))
def test_base64_reads_back(data: bytes) -> None:
    assert unb64(b64(data)) == unb64(b64(data), size=len(data)) == data
    assert unb64u(b64u(data)) == data
    assert "=" not in b64u(data)
    with pytest.raises(Malformed, match="length"):
        unb64(b64(data), size=len(data) + 1)


BAD_BASE64 = [
    "A",
    "AB=",
    "ABC",
    "AB==C",
    "AB==\n",
    " AA==",
    "AA ==",
    "AB==",
    "A===",
    "====",
    "QU-_",
    "ＡＡ==",
    "AA==AA==",
    None,
    3,
    b"AA==",
]


@pytest.mark.parametrize("text", BAD_BASE64)
def test_refuses_base64_of_another_form(text: JSONValue) -> None:
    with pytest.raises(Malformed):
        unb64(text)


@pytest.mark.parametrize("text", ["A", "AB", "AA==", "AA\n", "A A", "+/+/", "AAB", "Ａ", None])
def test_refuses_url_safe_base64_of_another_form(text: JSONValue) -> None:
    with pytest.raises(Malformed):
        unb64u(text)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_many_digests_at_once_are_each_in_the_one_form(digests: list[bytes]) -> None:
    assert b64_array(digests) == json.dumps([b64(digest) for digest in digests], separators=(",", ":"))
    assert [unb64(text, size=32) for text in json.loads(b64_array(digests))] == digests
