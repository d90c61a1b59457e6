"""Intake tells all problems of a submission at once, by type and length and never by value."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_vectors import ORDER, PAPERS, field, problems, template

from models.errors import Invalid
from models.example import example
from models.template import builtin, builtin_names, check_opaque, personal_values
from models.validation import MAX_PROBLEMS

SUBJECT = "存证主体-主体基本信息"
SECRET_TEXT = "李雷13912345678"


def valid(name: str) -> dict[str, Any]:
    stages: dict[str, Any] = example(builtin(name), seed=b"v", client_key="k")["stages"]
    return stages


@pytest.mark.parametrize("name", builtin_names())
@pytest.mark.parametrize("seed", range(20))
def test_example_of_every_template_is_valid_and_opaque(name: str, seed: int) -> None:
    of = builtin(name)
    made = example(of, seed=bytes([seed]), client_key="k-1")
    code = made.get("link", {}).get("code")
    of.validate(made["stages"], link_code=code)
    assert code is None or check_opaque(code, "/link/code", "code", values=personal_values(of, made["stages"])) == []
    for stage, values in made["stages"].items():
        for entry, value in values.items():
            of.check_value(stage, entry, value)


def test_examples_of_one_seed_are_parts_of_one_transaction() -> None:
    of = builtin(ORDER)
    parts = [example(of, seed=b"s", client_key=f"k{number}", stages=[stage.name]) for number, stage in enumerate(of.stages)]
    assert len({part["link"]["code"] for part in parts}) == 1
    whole = example(of, seed=b"s", client_key="k")
    assert {name: values for part in parts for name, values in part["stages"].items()} == whole["stages"]
    assert example(of, seed=b"t", client_key="k")["stages"] != whole["stages"]


def test_all_problems_are_told_at_once() -> None:
    given_stages = valid(PAPERS)
    given_stages[SUBJECT] |= {
        "subject_company_name": None,
        "subject_main_administrative_region": "1",
        "subject_create_time": "2026-11-21 10:00:00",
        "subject_registered_capital": 1.5,
        "subject_registry_date": "2026-02-30",
    }
    given_stages["项目信息"] |= {"project_cod": "x"}
    del given_stages["底稿信息"]
    assert {problem.pointer for problem in problems(builtin(PAPERS), given_stages)} == {
        f"/stages/{SUBJECT}/subject_company_name",
        f"/stages/{SUBJECT}/subject_main_administrative_region",
        f"/stages/{SUBJECT}/subject_create_time",
        f"/stages/{SUBJECT}/subject_registered_capital",
        f"/stages/{SUBJECT}/subject_registry_date",
        "/stages/项目信息",
        "/stages/底稿信息",
    }


def test_problem_names_field_title_expectation_with_example_and_clause() -> None:
    given_stages = valid(PAPERS)
    given_stages[SUBJECT]["subject_registered_capital"] = "1.50"
    (problem,) = problems(builtin(PAPERS), given_stages)
    assert problem.pointer == f"/stages/{SUBJECT}/subject_registered_capital"
    assert (problem.field, problem.field_zh, problem.clause) == ("subject_registered_capital", "注册资本", "A.3")
    assert "for example 12.5" in problem.expected
    assert problem.got == "text of 4 characters"


def test_problem_of_a_code_lists_the_codes_and_titles() -> None:
    given_stages = valid(PAPERS)
    given_stages[SUBJECT]["subject_organization_nature"] = 99
    (problem,) = problems(builtin(PAPERS), given_stages)
    assert "3 事业单位" in problem.expected
    assert problem.got == "an integer"


def test_unknown_field_is_answered_with_the_nearest_name_and_not_repeated() -> None:
    given_stages = valid(PAPERS)
    given_stages["项目信息"]["project_cod"] = "x"
    given_stages["项目信息"][SECRET_TEXT] = "x"
    first, second = problems(builtin(PAPERS), given_stages)
    assert "perhaps project_code" in first.expected
    assert SECRET_TEXT not in repr(second)


def test_no_problem_holds_a_value_that_was_sent() -> None:
    of = builtin(ORDER)
    for wrong in (SECRET_TEXT, [SECRET_TEXT], {SECRET_TEXT: SECRET_TEXT}, [{SECRET_TEXT: SECRET_TEXT}]):
        stages = {stage.name: {entry.name: wrong for entry in stage.fields} | {SECRET_TEXT: wrong} for stage in of.stages}
        found = problems(of, stages | {SECRET_TEXT: {}}, link_code=SECRET_TEXT)
        assert len(found) > 50
        assert SECRET_TEXT not in repr(found)


@pytest.mark.parametrize("stages", [None, [], "x", {}, 5, True], ids=repr)
def test_refuses_stages_that_are_no_object_of_stages(stages: Any) -> None:
    (problem,) = problems(builtin("file@1"), stages)
    assert problem.pointer == "/stages"


@pytest.mark.parametrize("stage", [None, [], "x", 5], ids=repr)
def test_refuses_stage_that_is_no_object_of_fields(stage: Any) -> None:
    (problem,) = problems(builtin(ORDER), {SUBJECT: stage})
    assert problem.pointer == f"/stages/{SUBJECT}"


def test_given_null_and_missing_are_told_apart() -> None:
    of = template(("甲", [field("a", required=True), field("b", required=True), field("c")]))
    assert [problem.got for problem in problems(of, {"甲": {"a": None, "c": "x"}})] == ["null", "nothing"]


def test_pointer_escapes_slash_and_tilde() -> None:
    of = template(("甲/乙~", [field("a/b~c", "NUMBER")]))
    (problem,) = problems(of, {"甲/乙~": {"a/b~c": "x"}})
    assert problem.pointer == "/stages/甲~1乙~0/a~1b~0c"


def test_file_needs_both_digests_and_agrees_with_its_fields() -> None:
    stages = valid("file@1")
    del stages["文件"]["object"]["twin"]
    assert [problem.field for problem in problems(builtin("file@1"), stages)] == ["object"]
    stages = valid("file@1")
    stages["文件"]["file_size"] += 1
    stages["文件"]["file_name"] = "other"
    found = problems(builtin("file@1"), stages)
    assert [(problem.field, problem.got) for problem in found] == [("file_name", "another value"), ("file_size", "another value")]


def test_problems_are_bounded() -> None:
    of = template(("甲", [field("o", "OBJECT_ARRAY")]), details={"甲": {"o": {"items": [
        {"name": "x", "title": "项", "type": "NUMBER", "required": True}]}}})  # fmt: skip
    assert len(problems(of, {"甲": {"o": [{}] * 5000}})) == MAX_PROBLEMS


def test_many_unknown_fields_are_counted_not_listed() -> None:
    found = problems(builtin("file@1"), {"文件": {f"u{number}": 1 for number in range(5000)}})
    assert len(found) < 30
    assert any("4984 more unknown fields" in problem.got for problem in found)


def test_message_counts_the_problems_and_names_the_template() -> None:
    with pytest.raises(Invalid, match=r"2 problems \(template file@1\)"):
        builtin("file@1").validate({"文件": valid("file@1")["文件"] | {"media_type": 5, "source": 5}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


NAMES = st.sampled_from(["subject_document_information", "subject_company_name", "working_papers_size", "y"])
STAGES = st.dictionaries(st.sampled_from([SUBJECT, "底稿信息", "x"]), st.dictionaries(NAMES, JSON, max_size=4) | JSON, max_size=3)


@settings(max_examples=200)
@given(STAGES)
def test_anything_submitted_is_accepted_or_refused_and_never_breaks(stages: dict[str, Any]) -> None:
    assert problems(builtin(PAPERS), stages)
    problems(builtin(ORDER), stages, link_code="c")
