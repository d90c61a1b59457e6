"""Intake's quick look at a submission and its slow one that makes the sentences never differ."""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_vectors import ORDER, PAPERS, field, problems, template

from models.digest import Digest
from models.errors import Malformed, Unknown
from models.example import example
from models.field import (
    EMPTY_CODE_TITLE,
    Field,
    FieldType,
    Form,
    is_acceptable,
    is_date,
    is_file_object,
    is_number,
    is_text,
    satisfies,
)
from models.template import builtin, personal_values

SM3, SHA256 = "sm3:" + "ab" * 32, "sha256:" + "cd" * 32
FILE = {"digest": SM3, "name": "合同.pdf", "size": 3, "twin": SHA256}
DIGESTS = st.sampled_from(
    [SM3, SHA256, f"{SM3} {SHA256}", "sm3:" + "AB" * 32, SM3[:-1], "md5:" + "a" * 32, "", SM3 + "\n", None, 5]
)
FILES = st.fixed_dictionaries(
    {"digest": DIGESTS, "name": st.sampled_from(["a", "", "e\u0301", 1]), "size": st.sampled_from([0, -1, 2**53, True, "3"])},
    optional={"twin": DIGESTS, "colour": st.none()},
)
ITEMS: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "subject_document_type": st.sampled_from([1, 2, 3, 4, 0, 255, "1", None]),
            "subject_document_code": st.sampled_from(["x", "", " ", 5, None]),
            "type": st.sampled_from([1, 2, 3, 4, 0, 255, True]),
            "code": st.sampled_from(["x", "", None]),
            "z": st.just([]),
        },
    ),
    max_size=4,
)
VALUES = (
    st.sampled_from([None, "", " ", "\u3000", "x", "长" * 3000, "e\u0301", "a\x00", "\ud800", "-0", "12.50", "12.5", "007", "7"])
    | st.sampled_from(["2026-11-21", "2026-02-30", "2026-11-21T10:32:05+08:00", "2026-11-21T10:32:05", "036", "156", "1.5"])
    | st.sampled_from([0, 1, 2, 255, -1, 2**53, 2**53 - 1, True, False, 1.0, 1.5, [], {}, [{}], [1]])
    | FILES
    | ITEMS
)
FORMS: dict[Form, Callable[[str], bool]] = {
    Form.NUMBER: lambda text: text != "-0" and re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text, re.ASCII) is not None,
    Form.COUNT: lambda text: text == "0" or (text.isascii() and text.isdigit() and text[0] != "0"),
    Form.DATE: is_date,
}


def is_file(value: dict[str, Any]) -> bool:
    """A FILE_OBJECT read member by member, its digests by the one reader of digests."""
    if not is_text(value["name"]) or not is_number(value["size"]) or value["size"] < 0:
        return False
    try:
        first = Digest.parse(value["digest"])
        return "twin" not in value or Digest.parse(value["twin"]).algorithm is not first.algorithm
    except Malformed:
        return False


@settings(max_examples=300)
@given(digest=DIGESTS, twin=DIGESTS | st.just(...))
def test_file_is_what_its_digests_read_as(digest: Any, twin: Any) -> None:
    value = FILE | {"digest": digest, "twin": twin}
    if twin is ...:
        del value["twin"]
    try:
        expected = is_file(value)
    except Unknown:
        with pytest.raises(Unknown):
            is_file_object(value)
    else:
        assert is_file_object(value) == expected


def taken(of: Field, value: Any) -> bool:
    """The law that the functions of a field keep, said once more in one place and as slowly as it reads."""
    try:
        if not satisfies(of, value):
            return False
    except Unknown:
        return False
    if value is None:
        return True
    if of.type in {FieldType.CHARACTER, FieldType.TEXT}:
        return not (of.required and not value.strip()) and (of.detail.form is None or FORMS[of.detail.form](value))
    if of.type is FieldType.NUMBER:
        return not (of.required and (of.enum or {}).get(value) == EMPTY_CODE_TITLE)
    return of.type is not FieldType.FILE_OBJECT or "twin" in value or not of.detail.twin_required


@pytest.mark.parametrize("name", [PAPERS, ORDER, "file@1"])
@settings(max_examples=200)
@given(value=VALUES)
def test_every_field_takes_exactly_what_the_law_says(name: str, value: Any) -> None:
    for stage in builtin(name).stages:
        for entry in stage.fields:
            for each in (entry, *entry.items):
                assert is_acceptable(each, value) == taken(each, value), (each.name, value)


@pytest.mark.parametrize("name", [PAPERS, ORDER, "file@1"])
@settings(max_examples=150)
@given(data=st.data())
def test_problems_are_the_same_whether_told_quickly_or_slowly(name: str, data: st.DataObject) -> None:
    of = builtin(name)
    stages: dict[str, Any] = example(of, seed=b"i", client_key="k")["stages"]
    for _ in range(data.draw(st.integers(0, 3))):
        stage = data.draw(st.sampled_from(of.stages))
        entry = data.draw(st.sampled_from(stage.fields))
        if data.draw(st.booleans()):
            stages.setdefault(stage.name, {})[entry.name] = data.draw(VALUES)
        else:
            stages.setdefault(stage.name, {}).pop(entry.name, None)
    code = data.draw(st.sampled_from([None, "c"]))
    # A stage of no template leaves nothing to be told quickly, and says so first.
    unknown, *slow = problems(of, stages | {"x": {}}, link_code=code)
    assert (unknown.pointer, unknown.field) == ("/stages", "stage")
    assert list(problems(of, stages, link_code=code)) == slow


def test_text_of_a_required_code_is_held_to_its_list_and_may_not_be_blank() -> None:
    of = template(("甲", [field("a", "CHARACTER", required=True, enum="e")]), enums={"e": {" ": "空白", "036": "澳元"}})
    assert problems(of, {"甲": {"a": "036"}}) == ()
    assert [found.pointer for found in problems(of, {"甲": {"a": " "}})] == ["/stages/甲/a"]
    assert [found.pointer for found in problems(of, {"甲": {"a": "36"}})] == ["/stages/甲/a"]


TEXTS = st.text(max_size=9).map(lambda text: unicodedata.normalize("NFC", text)) | st.none()


@given(st.dictionaries(st.sampled_from(["file_name", "source", "media_type"]), TEXTS))
def test_personal_values_are_the_texts_of_fields_that_are_not_shown_as_they_are(values: dict[str, Any]) -> None:
    hidden = [values.get(name) for name in ("file_name", "source")]
    telling = {text for text in hidden if text is not None and len(text) >= 6}
    assert personal_values(builtin("file@1"), {"文件": values | {"object": FILE}}) == telling
    assert personal_values(builtin("file@1"), {}) == set()
