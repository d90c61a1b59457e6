"""Synthetic submissions that satisfy their templates: for a first try, for demonstrations, for tests. Nobody in them exists."""

from __future__ import annotations

from collections.abc import Collection

from models.canonical import JSONValue
from models.digest import pair
from models.field import Field, FieldType, Form
from models.template import DataModel, StageTemplate, Template

_MORNING = "2026-11-21T10:32:05+08:00"
_FILE = "示例文件，内容为虚构。\n".encode()
_FORMS = {Form.NUMBER: "12.50", Form.COUNT: "4", Form.DATE: "2026-11-21"}
_TEXTS = {
    "subject_company_name": "示例证券股份有限公司",
    "subject_company_english_name": "Example Securities Co., Ltd.",
    "subject_internet_address": "https://www.example.cn",
    "node_ip": "192.0.2.10",
    "project_code": "EX-2026-0001",
    "project_name": "示例科技首次公开发行项目",
    "working_papers_project_code": "EX-2026-0001",
    "working_papers_project_name": "示例科技首次公开发行项目",
    "working_papers_name": "尽职调查报告（示例）.pdf",
    "product_code": "000000",
    "product_name": "示例稳健混合型基金",
    "account_code": "示例账号一",
    "login_ip": "192.0.2.44",
    "entrust_number": "EX-20261121-0001",
}
_NAMED_HASH = ("working_papers_hash", "agreement_hash", "suitability_agreement_hash")
_EMPTY_CODE = "空值"


def _file_object(name: str) -> dict[str, JSONValue]:
    digests = pair(_FILE)
    return {
        "digest": f"sm3:{digests.sm3.hex()}",
        "name": name,
        "size": len(_FILE),
        "twin": f"sha256:{digests.sha256.hex()}",
    }


def _objects(field: Field) -> list[dict[str, JSONValue]]:
    choice = field.detail.choice
    rows: list[dict[str, JSONValue]] = []
    for code in sorted(choice.sets[0], key=str) if choice else [None]:
        row = {item.name: _value(item, "") for item in field.items}
        if choice:
            row[choice.by] = code
        rows.append(row)
    return rows


def _value(field: Field, code: str) -> JSONValue:
    if field.enum is not None:
        return next(key for key, title in field.enum.items() if title != _EMPTY_CODE)
    if field.type is FieldType.FILE_OBJECT:
        return _file_object("示例文件.txt")
    if field.type is FieldType.OBJECT_ARRAY:
        return _objects(field)
    fixed: dict[FieldType, JSONValue] = {
        FieldType.NUMBER: len(_FILE),
        FieldType.DECIMAL: "1000000.5",
        FieldType.DATE: "2026-11-21",
        FieldType.TIME: _MORNING,
        FieldType.BOOLEAN: True,
    }
    if field.type in fixed:
        return fixed[field.type]
    if field.name in _NAMED_HASH:
        return pair(_FILE).sm3.hex()
    if field.detail.form is not None:
        return _FORMS[field.detail.form]
    text = _TEXTS.get(field.name, f"示例{field.title}")
    return text if field.max is None else text[: field.max]


def _stage(template: Template, stage: StageTemplate, code: str) -> dict[str, JSONValue]:
    return {field.name: code if field.name == template.link_field else _value(field, code) for field in stage.fields}


def example(
    template: Template, *, client_key: str, link_code: str, stages: Collection[str] | None = None
) -> dict[str, JSONValue]:
    """A valid submission of `template`, every field filled; `stages` limits it to those.

    Shapes: `client_key` and `link_code` opaque, fresh for each; the link is there for chain data only.
    """
    chosen = {
        stage.name: _stage(template, stage, link_code) for stage in template.stages if stages is None or stage.name in stages
    }
    for values in chosen.values():
        if {"file_name", "file_size", "object"} <= set(values):
            values |= {"file_name": "示例文件.txt", "media_type": "text/plain"}
    submission: dict[str, JSONValue] = {"template": template.name, "client_key": client_key, "stages": chosen}
    if template.model is DataModel.CHAIN:
        submission["link"] = {"code": link_code}
    return submission
