"""Templates: which stages and fields an item has, read from versioned data files.

A template is strict JSON and is hashed as its bytes. A verifier reads its schema only; the service
that takes submissions in also reads the further members (`details`, `rules` …), which say how a
field is shown, masked and checked beyond its type. A published version never changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

from models import validation
from models.canonical import JSONValue, canonical_text, parse
from models.digest import Pair, pair
from models.errors import Invalid, Malformed, Unknown, VerificationError
from models.field import Field, FieldType, Mask, described, field_time, satisfies
from models.names import check_format
from models.opaque import check_opaque

__all__ = [
    "Commitment",
    "DataModel",
    "Field",
    "FieldType",
    "Search",
    "StageTemplate",
    "Template",
    "builtin",
    "builtin_names",
    "check_opaque",
    "field_time",
    "personal_values",
]

MAX_TEMPLATE_BYTES: Final = 256 * 1024
MAX_STAGES: Final = 32
MAX_FIELDS: Final = 512
MAX_NAME: Final = 128
PERSONAL_GRADE: Final = 2
GRADES: Final = (1, 4)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}@[1-9][0-9]{0,5}", re.ASCII)
_CODE = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCHEMA = frozenset({"bizName", "commitment", "format", "name", "title", "stages", "enums"})
_FIELD_NEEDS = frozenset({"name", "title", "type", "required"})
_FIELD_TAKES = _FIELD_NEEDS | {"max", "enum", "grade", "search", "clause"}
_TEXT_TYPES = frozenset({FieldType.CHARACTER, FieldType.TEXT})


class Commitment(StrEnum):
    """How an item of the template reaches the chain (T/SAC 004—2024 6.4.4 c): in clear, by digest, or by the log's root."""

    PLAINTEXT = "plaintext"
    HASH = "hash"
    MERKLE = "merkle"


class Search(StrEnum):
    """How a field can be looked up."""

    EXACT = "exact"


class DataModel(StrEnum):
    """The three data models of T/SAC 004—2024 7.1: single point, chain data (链式), streaming data (流式)."""

    SINGLE = "single"
    CHAIN = "chain"
    STREAM = "stream"


@dataclass(frozen=True, slots=True, eq=False)
class StageTemplate:
    """One stage: `name` is the standard's literal, `start` the place of its first field in the template."""

    name: str
    required: bool
    fields: tuple[Field, ...]
    start: int
    by_name: Mapping[str, Field] = attribute(repr=False)
    frames: tuple[bytes, ...] = attribute(repr=False)
    """The bytes of each field's d between salt and value: made once, because every item of the template repeats it."""

    def field(self, name: str) -> Field:
        """The field called `name`.

        Raises: Malformed if the stage has none of that name.
        """
        found = self.by_name.get(name)
        if found is None:
            raise Malformed(f"field is none of the stage's: expected one of {len(self.fields)} names (stage {self.name})")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A template and the two digests of its bytes.

    `model`, `common`, `link_field` and `rules` come from further members: they are at their defaults
    where the template was read for verification only.
    """

    name: str
    title: str
    biz_name: str
    commitment: Commitment
    stages: tuple[StageTemplate, ...]
    data: bytes = attribute(repr=False)
    pair: Pair = attribute(repr=False)
    by_name: Mapping[str, StageTemplate] = attribute(repr=False)
    model: DataModel = DataModel.SINGLE
    standard: str = ""
    common: tuple[str, ...] = ()
    link_field: str | None = None
    rules: tuple[validation.Rule, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Template:
        """The template as a verifier reads it: the schema alone, further top-level members unread.

        Shapes: strict JSON (not necessarily canonical), ≤ 256 KiB, 1–32 stages, ≤ 512 fields.
        Raises: Malformed if the bytes are outside the schema; Unknown for another version of it.
        Source: formats §11 (Template); T/SAC 004—2024 7.1-p1.
        """
        schema, _ = _split(data)
        return _built(data, schema, {})

    @classmethod
    def adopt(cls, data: bytes) -> Template:
        """The template as the service uses it: further members are read too and refused if not understood.

        Raises: Malformed if the schema or a further member is wrong; Unknown for another version.
        Source: ours: a rule that intake cannot read would be a rule that nobody keeps.
        """
        schema, further = _split(data)
        return _built(data, schema, further)

    @property
    def personal(self) -> bool:
        """Whether any field is personal information of grade 2 or above (such a template is never PLAINTEXT)."""
        return any((f.grade or 0) >= PERSONAL_GRADE for stage in self.stages for f in stage.fields)

    @property
    def field_count(self) -> int:
        """How many fields the template has over all its stages: as many salts as an item needs."""
        last = self.stages[-1]
        return last.start + len(last.fields)

    def stage(self, name: str) -> StageTemplate:
        """The stage called `name`.

        Raises: Malformed if the template has none of that name.
        """
        found = self.by_name.get(name)
        if found is None:
            raise Malformed(f"stage is none of the template's: expected one of {len(self.stages)} names (template {self.name})")
        return found

    def validate(self, stages: Mapping[str, Mapping[str, JSONValue]], *, link_code: str | None = None) -> None:
        """Return if the submitted `stages` satisfy the template; `link_code` is the submission's, if it is part of a chain.

        Raises: Invalid with *all* problems: pointer, field, 中文名称, expected form with an example,
            got (type and length, never the value), clause.
        Source: T/SAC 004—2024 6.4.2-a, 7.1-p1; App. A, B.
        """
        problems = validation.problems(self, stages, link_code=link_code)
        if problems:
            count = len(problems)
            raise Invalid(
                f"submission breaks its template: {count} problem{'s' if count > 1 else ''} (template {self.name})",
                tuple(problems),
            )

    def check_value(self, stage_name: str, field_name: str, value: JSONValue) -> None:
        """Return if the disclosed `value`, judged alone, satisfies its field.

        Raises: VerificationError if stage or field is none of the template's or the value breaks the field;
            Unknown if a file's digest names an algorithm that is none of ours.
        Source: formats §4 check 6, §11 (Template, Values).
        """
        stage = self.by_name.get(stage_name)
        found = stage.by_name.get(field_name) if stage else None
        if found is None:
            raise VerificationError(f"disclosed field is none of the template's (template {self.name})")
        if not satisfies(found, value):
            raise VerificationError(f"disclosed value breaks its field: got {described(value)} (field {field_name})")


def _split(data: bytes) -> tuple[dict[str, JSONValue], dict[str, JSONValue]]:
    value = parse(data, max_bytes=MAX_TEMPLATE_BYTES)
    if not isinstance(value, dict):
        raise Malformed("template is not an object")
    check_format(value, "cz-template")
    lacking = sorted(_SCHEMA - {"enums"} - set(value))
    if lacking:
        raise Malformed(f"template lacks a member: expected {lacking[0]}")
    return {key: value[key] for key in value if key in _SCHEMA}, {key: value[key] for key in value if key not in _SCHEMA}


def _label(value: JSONValue, what: str, limit: int = MAX_NAME) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= limit or _CONTROL.search(value):
        raise Malformed(f"{what} has wrong form: expected 1 to {limit} characters without control characters")
    return value


def _flag(value: JSONValue, what: str) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"{what} is not true or false")
    return value


def _enums(value: JSONValue) -> dict[str, dict[str, str]]:
    """The enumerations of the template: by name, each code (as text, a member name of JSON) and its title."""
    if not isinstance(value, dict):
        raise Malformed("enums of the template is not an object")
    for name, codes in value.items():
        _label(name, "name of an enumeration")
        if not isinstance(codes, dict) or not codes:
            raise Malformed("enumeration of the template is not an object of codes and titles")
        for code, title in codes.items():
            _label(code, "code of an enumeration")
            _label(title, "title of a code")
    return value


def _codes(name: JSONValue, kind: FieldType, enums: Mapping[str, Mapping[str, str]]) -> dict[int | str, str]:
    """The codes of the enumeration `name` as a field of type `kind` has them: integers for NUMBER, text for CHARACTER."""
    if not isinstance(name, str) or name not in enums:
        raise Malformed("enum of a field is wrong: expected the name of one of the template's enums")
    if kind is FieldType.CHARACTER:
        return {code: title for code, title in enums[name].items()}  # noqa: C416 - wider keys than dict() gives
    if kind is not FieldType.NUMBER or not all(_CODE.fullmatch(code) for code in enums[name]):
        raise Malformed("enum of a field is of another type: expected integer codes for NUMBER, text codes for CHARACTER")
    return {int(code): title for code, title in enums[name].items()}


def _field(value: JSONValue, place: int, enums: Mapping[str, Mapping[str, str]]) -> Field:
    if not isinstance(value, dict):
        raise Malformed("field of the template is not an object")
    if not _FIELD_NEEDS <= set(value) <= _FIELD_TAKES:
        raise Malformed(
            "field of the template has wrong members: expected name, title, type, required"
            " and perhaps max, enum, grade, search, clause"
        )
    kind = value["type"]
    if not isinstance(kind, str) or kind not in FieldType.__members__:
        raise Malformed(f"field of the template has an unknown type: expected one of {', '.join(FieldType)}")
    kind = FieldType(kind)
    limit, grade, search = value.get("max"), value.get("grade"), value.get("search")
    if "max" in value and not (type(limit) is int and limit > 0 and kind in _TEXT_TYPES):
        raise Malformed("max of a field is wrong: expected a positive integer, of CHARACTER or TEXT only")
    if "grade" in value and not (type(grade) is int and GRADES[0] <= grade <= GRADES[1]):
        raise Malformed("grade of a field is wrong: expected 1 to 4")
    if "search" in value and search != Search.EXACT:
        raise Malformed("search of a field is wrong: expected exact")
    return Field(
        name=_label(value["name"], "name of a field"),
        title=_label(value["title"], "title of a field"),
        type=kind,
        required=_flag(value["required"], "required of a field"),
        place=place,
        max=limit,
        enum=_codes(value["enum"], kind, enums) if "enum" in value else None,
        enum_title=value.get("enum", ""),
        grade=grade,
        search="search" in value,
        clause=_label(value["clause"], "clause of a field") if "clause" in value else "",
    )


def _stage(value: JSONValue, start: int, enums: Mapping[str, Mapping[str, str]]) -> StageTemplate:
    if not isinstance(value, dict) or not {"name", "fields"} <= set(value) <= {"name", "fields", "required"}:
        raise Malformed("stage of the template has wrong members: expected name, fields and perhaps required")
    name = _label(value["name"], "name of a stage")
    if not isinstance(value["fields"], list) or not value["fields"]:
        raise Malformed("stage of the template has no fields")
    fields = tuple(_field(entry, start + offset, enums) for offset, entry in enumerate(value["fields"]))
    return _stage_of(name, _flag(value.get("required", False), "required of a stage"), fields, start)


def _stage_of(name: str, required: bool, fields: tuple[Field, ...], start: int) -> StageTemplate:  # noqa: FBT001 - a value, not a switch
    by_name = {entry.name: entry for entry in fields}
    if len(by_name) != len(fields):
        raise Malformed(f"stage of the template has a field twice (stage {name})")
    stage_text = canonical_text(name)
    frames = tuple(f'",{stage_text},{canonical_text(entry.name)},'.encode() for entry in fields)
    return StageTemplate(name, required, fields, start, by_name, frames)


def _built(data: bytes, schema: dict[str, JSONValue], further: dict[str, JSONValue]) -> Template:
    name = schema["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Malformed("name of the template has wrong form: expected for example file@1")
    if not isinstance(schema["commitment"], str) or schema["commitment"] not in set(Commitment):
        raise Malformed("commitment of the template is wrong: expected plaintext, hash or merkle")
    if not isinstance(schema["stages"], list) or not 1 <= len(schema["stages"]) <= MAX_STAGES:
        raise Malformed(f"template has wrong number of stages: expected 1 to {MAX_STAGES}")
    enums, stages, start = _enums(schema.get("enums", {})), [], 0
    for entry in schema["stages"]:
        stage = _stage(entry, start, enums)
        stages.append(stage)
        start += len(stage.fields)
        if start > MAX_FIELDS:
            raise Malformed(f"template has too many fields: expected at most {MAX_FIELDS}")
    if len({stage.name for stage in stages}) != len(stages):
        raise Malformed("template has a stage name twice")
    extras = validation.read_further(further, tuple(stages), lambda enum, kind: _codes(enum, kind, enums))
    stages = [
        _stage_of(stage.name, stage.required, tuple(extras.detailed(stage.name, entry) for entry in stage.fields), stage.start)
        for stage in stages
    ]
    template = Template(
        name=name,
        title=_label(schema["title"], "title of the template"),
        biz_name=_label(schema["bizName"], "bizName of the template"),
        commitment=Commitment(schema["commitment"]),
        stages=tuple(stages),
        data=data,
        pair=pair(data),
        by_name={stage.name: stage for stage in stages},
        model=DataModel(extras.model),
        standard=extras.standard,
        common=extras.common,
        link_field=extras.link_field,
        rules=extras.rules,
    )
    if template.commitment is Commitment.PLAINTEXT and template.personal:
        raise Malformed("template is plaintext and has a personal field of grade 2 or above: expected hash or merkle")
    return template


@cache
def builtin(name: str) -> Template:
    """The template of that name that came with this program.

    Raises: Unknown if there is none.
    """
    if name not in builtin_names():
        raise Unknown(f"template is unknown: expected one of {', '.join(builtin_names())}")
    return Template.adopt((files("models") / "templates" / f"{name}.json").read_bytes())


@cache
def builtin_names() -> tuple[str, ...]:
    """The names of the templates that came with this program, sorted."""
    folder = files("models") / "templates"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def personal_values(template: Template, stages: Mapping[str, Mapping[str, JSONValue]]) -> Collection[str]:
    """The texts of personal fields (grade 3 and above, not shown as they are): none may recur in a client_key or link code."""
    return {
        value
        for stage, names in _personal_names(template)
        if (values := stages.get(stage))
        for name in names
        if isinstance(value := values.get(name), str) and len(value) >= validation.MIN_TELLING
    }


@lru_cache(maxsize=64)
def _personal_names(template: Template) -> list[tuple[str, list[str]]]:
    def tells(entry: Field) -> bool:
        return (entry.grade or 0) > PERSONAL_GRADE and entry.detail.mask is not Mask.KEEP

    return [(stage.name, [entry.name for entry in stage.fields if tells(entry)]) for stage in template.stages]
