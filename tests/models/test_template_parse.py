"""The schema of template files: what is read, what is refused, and that a published version never changes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_vectors import ORDER, PAPERS, encoded, field, template, template_value, vector

from models.digest import sha256, sm3
from models.errors import Malformed, Unknown
from models.template import Commitment, DataModel, FieldType, Template, builtin, builtin_names

STANDARD = vector("standard")
DIGESTS = vector("digests")


def test_every_published_template_has_its_golden_digests() -> None:
    assert set(builtin_names()) == set(DIGESTS)
    for name, digests in DIGESTS.items():
        data = builtin(name).data
        assert (sm3(data).hex(), sha256(data).hex()) == (digests["sm3"], digests["sha256"]), (
            f"{name} was published: make a new version"
        )


def test_template_that_is_not_there_is_unknown() -> None:
    with pytest.raises(Unknown, match="template is unknown"):
        builtin("nothing@1")


@pytest.mark.parametrize(("name", "model"), list(zip((PAPERS, ORDER), STANDARD["models"], strict=True)))
def test_appendix_template_has_every_row_of_its_tables(name: str, model: dict[str, Any]) -> None:
    rows = {table["table"]: table["rows"] for table in STANDARD["tables"]}
    of = builtin(name)
    assert of.biz_name == model["bizName"]
    assert [[stage.name, stage.fields[0].clause] for stage in of.stages] == model["stages"]
    for stage in of.stages:
        expected = {row[0]: row for row in reversed(rows[stage.fields[0].clause])}  # of a double row the first
        assert [entry.name for entry in stage.fields] == list(dict.fromkeys(row[0] for row in rows[stage.fields[0].clause]))
        for entry in stage.fields:
            enum = entry.items[0].enum if entry.items else entry.enum
            title, kind, length, required, enum_title = expected[entry.name][1:]
            assert (entry.title, entry.type.value, entry.max, entry.required) == (title, kind, length, required)
            assert (enum is None) == (enum_title is None)
            if entry.enum is not None:
                assert entry.enum_title == enum_title


def test_both_appendices_give_190_rows_and_189_keys() -> None:
    rows = {table["table"]: table["rows"] for table in STANDARD["tables"]}
    assert sum(map(len, rows.values())) == 190
    assert builtin(PAPERS).field_count + builtin(ORDER).field_count == 189


def test_all_seventeen_enumerations_have_their_codes_and_titles() -> None:
    enums: dict[str, dict[str, str]] = {}
    for name in (PAPERS, ORDER):
        enums |= json.loads(builtin(name).data)["enums"]
    assert len(enums) == 17
    assert enums == {entry["title"]: entry["values"] for entry in STANDARD["enumerations"]}


@pytest.mark.parametrize("entry", STANDARD["enumerations"], ids=lambda entry: entry["title"])
def test_codes_are_integers_for_number_and_text_for_character(entry: dict[str, Any]) -> None:
    kind: type = {"integer": int, "string": str}[entry["type"]]
    carrying = [
        codes
        for name in (PAPERS, ORDER)
        for stage in builtin(name).stages
        for one in stage.fields
        for codes in [one.enum, *(item.enum for item in one.items)]
        if codes is not None and {str(code): title for code, title in codes.items()} == entry["values"]
    ]
    assert carrying
    assert all(isinstance(code, kind) for codes in carrying for code in codes)


def test_appendix_templates_are_committed_by_hash_and_files_by_the_log() -> None:
    assert {builtin(name).commitment for name in (PAPERS, ORDER)} == {Commitment.HASH}
    assert builtin("file@1").commitment is Commitment.MERKLE
    assert (builtin(PAPERS).model, builtin(ORDER).model) == (DataModel.SINGLE, DataModel.CHAIN)


def test_stages_of_the_chain_may_come_one_by_one() -> None:
    assert len(builtin(ORDER).stages) == 9
    assert not any(stage.required for stage in builtin(ORDER).stages)


def test_every_field_has_title_and_clause_and_personal_fields_a_mask() -> None:
    for name in builtin_names():
        for stage in builtin(name).stages:
            for entry in stage.fields:
                assert entry.title, entry.name
                assert entry.clause, entry.name
                assert (entry.grade is None) == (entry.detail.mask is None), entry.name


def test_client_certificate_is_of_grade_four_and_a_code_of_grade_three() -> None:
    signing = builtin(ORDER).stage("存证数据-事务环节-协议签署信息")
    assert (signing.field("cust_certificate_dn").grade, signing.field("cust_certificate_sn").grade) == (4, 4)
    assert signing.field("account_code").grade == 3
    assert builtin(ORDER).stage("存证数据-产品信息").field("product_code").grade is None


def test_files_are_found_by_digest_and_not_by_name() -> None:
    stage = builtin("file@1").stage("文件")
    assert stage.field("object").search
    assert not stage.field("file_name").search


def test_places_count_over_all_fields_of_all_stages() -> None:
    places = [entry.place for stage in builtin(ORDER).stages for entry in stage.fields]
    assert places == list(range(136))
    assert [stage.start for stage in builtin(ORDER).stages] == [stage.fields[0].place for stage in builtin(ORDER).stages]


def test_verifier_ignores_further_members_and_the_service_reads_them() -> None:
    value = template_value(("甲", [field("a")]), details="not what we know", colour=["red"])
    assert Template.parse(encoded(value)).stages[0].fields[0].name == "a"
    with pytest.raises(Malformed, match="unknown member"):
        Template.adopt(encoded(value))


def test_template_need_not_be_canonical_and_is_hashed_as_its_bytes() -> None:
    value = template_value(("甲", [field("a")]))
    spaced = json.dumps(value, ensure_ascii=False, indent=3).encode()
    assert Template.parse(spaced).pair.sm3 == sm3(spaced) != Template.parse(encoded(value)).pair.sm3


def _changed(**more: Any) -> dict[str, Any]:
    return template_value(("甲", [field("a")]), **more)


def _of_field(**more: Any) -> dict[str, Any]:
    return template_value(("甲", [field("a") | more]), enums={"色": {"1": "红"}, "号": {"01": "一"}})


BAD = {
    "no object": [],
    "format missing": {key: value for key, value in _changed().items() if key != "format"},
    "format of another kind": _changed(format="cz-thing/1"),
    "title missing": {key: value for key, value in _changed().items() if key != "title"},
    "title not text": _changed(title=5),
    "title empty": _changed(title=""),
    "bizName with a control character": _changed(bizName="a\x07"),
    "name without version": _changed(name="t"),
    "name in capitals": _changed(name="T@1"),
    "version zero": _changed(name="t@0"),
    "name is a list": _changed(name=["t@1"]),
    "commitment unknown": _changed(commitment="HASH"),
    "commitment is a list": _changed(commitment=["hash"]),
    "no stages": _changed(stages=[]),
    "stages no array": _changed(stages={"甲": []}),
    "33 stages": template_value(*[(f"环{number}", [field("a")]) for number in range(33)]),
    "513 fields": template_value(*[(f"环{stage}", [field(f"f{number}") for number in range(171)]) for stage in range(3)]),
    "stage twice": template_value(("甲", [field("a")]), ("甲", [field("b")])),
    "stage without fields": template_value(("甲", [])),
    "stage with an unknown member": _changed(stages=[{"name": "甲", "fields": [field("a")], "colour": 1}]),
    "stage name not text": _changed(stages=[{"name": 1, "fields": [field("a")]}]),
    "stage required not boolean": _changed(stages=[{"name": "甲", "fields": [field("a")], "required": 1}]),
    "field twice": template_value(("甲", [field("a"), field("a")])),
    "field no object": template_value(("甲", ["a"])),  # type: ignore[list-item]
    "field with an unknown member": _of_field(colour=1),
    "field without title": template_value(("甲", [{"name": "a", "type": "TEXT", "required": True}])),
    "type unknown": _of_field(type="STRING"),
    "type is a list": _of_field(type=["TEXT"]),
    "required not boolean": _of_field(required=1),
    "max zero": _of_field(max=0),
    "max true": _of_field(max=True),
    "max of a number": _of_field(type="NUMBER", max=5),
    "grade five": _of_field(grade=5),
    "grade true": _of_field(grade=True),
    "search unknown": _of_field(search="prefix"),
    "enum not there": _of_field(type="NUMBER", enum="形"),
    "enum of a TEXT": _of_field(enum="色"),
    "enum of text codes for a NUMBER": _of_field(type="NUMBER", enum="号"),
    "enum is a list": _of_field(type="NUMBER", enum=["色"]),
    "clause not text": _of_field(clause=1),
    "enums no object": _changed(enums=[]),
    "enums empty": _changed(enums={"色": {}}),
    "enums title not text": _changed(enums={"色": {"1": 1}}),
    "plaintext with a personal field": template_value(("甲", [field("a", grade=2)]), commitment="plaintext"),
}  # fmt: skip


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_refuses_template_outside_its_schema(value: Any) -> None:
    with pytest.raises(Malformed):
        Template.parse(encoded(value))


def test_plaintext_is_taken_where_nothing_is_personal() -> None:
    assert template(("甲", [field("a", grade=1)]), commitment="plaintext").commitment is Commitment.PLAINTEXT


def test_other_version_of_the_schema_is_unknown_not_malformed() -> None:
    with pytest.raises(Unknown):
        Template.parse(encoded(_changed(format="cz-template/2")))


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"name":"a","name":"b"}', b"\xff", b" " * 262_145], ids=["empty", "cut", "double", "utf8", "long"]
)
def test_refuses_bytes_that_are_no_strict_json(data: bytes) -> None:
    with pytest.raises(Malformed):
        Template.parse(data)


def _further(**more: Any) -> dict[str, Any]:
    fields = [field("a", "CHARACTER"), field("f", "FILE_OBJECT"), field("o", "OBJECT_ARRAY")]
    return template_value(("甲", fields), enums={"色": {"1": "红"}}, **more)


def _detail(name: str, **more: Any) -> dict[str, Any]:
    return _further(details={"甲": {name: more}})


ITEM = {"name": "x", "title": "项", "type": "NUMBER", "required": True}
BAD_FURTHER = {
    "model unknown": _further(model="double"),
    "model is a list": _further(model=["chain"]),
    "common names no stage": _further(common=["乙"]),
    "common no array": _further(common="甲"),
    "link_field names no field": _further(link_field="z"),
    "link_field is a list": _further(link_field=["a"]),
    "standard not text": _further(standard=1),
    "rules no array": _further(rules={}),
    "rule of an unknown kind": _further(rules=[{"kind": "eval", "fields": [], "clause": "x"}]),
    "rule names no field": _further(rules=[{"kind": "equal", "fields": [["甲", "z"]], "clause": "x"}]),
    "rule path not text": _further(rules=[{"kind": "equal", "fields": [["甲", 1]], "clause": "x"}]),
    "details no object": _further(details=[]),
    "details of a stage no object": _further(details={"甲": []}),
    "details name no field": _detail("z"),
    "details with an unknown member": _detail("a", colour=1),
    "form unknown": _detail("a", form="colour"),
    "form is a list": _detail("a", form=["number"]),
    "form of a file": _detail("f", form="number"),
    "mask unknown": _detail("a", mask="HIDE"),
    "mask is a list": _detail("a", mask=["KEEP"]),
    "note not text": _detail("a", note=1),
    "errata not texts": _detail("a", errata=[1]),
    "twin_required of a text": _detail("a", twin_required=True),
    "twin_required not boolean": _detail("f", twin_required=1),
    "items of a text": _detail("a", items=[ITEM]),
    "items empty": _detail("o", items=[]),
    "item without title": _detail("o", items=[{"name": "x", "type": "NUMBER", "required": True}]),
    "item of a type that is not flat": _detail("o", items=[ITEM | {"type": "OBJECT_ARRAY"}]),
    "item type is a list": _detail("o", items=[ITEM | {"type": []}]),
    "item enum not there": _detail("o", items=[ITEM | {"enum": "形"}]),
    "choice by no item": _detail("o", items=[ITEM], choice={"by": "z", "sets": [[1]], "expected": "x"}),
    "choice by a list": _detail("o", items=[ITEM], choice={"by": [], "sets": [[1]], "expected": "x"}),
    "choice of objects": _detail("o", items=[ITEM], choice={"by": "x", "sets": [[{}]], "expected": "x"}),
    "choice without sets": _detail("o", items=[ITEM], choice={"by": "x", "expected": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("value", BAD_FURTHER.values(), ids=BAD_FURTHER)
def test_service_refuses_further_members_it_cannot_read(value: Any) -> None:
    Template.parse(encoded(value))
    with pytest.raises(Malformed):
        Template.adopt(encoded(value))


def test_service_reads_further_members_in_their_form() -> None:
    choice = {"by": "x", "sets": [[1]], "expected": "one of type 1"}
    of = Template.adopt(encoded(_detail("o", items=[ITEM | {"enum": "色"}], choice=choice)))
    assert of.stages[0].field("o").items[0].enum == {1: "红"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "甲", "TEXT", "exact", "色", "merkle", "t@1", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "title", "fields", "a", "甲"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        ("name",),
        ("stages",),
        ("stages", 0),
        ("stages", 0, "fields"),
        ("stages", 0, "fields", 0),
        ("enums",),
        ("details",),
        ("rules",),
    ]
    + [("stages", 0, "fields", 0, key) for key in ("name", "type", "required", "max", "enum", "grade", "search", "clause")]
    + [
        ("details", "甲"),
        ("details", "甲", "o"),
        ("details", "甲", "o", "items"),
        ("details", "甲", "o", "choice"),
        ("common",),
        ("model",),
    ]
)


@settings(max_examples=300)
@given(path=PATHS, put=JSON)
def test_template_with_anything_anywhere_is_read_or_refused_and_never_breaks(path: tuple[Any, ...], put: Any) -> None:
    choice = {"by": "x", "sets": [[1]], "expected": "one"}
    value: Any = _detail("o", items=[ITEM], choice=choice) | {"rules": [], "common": [], "model": "single"}
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = put
    for read in (Template.parse, Template.adopt):
        try:
            read(encoded(value))
        except (Malformed, Unknown):
            continue


def test_types_are_the_nine_of_the_standard() -> None:
    assert {kind.value for kind in FieldType} == {
        "CHARACTER", "TEXT", "NUMBER", "DECIMAL", "DATE", "TIME", "BOOLEAN", "FILE_OBJECT", "OBJECT_ARRAY",
    }  # fmt: skip
