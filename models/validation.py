"""What intake demands of submitted stages, and the further members of a template that say so.

All problems of a submission are found at once. The rules that a template may name are a closed set
of kinds; nothing is ever evaluated. A verifier does not read this part of a template.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from models.canonical import JSONValue
from models.errors import Malformed, Problem
from models.field import (
    NO_DETAIL,
    Choice,
    Detail,
    Field,
    FieldType,
    Form,
    Mask,
    described,
    expectation,
    is_acceptable,
)

if TYPE_CHECKING:
    from models.template import StageTemplate, Template

_OBJECT = (dict, Mapping)
"""Told at once by its first member, which nearly every object is; the second asks an abstract class."""
MAX_PROBLEMS: Final = 1000
MIN_TELLING: Final = 6
_MAX_GUESSED: Final = 16
_MAX_NAME: Final = 128
_FURTHER = frozenset({"common", "details", "link_field", "model", "rules", "standard"})
_DETAIL = frozenset({"also", "choice", "errata", "form", "items", "mask", "note", "reading", "twin_required"})
_MODELS = frozenset({"single", "chain", "stream"})
_ITEM_TYPES = frozenset(
    {FieldType.CHARACTER, FieldType.NUMBER, FieldType.BOOLEAN, FieldType.TIME, FieldType.DATE, FieldType.DECIMAL}
)


Codes = Callable[[JSONValue, FieldType], dict[int | str, str]]
"""The codes of a named enumeration as values of that type; Malformed if there is none such."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Values that must be equal wherever they are given: (stage, field) or (stage, field, member of a FILE_OBJECT)."""

    kind: str
    paths: tuple[tuple[str, ...], ...]
    clause: str


@dataclass(frozen=True, slots=True)
class Further:
    """The further members of a template."""

    model: str
    standard: str
    common: tuple[str, ...]
    link_field: str | None
    rules: tuple[Rule, ...]
    details: Mapping[tuple[str, str], Detail]

    def detailed(self, stage_name: str, field: Field) -> Field:
        """`field` together with its detail."""
        detail = self.details.get((stage_name, field.name), NO_DETAIL)
        return field if detail is NO_DETAIL else replace(field, detail=detail)


def read_further(value: Mapping[str, JSONValue], stages: tuple[StageTemplate, ...], codes: Codes) -> Further:
    """The further members of a template whose schema has been read.

    Raises: Malformed if a member is unknown, has a wrong form, or names a stage or field that is not there.
    """
    unknown = sorted(set(value) - _FURTHER)
    if unknown:
        raise Malformed(f"template has an unknown member: expected only {', '.join(sorted(_FURTHER))} beside the schema")
    fields = {(stage.name, field.name): field for stage in stages for field in stage.fields}
    model, common, link = value.get("model", "single"), value.get("common", []), value.get("link_field")
    if not isinstance(model, str) or model not in _MODELS:
        raise Malformed("model of the template is wrong: expected single, chain or stream")
    if not set(_texts(common, "common of the template")) <= {stage.name for stage in stages}:
        raise Malformed("common of the template names a stage that is not there")
    if link is not None and link not in [name for _, name in fields]:
        raise Malformed("link_field of the template names a field that is not there")
    rules = value.get("rules", [])
    if not isinstance(rules, list):
        raise Malformed("rules of the template is not an array")
    return Further(
        model=model,
        standard=_text(value.get("standard", ""), "standard of the template"),
        common=tuple(common),
        link_field=link,
        rules=tuple(_rule(rule, fields) for rule in rules),
        details=dict(_details(value.get("details", {}), fields, codes)),
    )


def _text(value: JSONValue, what: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{what} is not text")
    return value


def _texts(value: JSONValue, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        raise Malformed(f"{what} is not an array of texts")
    return value


def _rule(value: JSONValue, fields: Mapping[tuple[str, str], Field]) -> Rule:
    if not isinstance(value, dict) or set(value) != {"kind", "fields", "clause"} or value["kind"] != "equal":
        raise Malformed("rule of the template is wrong: expected kind equal, fields and clause")
    if not isinstance(value["fields"], list):
        raise Malformed("fields of a rule is not an array")
    paths = tuple(tuple(_texts(path, "path of a rule")) for path in value["fields"])
    if not all(path[:2] in fields and len(path) in {2, 3} for path in paths):
        raise Malformed("rule of the template names a field that is not there")
    return Rule("equal", paths, _text(value["clause"], "clause of a rule"))


def _details(value: JSONValue, fields: Mapping[tuple[str, str], Field], codes: Codes) -> Iterator[tuple[tuple[str, str], Detail]]:
    if not isinstance(value, dict) or not all(isinstance(entries, dict) for entries in value.values()):
        raise Malformed("details of the template is wrong: expected an object of stages, each an object of fields")
    for stage_name, entries in value.items():
        for name, entry in entries.items():
            field = fields.get((stage_name, name))
            if field is None:
                raise Malformed("details of the template names a field that is not there")
            if not isinstance(entry, dict) or not set(entry) <= _DETAIL:
                raise Malformed(f"details of a field have an unknown member: expected only {', '.join(sorted(_DETAIL))}")
            yield (stage_name, name), _detail(entry, field, codes)


def _detail(value: dict[str, JSONValue], field: Field, codes: Codes) -> Detail:
    form, items, twin = value.get("form"), value.get("items"), value.get("twin_required", False)
    if form is not None and (form not in list(Form) or field.type not in {FieldType.CHARACTER, FieldType.TEXT}):
        raise Malformed("form of a field is wrong: expected number, count or date, of a CHARACTER or TEXT field")
    if items is not None and (field.type is not FieldType.OBJECT_ARRAY or not isinstance(items, list) or not items):
        raise Malformed("items of a field is wrong: expected a non-empty array, of an OBJECT_ARRAY field")
    if not isinstance(twin, bool) or (twin and field.type is not FieldType.FILE_OBJECT):
        raise Malformed("twin_required of a field is wrong: expected true or false, of a FILE_OBJECT field")
    members = tuple(_item(item, codes) for item in items or ())
    return Detail(
        note=_text(value.get("note", ""), "note of a field"),
        also=tuple(_texts(value.get("also", []), "also of a field")),
        reading=_text(value.get("reading", ""), "reading of a field"),
        errata=tuple(_texts(value.get("errata", []), "errata of a field")),
        mask=_mask(value.get("mask")),
        form=None if form is None else Form(form),
        items=members,
        choice=_choice(value["choice"], members) if "choice" in value else None,
        twin_required=twin,
    )


def _mask(value: JSONValue) -> Mask | None:
    if value is not None and value not in list(Mask):
        raise Malformed("mask of a field is unknown: expected for example MASK_NAME or KEEP")
    return None if value is None else Mask(value)


def _item(value: JSONValue, codes: Codes) -> Field:
    if not isinstance(value, dict) or not {"name", "title", "type", "required"} <= set(value) <= {
        "name",
        "title",
        "type",
        "required",
        "enum",
        "mask",
    }:
        raise Malformed("item of a field has wrong members: expected name, title, type, required and perhaps enum, mask")
    kind, enum = value["type"], value.get("enum")
    if kind not in list(_ITEM_TYPES):
        raise Malformed("item of a field has a type that an item cannot have")
    return Field(
        name=_text(value["name"], "name of an item"),
        title=_text(value["title"], "title of an item"),
        type=FieldType(kind),
        required=value["required"] is True,
        enum=None if enum is None else codes(enum, FieldType(kind)),
        detail=Detail(mask=_mask(value.get("mask"))),
    )


def _choice(value: JSONValue, items: tuple[Field, ...]) -> Choice:
    if not isinstance(value, dict) or set(value) != {"by", "sets", "expected"} or not isinstance(value["sets"], list):
        raise Malformed("choice of a field is wrong: expected by, sets and expected")
    if value["by"] not in [item.name for item in items] or not all(
        isinstance(codes, list) and all(type(code) in {int, str} for code in codes) for codes in value["sets"]
    ):
        raise Malformed("choice of a field is wrong: expected by to name an item and sets to be arrays of codes")
    return Choice(
        value["by"], tuple(frozenset(codes) for codes in value["sets"]), _text(value["expected"], "expected of a choice")
    )


def escaped(name: str) -> str:
    """`name` as a token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def problems(template: Template, stages: JSONValue, *, link_code: str | None) -> list[Problem]:
    """Every problem of `stages` under `template`, in template order, at most 1,000; empty if there is none."""
    if not isinstance(stages, _OBJECT) or not stages:
        return [
            _problem(
                "/stages",
                "stages",
                "环节",
                "an object with at least one stage, each an object of fields",
                described(stages),
                "6.4.2-a",
            )
        ]
    findings = _across(template, stages, link_code) if _fits(template, stages) else _all(template, stages, link_code)
    found: list[Problem] = []
    for finding in findings:
        found.append(finding)
        if len(found) == MAX_PROBLEMS:
            break
    return found


def _problem(pointer: str, field: str, title: str, expected: str, got: str, clause: str) -> Problem:
    return Problem(pointer=pointer, field=field, field_zh=title, expected=expected, got=got, clause=clause)


def _all(template: Template, stages: Mapping[str, JSONValue], link_code: str | None) -> Iterator[Problem]:
    yield from unknown_members(
        "/stages", "stage", "环节", stages, [stage.name for stage in template.stages], template.standard or template.name
    )
    for stage in template.stages:
        pointer = f"/stages/{escaped(stage.name)}"
        if stage.name not in stages:
            if stage.required:
                yield _problem(pointer, stage.name, stage.name, "a stage that must be given", "nothing", stage.fields[0].clause)
            continue
        values = stages[stage.name]
        if not isinstance(values, Mapping):
            yield _problem(pointer, stage.name, stage.name, "an object of fields", described(values), stage.fields[0].clause)
            continue
        yield from unknown_members(
            pointer, "field", stage.name, values, [field.name for field in stage.fields], stage.fields[0].clause
        )
        if all(values.get(field.name) is None for field in stage.fields):
            yield _problem(
                pointer, stage.name, stage.name, "at least one field with a value", "no value at all", stage.fields[0].clause
            )
        for field in stage.fields:
            yield from _of_field(field, values.get(field.name), pointer, given=field.name in values)
    yield from _across(template, stages, link_code)


def _across(template: Template, stages: Mapping[str, JSONValue], link_code: str | None) -> Iterator[Problem]:
    """The problems of values that do not go together."""
    yield from _of_links(template, stages, link_code)
    for rule in template.rules:
        yield from _of_rule(rule, template, stages)


def _fits(template: Template, stages: Mapping[str, JSONValue]) -> bool:
    """Whether each value by itself is surely right: what nearly every submission is, told without making any text.

    Where it cannot tell, it says no, and `_all` looks at each value again.
    """
    if not stages.keys() <= template.by_name.keys():
        return False
    return all(
        _stage_fits(stage, stages[stage.name]) if stage.name in stages else not stage.required for stage in template.stages
    )


def _stage_fits(stage: StageTemplate, values: JSONValue) -> bool:
    if not isinstance(values, dict) or not values.keys() <= stage.by_name.keys():
        return False
    given = False
    for field in stage.fields:
        value = values.get(field.name)
        if value is None:
            if field.required:
                return False
        elif not field.accepts(value) or (field.detail.items and next(_of_items(field, value, ""), None)):
            return False
        else:
            given = True
    return given


def unknown_members(
    pointer: str,
    what: str,
    title: str,
    given: Mapping[str, JSONValue],
    known: Collection[str],
    clause: str,
    *,
    of: str = "the template",
) -> Iterator[Problem]:
    """One problem for each member that `known` lacks, at most 32. No name is repeated: it may be somebody's personal value."""
    unknown = [name for name in given if name not in known]
    for name in unknown[:_MAX_GUESSED]:
        near = get_close_matches(name, known, n=1, cutoff=0.6) if isinstance(name, str) and len(name) <= _MAX_NAME else []
        hint = f"perhaps {near[0]}" if near else f"one of {', '.join(known)}"
        length = f" with a name of {len(name)} characters" if isinstance(name, str) else ""
        yield _problem(pointer, what, title, f"only the {what}s of {of}, {hint}", f"an unknown {what}{length}", clause)
    if len(unknown) > _MAX_GUESSED:
        yield _problem(
            pointer,
            what,
            title,
            f"only the {what}s of {of}",
            f"{len(unknown) - _MAX_GUESSED} more unknown {what}s",
            clause,
        )


def _of_field(field: Field, value: JSONValue, pointer: str, *, given: bool) -> Iterator[Problem]:
    here = f"{pointer}/{escaped(field.name)}"
    if not is_acceptable(field, value):
        yield _problem(here, field.name, field.title, expectation(field), described(value) if given else "nothing", field.clause)
    elif field.items and value is not None:
        yield from _of_items(field, value, here)


def _of_items(field: Field, value: list[dict[str, JSONValue]], pointer: str) -> Iterator[Problem]:
    names = [item.name for item in field.items]
    for index, element in enumerate(value):
        here = f"{pointer}/{index}"
        yield from unknown_members(here, "member", field.title, element, names, field.clause)
        for item in field.items:
            for found in _of_field(item, element.get(item.name), here, given=item.name in element):
                yield replace(found, clause=field.clause)
    choice = field.detail.choice
    if choice is not None:
        codes = [element.get(choice.by) for element in value]
        if not any(len(codes) == len(wanted) and set(codes) == wanted for wanted in choice.sets):
            yield _problem(
                pointer,
                field.name,
                field.title,
                choice.expected,
                f"an array of {len(value)} elements with other codes",
                field.clause,
            )


def _of_links(template: Template, stages: Mapping[str, JSONValue], link_code: str | None) -> Iterator[Problem]:
    """One code for one run of the process (erratum T11): the same in every stage, and the submission's link code."""
    if template.link_field is None:
        return
    first = link_code
    for stage in template.stages:
        field, values = stage.by_name.get(template.link_field), stages.get(stage.name)
        value = values.get(field.name) if field is not None and isinstance(values, _OBJECT) else None
        if field is None or not isinstance(value, str):
            continue
        if first is not None and value != first:
            wanted = "the same code as link.code" if link_code is not None else "the same code in every stage of one run"
            yield _problem(
                f"/stages/{escaped(stage.name)}/{escaped(field.name)}",
                field.name,
                field.title,
                wanted,
                "another code",
                field.clause,
            )
        first = first or value


def _of_rule(rule: Rule, template: Template, stages: Mapping[str, JSONValue]) -> Iterator[Problem]:
    given: list[tuple[tuple[str, ...], JSONValue]] = []
    for path in rule.paths:
        value: JSONValue = stages
        for step in path:
            value = value.get(step) if isinstance(value, _OBJECT) else None
        if value is not None:
            given.append((path, value))
    for path, value in given[1:]:
        if value != given[0][1]:
            field = template.by_name[path[0]].by_name[path[1]]
            first = "/".join(("", "stages", *map(escaped, given[0][0])))
            here = "/".join(("", "stages", *map(escaped, path)))
            yield _problem(here, field.name, field.title, f"the same value as {first}", "another value", rule.clause)
