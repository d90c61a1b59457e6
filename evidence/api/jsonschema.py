"""A template as JSON Schema (2020-12), for clients that check a submission before they send it.

The schema says what JSON Schema can say; rules across fields and the exact forms of numbers in
text stay with the service, which lists every fault of a submission at once.
"""

from __future__ import annotations

from models.canonical import JSONValue
from models.field import Field, FieldType
from models.template import StageTemplate, Template

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DIGEST = {"type": "string", "pattern": "^(sm3|sha256):[0-9a-f]{64}$"}

_FORMS: dict[FieldType, dict[str, JSONValue]] = {
    FieldType.CHARACTER: {"type": "string"},
    FieldType.TEXT: {"type": "string"},
    FieldType.NUMBER: {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1},
    FieldType.DECIMAL: {"type": "string", "pattern": r"^-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?$"},
    FieldType.DATE: {"type": "string", "format": "date"},
    FieldType.TIME: {"type": "string", "format": "date-time"},
    FieldType.BOOLEAN: {"type": "boolean"},
    FieldType.FILE_OBJECT: {
        "type": "object",
        "properties": {
            "digest": _DIGEST,
            "name": {"type": "string"},
            "size": {"type": "integer", "minimum": 0},
            "twin": _DIGEST,
        },
        "required": ["digest", "name", "size"],
        "additionalProperties": False,
    },
    FieldType.OBJECT_ARRAY: {"type": "array", "items": {"type": "object"}},
}


def _field(field: Field) -> dict[str, JSONValue]:
    form = dict(_FORMS[field.type])
    if field.items:
        form["items"] = _object(field.items)
    if field.max is not None and form["type"] == "string":
        form["maxLength"] = field.max
    if field.enum is not None:
        form["enum"] = list(field.enum)
        form["description"] = "；".join(f"{code} {title}" for code, title in field.enum.items())
    form["title"] = field.title
    if field.clause:
        form["$comment"] = field.clause
    if not field.required and "enum" not in form:
        form["type"] = [form["type"], "null"]
    return form


def _object(fields: tuple[Field, ...]) -> dict[str, JSONValue]:
    return {
        "type": "object",
        "properties": {field.name: _field(field) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _stage(stage: StageTemplate) -> dict[str, JSONValue]:
    return _object(stage.fields)


def stages_schema(template: Template) -> dict[str, JSONValue]:
    """The JSON Schema of the member `stages` of a submission of `template`.

    Source: T/SAC 004—2024 App. A, B; formats §11 (Template, Values).
    """
    return {
        "$schema": DIALECT,
        "title": f"{template.name} {template.title}",
        "type": "object",
        "properties": {stage.name: _stage(stage) for stage in template.stages},
        "required": [stage.name for stage in template.stages if stage.required],
        "additionalProperties": False,
        "minProperties": 1,
    }


def template_summary(template: Template) -> dict[str, JSONValue]:
    """A template in a list."""
    return {
        "name": template.name,
        "title": template.title,
        "biz_name": template.biz_name,
        "commitment": template.commitment.value,
        "model": template.model.value,
        "personal": template.personal,
        "digest": template.pair.to_json(),
    }
