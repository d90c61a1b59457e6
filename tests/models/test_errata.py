"""What was decided on each erratum in the tables of T/SAC 004—2024; models/README.md lists exactly these.

Each test is named after its erratum; those on the on-chain record, trees and keys stand in test_errata_chain.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from template_vectors import ORDER, PAPERS, field, problems, refused_pointers, template, vector

from models.digest import Pair
from models.errors import Malformed
from models.evidence import Statement
from models.example import example
from models.template import FieldType, builtin

STANDARD = vector("standard")
SUBJECT, NODE = "存证主体-主体基本信息", "存证主体-主体区块链节点信息"
ACCOUNT, PRODUCT = "存证数据-客户账号信息", "存证数据-产品信息"
MATCH, ENTRUST = "存证数据-事务环节-适当性匹配信息", "存证数据-事务环节-委托下单信息"
HEX = "60c8847b8a2e3f8e71420d1c7756d943132e174f80674683fb70bc86c4362baa"
TEST = re.compile(r"^def (test_[a-z]\d\d_\w+)", re.MULTILINE)
ROW = re.compile(r"^\| (?P<ids>[A-Z]\d\d) \| .+ \| `(?P<test>test_\w+)` \|$", re.MULTILINE)
REST = re.compile(r"^\| (?P<ids>[A-Z]\d\d(?:[, ]+[A-Z]\d\d)*) \| [^|`]+ \|$", re.MULTILINE)


# --- tables and fields -----------------------------------------------------------------------------------------------


def test_t01_title_stays_as_printed_and_its_reading_is_kept_beside_it() -> None:
    entry = builtin(PAPERS).stage("底稿信息").field("working_papers_project_code")
    assert (entry.title, entry.detail.reading) == ("底稿所属项目目标号", "底稿所属项目编号")


def test_t02_one_key_stands_for_both_rows_of_product_scale() -> None:
    stage = builtin(ORDER).stage(PRODUCT)
    assert [entry.title for entry in stage.fields if entry.name == "product_scale"] == ["产品规模"]
    assert stage.field("product_scale").detail.also == ("产品规模总额",)
    with pytest.raises(Malformed, match="twice"):
        template(("甲", [field("product_scale"), field("product_scale")]))


def test_t03_title_stays_as_printed_and_its_reading_is_kept_beside_it() -> None:
    entry = builtin(ORDER).stage(MATCH).field("suitability_agreement_name")
    assert (entry.title, entry.detail.reading) == ("适当协议名称", "适当性协议名称")


def test_t04_the_stage_is_called_login_not_landing() -> None:
    assert "存证数据-事务环节-登录信息" in builtin(ORDER).by_name
    assert "登陆" not in builtin(ORDER).data.decode()


def test_t05_a_field_is_required_where_y_is_printed_and_nowhere_else() -> None:
    stage = builtin(ORDER).stage("存证数据-事务环节-浏览记录信息")
    required = {entry.name for entry in stage.fields if entry.required}
    assert required == {"transaction_link_unique_code", "primary_page_name", "primary_page_content"}


def _documents(*types: int) -> list[dict[str, Any]]:
    return [{"type": kind, "code": "91110000MA0000000X"} for kind in types]


@pytest.mark.parametrize("types", [(1,), (2, 3, 4), (4, 2, 3)], ids=str)
def test_t06_either_type_1_or_types_2_3_and_4_are_given(types: tuple[int, ...]) -> None:
    assert not refused_pointers(ORDER, SUBJECT, subject_document_information=_documents(*types))


@pytest.mark.parametrize("types", [(1, 1), (2,), (2, 3), (1, 2, 3, 4), (2, 3, 4, 4), (2, 2, 3), ()], ids=str)
def test_refuses_other_sets_of_documents(types: tuple[int, ...]) -> None:
    assert refused_pointers(ORDER, SUBJECT, subject_document_information=_documents(*types)) == {"subject_document_information"}


def test_t07_the_rule_of_table_b3_holds_for_table_a3_too() -> None:
    assert refused_pointers(PAPERS, SUBJECT, subject_document_information=_documents(1, 1)) == {"subject_document_information"}
    assert not refused_pointers(PAPERS, SUBJECT, subject_document_information=_documents(1))


@pytest.mark.parametrize("code", [0, 255])
def test_t08_documents_of_type_0_and_255_are_refused(code: int) -> None:
    assert refused_pointers(ORDER, SUBJECT, subject_document_information=_documents(code)) == {"subject_document_information"}


def test_t10_the_id_of_the_subject_is_the_platforms_and_stands_in_the_statement() -> None:
    assert "subject_id" not in builtin(ORDER).stage(SUBJECT).by_name
    for stage, name in ((NODE, "node_subject_id"), (ACCOUNT, "account_subject")):
        entry = builtin(ORDER).stage(stage).field(name)
        assert (entry.type, entry.search) == (FieldType.CHARACTER, True)
    of = Statement.build(
        client_key="k", link=None, log="evidence.example.cn/log/1", occurred_at=None, stages=[("甲", Pair(bytes(32), bytes(32)))],
        subject=("s1", "示例证券"), submitter="acct-1", template=("t@1", Pair(bytes(32), bytes(32))),
    )  # fmt: skip
    assert Statement.parse(of.data).subject_id == "s1"


def test_t11_one_link_code_serves_the_whole_run() -> None:
    of = builtin(ORDER)
    made = example(of, seed=b"e", client_key="k")
    stages, code = made["stages"], made["link"]["code"]
    assert not problems(of, stages, link_code=code)
    assert {problem.field for problem in problems(of, stages, link_code="another")} == {"transaction_link_unique_code"}
    stages[ENTRUST]["transaction_link_unique_code"] = "another"
    (problem,) = problems(of, stages)
    assert problem.pointer == f"/stages/{ENTRUST}/transaction_link_unique_code"


def test_t12_account_and_product_are_joined_by_searchable_codes() -> None:
    of = builtin(ORDER)
    joined = {(stage.name, entry.name) for stage in of.stages for entry in stage.fields if entry.search}
    for name in ("account_code", "product_code"):
        assert {(stage.name, name) for stage in of.stages if name in stage.by_name} <= joined
    assert ("存证数据-事务环节-登录信息", "login_account") in joined


def test_t13_date_typed_as_text_is_kept_as_text_and_checked_as_a_date() -> None:
    assert builtin(ORDER).stage(PRODUCT).field("product_nav_date").type is FieldType.CHARACTER
    assert "product_nav_date" not in refused_pointers(ORDER, PRODUCT, product_nav_date="2026-11-21")
    for wrong in ("2026-02-30", "20261121", "昨天"):
        assert "product_nav_date" in refused_pointers(ORDER, PRODUCT, product_nav_date=wrong)


@pytest.mark.parametrize(
    ("name", "stage", "entry"),
    [(ORDER, ENTRUST, "entrust_amount"), (ORDER, PRODUCT, "product_scale"), (ORDER, PRODUCT, "product_new_nav"),
     (ORDER, PRODUCT, "product_net_value"), (ORDER, PRODUCT, "product_rate"), (PAPERS, "底稿信息", "working_papers_size"),
     (PAPERS, NODE, "node_machine_numbers"), (ORDER, NODE, "node_machine_numbers")],
)  # fmt: skip
def test_t14_number_typed_as_text_is_kept_as_text_and_checked_as_a_number(name: str, stage: str, entry: str) -> None:
    assert builtin(name).stage(stage).field(entry).type is FieldType.CHARACTER
    assert entry not in refused_pointers(name, stage, **{entry: "12"})
    for wrong in ("12 元", "1,000", "十", "1e3", 12):
        assert entry in refused_pointers(name, stage, **{entry: wrong})


def test_number_typed_as_text_keeps_its_trailing_zeros() -> None:
    assert "product_new_nav" not in refused_pointers(ORDER, PRODUCT, product_new_nav="1.2340")


@pytest.mark.parametrize("currency", ["156", "CNY", "人民币"])
def test_t15_currency_codes_of_product_scale_are_advice_only(currency: str) -> None:
    assert "product_scale_currency" not in refused_pointers(ORDER, PRODUCT, product_scale_currency=currency)
    assert "枚举-币种类型" in builtin(ORDER).stage(PRODUCT).field("product_scale_currency").detail.reading


def test_t16_create_time_is_the_time_of_maintenance_under_its_printed_name() -> None:
    for stage, name, title in (
        (SUBJECT, "subject_create_time", "主体信息维护时间"), (ACCOUNT, "account_create_time", "账号信息维护时间"),
        (PRODUCT, "product_create_time", "产品信息维护时间"),
    ):  # fmt: skip
        assert builtin(ORDER).stage(stage).field(name).title == title


def test_t17_lengths_of_address_and_telephone_stay_as_printed() -> None:
    stage = builtin(PAPERS).stage(SUBJECT)
    assert (stage.field("subject_contact_address").max, stage.field("subject_contact_number").max) == (128, 512)


@pytest.mark.parametrize("values", [{}, {"node_name": None}], ids=["empty", "null"])
def test_t18_empty_stage_is_refused_though_no_field_is_required(values: dict[str, Any]) -> None:
    (problem,) = problems(builtin(ORDER), {NODE: values})
    assert problem.pointer == f"/stages/{NODE}"
    assert not problems(builtin(ORDER), {NODE: {"node_name": "甲节点"}})


def test_t19_field_without_a_printed_length_has_no_length_of_its_own() -> None:
    lengths = {entry.max for stage in builtin(ORDER).stages[1:] for entry in stage.fields}
    assert lengths == {None}
    assert not refused_pointers(ORDER, NODE, node_remark="长" * 10_000)


def test_t20_every_type_word_has_one_form_and_a_file_its_digest() -> None:
    assert not refused_pointers(ORDER, ACCOUNT, account_establish_date="2026-11-21") & {"account_establish_date"}
    assert "account_opening_doc" in refused_pointers(ORDER, ACCOUNT, account_opening_doc={"name": "a.pdf", "size": 1})
    good = {"name": "a.pdf", "size": 1, "digest": f"sm3:{HEX}"}
    assert "account_opening_doc" not in refused_pointers(ORDER, ACCOUNT, account_opening_doc=good)


def test_t22_enumerations_of_table_b13_serve_both_appendices() -> None:
    papers, order = (json.loads(builtin(name).data)["enums"] for name in (PAPERS, ORDER))
    assert len(papers) == 7
    assert all(order[title] == codes for title, codes in papers.items())


def test_t23_required_code_may_not_be_the_empty_one() -> None:
    name = "subject_main_administrative_region"
    assert name in refused_pointers(ORDER, SUBJECT, **{name: 0})
    assert name not in refused_pointers(ORDER, SUBJECT, **{name: 1})
    assert not refused_pointers(ORDER, SUBJECT, subject_organization_nature=0)


def test_t24_required_belongs_to_the_table_not_to_the_name() -> None:
    of = builtin(ORDER)
    for name in ("product_name", "product_type"):
        assert of.stage(PRODUCT).field(name).required
        assert not of.stage(ENTRUST).field(name).required


def test_t25_parallel_titles_stay_as_printed() -> None:
    stage = builtin(ORDER).stage("存证数据-事务环节-浏览记录信息")
    assert (stage.field("primary_page_content").title, stage.field("secondary_page_content").title) == (
        "一级页面内容",
        "二级页面包含内容",
    )


def test_t26_odd_english_names_stay_as_printed() -> None:
    assert {"project_pr", "project_current_state"} <= set(builtin(PAPERS).stage("项目信息").by_name)
    assert "subject_mail_box" in builtin(PAPERS).stage(SUBJECT).by_name
    assert {"product_investment_products_type", "product_investment_product_details"} <= set(
        builtin(ORDER).stage(PRODUCT).by_name
    )


def test_t27_purpose_of_an_account_is_free_text_and_not_blank() -> None:
    assert "account_purpose" not in refused_pointers(ORDER, ACCOUNT, account_purpose="任意文字")
    for blank in ("", "  ", "\u3000"):
        assert "account_purpose" in refused_pointers(ORDER, ACCOUNT, account_purpose=blank)


# --- enumerations ----------------------------------------------------------------------------------------------------


def _codes(title: str) -> dict[str, str]:
    codes: dict[str, str] = json.loads(builtin(ORDER).data)["enums"][title]
    return codes


def test_n01_label_of_the_credit_code_stays_as_printed() -> None:
    assert _codes("枚举-机构代码类型")["1"] == "社会统一信用代码"


def test_n02_labels_of_the_investment_term_stay_as_printed() -> None:
    assert _codes("枚举-投资期限") == {
        "1": "没有经验", "2": "少于2年", "3": "2-5年", "4": "5-10年", "5": "10年以上", "255": "其他",
    }  # fmt: skip


@pytest.mark.parametrize("code", [4, 255])
def test_n03_both_codes_for_other_investments_are_taken(code: int) -> None:
    assert "cust_invest_kind_suitability" not in refused_pointers(ORDER, MATCH, cust_invest_kind_suitability=code)


def test_n04_labels_that_share_end_points_stay_as_printed() -> None:
    assert _codes("枚举-可承受亏损") == {"1": "10%以内", "2": "10%-30%", "3": "30%-50%", "4": "超过50%", "255": "其他"}


def test_n05_currencies_are_exactly_six_codes_of_three_characters() -> None:
    name = "subject_registered_capital_currency"
    for code in ("156", "840", "036", "978", "276", "344"):
        assert not refused_pointers(ORDER, SUBJECT, **{name: code})
    for wrong in ("36", 36, 156, "392", "CNY", ""):
        assert refused_pointers(ORDER, SUBJECT, **{name: wrong}) == {name}


def test_n06_each_field_is_held_to_its_own_codes() -> None:
    for code, taken in ((1, True), (2, True), (0, False), (255, False)):
        assert ("risk_match_result" not in refused_pointers(ORDER, MATCH, risk_match_result=code)) == taken


def test_n07_label_of_the_self_employed_stays_as_printed() -> None:
    assert _codes("枚举-机构性质")["7"] == "个体工商"


def test_x01_enumeration_cut_by_the_page_is_that_of_ownership() -> None:
    assert builtin(ORDER).stage(SUBJECT).field("subject_ownership_nature").enum_title == "枚举-所有制性质"


def test_x02_type_cut_by_the_page_is_character() -> None:
    assert builtin(ORDER).stage(MATCH).field("suitability_agreement_name").type is FieldType.CHARACTER
    assert builtin(ORDER).stage(ENTRUST).field("product_name").type is FieldType.CHARACTER


def test_x03_entrustment_is_the_last_stage_of_the_run() -> None:
    assert builtin(ORDER).stages[-1].name == ENTRUST


def test_x04_shifted_row_is_a_code_of_the_organisation() -> None:
    assert _codes("枚举-机构性质")["255"] == "其他"


def test_w34_common_fields_are_those_of_the_two_subject_stages() -> None:
    for name in (PAPERS, ORDER):
        assert builtin(name).common == (SUBJECT, NODE)
    for number in (0, 1):
        papers, order = (builtin(name).stages[number].fields for name in (PAPERS, ORDER))
        assert [(entry.name, entry.title, entry.type, entry.max, entry.required) for entry in papers] == [
            (entry.name, entry.title, entry.type, entry.max, entry.required) for entry in order
        ]


# --- the list itself -------------------------------------------------------------------------------------------------


def _readme() -> str:
    return (Path(__file__).parents[2] / "models" / "README.md").read_text(encoding="utf-8")


def test_readme_lists_exactly_the_errata_that_are_tested_here() -> None:
    folder = Path(__file__).parent
    tests = {name for file in folder.glob("test_errata*.py") for name in TEST.findall(file.read_text(encoding="utf-8"))}
    listed = {match["test"]: match["ids"] for match in ROW.finditer(_readme())}
    assert set(listed) == tests
    assert all(test.startswith(f"test_{erratum.lower()}_") for test, erratum in listed.items())


def test_readme_says_something_of_every_erratum_once() -> None:
    named = [match["ids"] for match in ROW.finditer(_readme())]
    for match in REST.finditer(_readme()):
        named += re.findall(r"[A-Z]\d\d", match["ids"])
    assert sorted(named) == sorted(STANDARD["errata"])
