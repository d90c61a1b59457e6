"""Who may not see a personal value sees its mask; grade 4 is never shown."""

import pytest
from template_vectors import ORDER, field, template, vector

from models.example import example
from models.field import Mask
from models.masking import mask, masked, redacted
from models.template import builtin

MASKS = [(name, before, after) for name, pairs in vector("masks").items() for before, after in pairs]
SIGNING = "存证数据-事务环节-协议签署信息"


@pytest.mark.parametrize(("name", "before", "after"), MASKS)
def test_mask_gives_its_vector(name: str, before: str, after: str) -> None:
    assert masked(Mask(name), before) == after


def test_grade_four_is_never_shown_whatever_its_mask() -> None:
    stage = builtin(ORDER).stage(SIGNING)
    assert mask(stage.field("cust_certificate_dn"), "CN=张三,O=示例") == "***"
    shown = template(("甲", [field("a", grade=4)]), details={"甲": {"a": {"mask": "KEEP"}}}).stages[0].fields[0]
    assert mask(shown, "geheim") == "***"


def test_personal_field_without_a_mask_is_not_shown_and_another_is() -> None:
    of = template(
        ("甲", [field("a", grade=2), field("b", grade=1), field("c"), field("n", "NUMBER"), field("z", "BOOLEAN")])
    ).stages[0]
    assert [mask(entry, value) for entry, value in zip(of.fields, ["x", "x", " x ", 5, True], strict=True)] == [
        "***",
        "x",
        " x ",
        "5",
        "true",
    ]


def test_null_is_shown_as_nothing() -> None:
    assert all(mask(entry, None) == "" for stage in builtin(ORDER).stages for entry in stage.fields)


def test_file_is_shown_by_its_size_only() -> None:
    entry = builtin("file@1").stage("文件").field("object")
    value = example(builtin("file@1"), seed=b"m", client_key="k")["stages"]["文件"]["object"]
    assert mask(entry, value) == f"〔文件 {value['size']} 字节〕"


def test_code_is_shown_with_its_title_and_objects_member_by_member() -> None:
    of = builtin(ORDER)
    assert mask(of.stage("存证数据-客户账号信息").field("account_status"), 3) == "3 冻结"
    entry = of.stages[0].field("subject_document_information")
    assert mask(entry, [{"type": 1, "code": "91"}]) == "type 1 社会统一信用代码、code 91"


def test_no_personal_text_of_a_whole_example_is_shown_in_clear() -> None:
    of = builtin(ORDER)
    made = example(of, seed=b"m", client_key="k")["stages"]
    for stage in of.stages:
        for entry in stage.fields:
            value = made[stage.name][entry.name]
            hidden = entry.detail.mask not in {None, Mask.KEEP, Mask.REDACT_TEXT}
            if hidden and isinstance(value, str):
                assert value not in mask(entry, value), entry.name


def test_redacting_numbers_each_distinct_thing_and_leaves_the_rest() -> None:
    assert redacted("13800138000 与 13900139000 与 138 0013 8000") == "〔PHONE#1〕 与 〔PHONE#2〕 与 〔PHONE#1〕"
    assert redacted("１３８００１３８０００") == "〔PHONE#1〕"
    assert redacted("净值 1.2345，20261121") == "净值 1.2345，20261121"
