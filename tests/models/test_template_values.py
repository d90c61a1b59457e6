"""The forms of values: each type's one form, judged alone as the verifier does, and never repaired."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from template_vectors import field, template

from models.errors import Malformed, Unknown, VerificationError
from models.field import is_time
from models.template import Template, field_time

SM3_HEX = "sm3:" + "ab" * 32
SHA256_HEX = "sha256:" + "cd" * 32
FILE = {"digest": SM3_HEX, "name": "合同.pdf", "size": 3}

GOOD: dict[str, list[Any]] = {
    "CHARACTER": ["", "a", "张三", "a\nb", "😀"],
    "TEXT": ["", "长" * 5000],
    "NUMBER": [0, -1, 2**53 - 1, 1 - 2**53],
    "DECIMAL": ["0", "-1", "12.5", "-0.25", "0.001", "10", "1" * 60],
    "DATE": ["2026-11-21", "2024-02-29", "0001-01-01", "9999-12-31"],
    "TIME": [
        "2026-11-21T10:32:05+08:00", "2026-11-21T05:59:00.5Z", "2026-11-21T00:00:00-11:30", "2016-12-31T23:59:60Z",
        "2017-01-01T07:59:60+08:00", "2026-11-21T10:32:05.123456789Z", "0001-01-01T00:00:00+08:00", "9999-12-31T23:59:59-08:00",
    ],
    "BOOLEAN": [True, False],
    "FILE_OBJECT": [FILE, FILE | {"twin": SHA256_HEX}, FILE | {"digest": SHA256_HEX, "twin": SM3_HEX}, FILE | {"size": 0}],
    "OBJECT_ARRAY": [[], [{}], [{"type": 1, "code": "x", "ok": True, "none": None}]],
}  # fmt: skip

BAD: dict[str, list[Any]] = {
    "CHARACTER": [1, True, [], {}, 1.5, "e\u0301", "a\x00", "\ud800"],
    "TEXT": [0, ["a"], "e\u0301"],
    "NUMBER": ["1", 1.0, True, 2**53, -(2**53), []],
    "DECIMAL": [1, 1.5, "-0", "1.", ".5", "01", "1.50", "+1", "1e3", " 1", "1,000", "１", "", "-", "1.0", "0.0", "NaN", "1\n"],
    "DATE": [
        "2026-11-31", "2026-2-01", "20261121", "2026-11-21T00:00:00Z", "0000-01-01", "２026-11-21", "", 20261121, "2026-11-21\n",
    ],
    "TIME": [
        "2026-11-21T10:32:05", "2026-11-21 10:32:05+08:00", "2026-11-21t10:32:05z", "2026-11-21T10:32+08:00",
        "2026-11-21T10:32:05.50Z",
        "2026-11-21T10:32:05.Z", "2026-11-21T10:32:05+0800", "2026-11-21T24:00:00Z", "2026-11-21T10:60:00Z",
        "2026-11-21T10:32:60Z",
        "2026-11-31T10:32:05Z", "2026-11-21T10:32:05+24:00", "2026-11-21T10:32:05+08:60", "2026-11-21T10:32:05+08",
        "2026-11-21T23:59:60Z",
        "2026-11-21T10:32:05.0Z", "0000-01-01T00:00:00Z", 5, "", "2026-11-21T10:32:05Z\n", "0001-01-01T23:59:60+08:00",
    ],
    "BOOLEAN": [0, 1, "true", [], "是"],
    "FILE_OBJECT": [
        SM3_HEX, [], {}, {"digest": SM3_HEX, "name": "a"}, FILE | {"colour": 1}, FILE | {"size": -1}, FILE | {"size": "3"},
        FILE | {"size": True}, FILE | {"name": None}, FILE | {"digest": "ab" * 32}, FILE | {"digest": "sm3:" + "AB" * 32},
        FILE | {"digest": SM3_HEX[:-1]}, FILE | {"twin": SM3_HEX}, FILE | {"twin": None}, FILE | {"digest": None},
    ],
    "OBJECT_ARRAY": [{}, "x", [1], [[]], [{"a": []}], [{"a": {}}], [{"a": 1.5}], [{"e\u0301": 1}], [None]],
}  # fmt: skip


def _of(kind: str, **more: Any) -> Template:
    return template(("甲", [field("a", kind, **more)]))


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in GOOD.items() for value in values])
def test_value_in_the_form_of_its_type_is_taken(kind: str, value: Any) -> None:
    _of(kind).check_value("甲", "a", value)
    _of(kind).validate({"甲": {"a": value}})


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in BAD.items() for value in values])
def test_value_in_another_form_is_refused_and_not_repaired(kind: str, value: Any) -> None:
    with pytest.raises(VerificationError, match="disclosed value breaks its field"):
        _of(kind).check_value("甲", "a", value)


def test_null_is_taken_of_an_optional_field_only() -> None:
    _of("TEXT").check_value("甲", "a", None)
    with pytest.raises(VerificationError):
        _of("TEXT", required=True).check_value("甲", "a", None)


def test_max_counts_code_points_not_bytes_or_utf16_units() -> None:
    of = _of("CHARACTER", max=3)
    of.check_value("甲", "a", "😀张x")
    with pytest.raises(VerificationError):
        of.check_value("甲", "a", "abcd")


@pytest.mark.parametrize("value", [1, 255])
def test_integer_code_is_taken(value: int) -> None:
    template(("甲", [field("a", "NUMBER", enum="色")]), enums={"色": {"1": "红", "255": "其他"}}).check_value("甲", "a", value)


@pytest.mark.parametrize("value", [2, "1", True, 1.0])
def test_refuses_code_that_is_not_listed_or_of_another_type(value: Any) -> None:
    of = template(("甲", [field("a", "NUMBER", enum="色")]), enums={"色": {"1": "红", "255": "其他"}})
    with pytest.raises(VerificationError):
        of.check_value("甲", "a", value)


def test_text_code_keeps_its_leading_zero() -> None:
    of = template(("甲", [field("a", "CHARACTER", enum="币")]), enums={"币": {"036": "澳元"}})
    of.check_value("甲", "a", "036")
    for wrong in ("36", 36):
        with pytest.raises(VerificationError):
            of.check_value("甲", "a", wrong)


def test_digest_of_an_unknown_algorithm_cannot_be_judged() -> None:
    with pytest.raises(Unknown):
        _of("FILE_OBJECT").check_value("甲", "a", FILE | {"digest": "md5:" + "ab" * 16})


def test_refuses_field_or_stage_that_the_template_lacks() -> None:
    for stage, name in (("甲", "b"), ("乙", "a")):
        with pytest.raises(VerificationError, match="none of the template's"):
            _of("TEXT").check_value(stage, name, "x")


def test_message_of_a_refused_value_never_holds_it() -> None:
    with pytest.raises(VerificationError) as caught:
        _of("NUMBER").check_value("甲", "a", "13800138000")
    assert "13800138000" not in caught.value.message


@given(st.timedeltas(timedelta(days=2), timedelta(days=3_652_000)), st.integers(-14 * 60, 14 * 60))
def test_moment_written_for_a_field_has_the_form_of_a_time_field(since: timedelta, offset: int) -> None:
    moment = (datetime(1, 1, 1, tzinfo=UTC) + since).astimezone(timezone(timedelta(minutes=offset)))
    text = field_time(moment)
    assert is_time(text)
    assert moment.astimezone(UTC) - datetime.fromisoformat(text) < timedelta(milliseconds=1)


def test_moment_without_zone_is_refused() -> None:
    with pytest.raises(Malformed):
        field_time(datetime(2026, 1, 1))  # noqa: DTZ001
