"""What is disclosed is proven field by field; every change to it is refused."""

import base64
import copy
import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_vectors import ORDER, committed, field, template, vector

from models.canonical import canonical, parse
from models.commitment import check_stages, disclose, verify_disclosure, verify_stage_data
from models.digest import Pair
from models.errors import EvidenceError, Malformed, Unknown, VerificationError
from models.example import example
from models.template import Template, builtin

CASES = vector("disclosures")["cases"]
TWO = (("甲", [field(name) for name in "abcde"]), ("乙", [field(name) for name in "xy"]))
VALUES = {"甲": {name: f"值{name}" for name in "abcde"}, "乙": {"x": "1"}}


def _judge(case: dict[str, Any]) -> None:
    of = Template.parse(case["template"].encode())
    for opened in verify_disclosure(of, case["stages"], parse(case["disclosure"].encode())):
        of.check_value(opened.stage, opened.field, opened.value)


@pytest.mark.parametrize("case", [case for case in CASES if case["step"] is None], ids=lambda case: case["name"])
def test_disclosure_of_another_implementation_is_accepted(case: dict[str, Any]) -> None:
    _judge(case)


@pytest.mark.parametrize("case", [case for case in CASES if case["step"] in {5, 6}], ids=lambda case: case["name"])
def test_injured_disclosure_of_another_implementation_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(VerificationError):
        _judge(case)


@pytest.mark.parametrize("case", [case for case in CASES if case["step"] == 2], ids=lambda case: case["name"])
def test_other_version_of_a_disclosure_is_unknown(case: dict[str, Any]) -> None:
    with pytest.raises(Unknown):
        _judge(case)


def _made() -> tuple[Template, list[tuple[str, Pair]], Callable[..., Any]]:
    of = template(*TWO)
    commitments = committed(of, VALUES)
    return of, [(made.name, made.pair) for made in commitments], lambda fields: disclose(of, commitments, fields)


def test_every_subset_of_a_stage_is_disclosed_and_verifies() -> None:
    of, stages, show = _made()
    for count in range(1, 6):
        for names in combinations("abcde", count):
            value = show([("甲", name) for name in reversed(names)])
            shown = verify_disclosure(of, stages, parse(canonical(value)))
            assert [(opened.stage, opened.field, opened.value) for opened in shown] == [
                ("甲", name, f"值{name}") for name in names
            ]
            assert ("flat_salt" in value["stages"][0]) == (count == 5)


def test_everything_is_disclosed_where_nothing_is_picked_and_nothing_where_none_is() -> None:
    of, stages, show = _made()
    assert len(verify_disclosure(of, stages, show(None))) == 7
    assert show([]) is None


def test_what_is_not_disclosed_does_not_stand_in_the_disclosure() -> None:
    _, _, show = _made()
    text = canonical(show([("甲", "b")])).decode()
    assert "值b" in text
    assert not any(f"值{name}" in text for name in "acde")


def test_whole_appendix_b_is_disclosed_field_by_field() -> None:
    of = builtin(ORDER)
    stages = example(of, seed=b"d", client_key="k")["stages"]
    commitments = committed(of, stages)
    listed = [(made.name, made.pair) for made in commitments]
    for stage in of.stages:
        for entry in stage.fields:
            (opened,) = verify_disclosure(of, listed, disclose(of, commitments, [(stage.name, entry.name)]))
            assert opened.value == stages[stage.name][entry.name]


@pytest.mark.parametrize("fields", [[("丙", "a")], [("甲", "z")]], ids=["stage", "field"])
def test_refuses_to_disclose_what_the_template_lacks(fields: list[tuple[str, str]]) -> None:
    _, _, show = _made()
    with pytest.raises(Malformed):
        show(fields)


def test_refuses_to_disclose_a_stage_that_was_not_given() -> None:
    of = template(*TWO)
    with pytest.raises(Malformed, match="not submitted"):
        disclose(of, committed(of, {"甲": VALUES["甲"]}), [("乙", "x")])


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = to(value[path[-1]]) if callable(to) else to

    return change


def _drop(*path: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        del value[path[-1]]

    return change


def _field_text(change: Callable[[list[Any]], Any]) -> Callable[[str], str]:
    def to(text: str) -> str:
        value = json.loads(text)
        changed = change(value)
        return canonical(value if changed is None else changed).decode()

    return to


ALL, PART = "all", "part"
FIRST = ("stages", 0)
INJURIES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "not an object": (ALL, _set("stages", to=5)),
    "no stages": (ALL, _set("stages", to=[])),
    "spare member": (ALL, _set("colour", to=1)),
    "format of another kind": (ALL, _set("format", to="cz-manifest/1")),
    "format missing": (ALL, _drop("format")),
    "format a list": (ALL, _set("format", to=[])),
    "stage no object": (ALL, _set("stages", 0, to="甲")),
    "stage with a spare member": (ALL, _set(*FIRST, "colour", to=1)),
    "stage without name": (ALL, _drop(*FIRST, "name")),
    "stage name a list": (ALL, _set(*FIRST, "name", to=[])),
    "stage of another name": (ALL, _set(*FIRST, "name", to="乙")),
    "stage that is not there": (ALL, _set(*FIRST, "name", to="丙")),
    "stage without fields": (ALL, _set(*FIRST, "fields", to=[])),
    "fields no array": (ALL, _set(*FIRST, "fields", to={})),
    "field no text": (ALL, _set(*FIRST, "fields", 0, to=[1])),
    "field no JSON": (ALL, _set(*FIRST, "fields", 0, to="[")),
    "field a lone surrogate": (ALL, _set(*FIRST, "fields", 0, to="\ud800")),
    "field no array": (ALL, _set(*FIRST, "fields", 0, to="{}")),
    "field an empty array": (ALL, _set(*FIRST, "fields", 0, to="[]")),
    "field with a space": (ALL, _set(*FIRST, "fields", 0, to=lambda text: text.replace(",", ", ", 1))),
    "field with a sixth member": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [*value, 1]))),
    "field with another tag": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: ["cz-index/1", *value[1:]]))),
    "field with another value": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [*value[:4], "别"]))),
    "field of another name": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [*value[:3], "b", value[4]]))),
    "field of an unknown name": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [*value[:3], "z", value[4]]))),
    "field name a list": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [*value[:3], [], value[4]]))),
    "field of another stage": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [*value[:2], "乙", *value[3:]]))),
    "salt of 15 bytes": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [value[0], "A" * 20, *value[2:]]))),
    "salt of another field": (ALL, _set(*FIRST, "fields", 0, to=_field_text(lambda value: [value[0], "A" * 22, *value[2:]]))),
    "fields swapped": (ALL, _set(*FIRST, "fields", to=lambda fields: [fields[1], fields[0], *fields[2:]])),
    "field twice": (ALL, _set(*FIRST, "fields", to=lambda fields: [fields[0], *fields])),
    "field left out": (ALL, _set(*FIRST, "fields", to=lambda fields: fields[1:])),
    "stages swapped": (ALL, _set("stages", to=lambda stages: [stages[1], stages[0]])),
    "stage twice": (ALL, _set("stages", to=lambda stages: [stages[0], *stages])),
    "whole with a hash left over": (ALL, _set(*FIRST, "proof", to=[base64.b64encode(bytes(32)).decode()])),
    "whole without flat salt": (ALL, _drop(*FIRST, "flat_salt")),
    "flat salt null": (ALL, _set(*FIRST, "flat_salt", to=None)),
    "flat salt of another": (ALL, _set(*FIRST, "flat_salt", to="A" * 22)),
    "flat salt of 15 bytes": (ALL, _set(*FIRST, "flat_salt", to="A" * 20)),
    "part with flat salt": (PART, _set(*FIRST, "flat_salt", to="A" * 22)),
    "proof no array": (PART, _set(*FIRST, "proof", to="x")),
    "proof missing": (PART, _drop(*FIRST, "proof")),
    "proof cut": (PART, _set(*FIRST, "proof", to=lambda proof: proof[:-1])),
    "proof with a hash more": (PART, _set(*FIRST, "proof", to=lambda proof: [*proof, proof[0]])),
    "proof swapped": (PART, _set(*FIRST, "proof", to=lambda proof: proof[::-1])),
    "hash of 31 bytes": (PART, _set(*FIRST, "proof", 0, to=base64.b64encode(bytes(31)).decode())),
    "hash not in its one form": (PART, _set(*FIRST, "proof", 0, to=lambda text: text.rstrip("="))),
    "hash no text": (PART, _set(*FIRST, "proof", 0, to=7)),
}  # fmt: skip


@pytest.mark.parametrize(("scope", "injure"), INJURIES.values(), ids=INJURIES)
def test_refuses_injured_disclosure(scope: str, injure: Callable[[Any], None]) -> None:
    of, stages, show = _made()
    value = copy.deepcopy(show(None if scope == ALL else [("甲", "b")]))
    verify_disclosure(of, stages, value)
    injure(value)
    with pytest.raises(VerificationError):
        verify_disclosure(of, stages, value)


@pytest.mark.parametrize("value", [None, [], "x", 5], ids=repr)
def test_refuses_disclosure_that_is_no_object(value: Any) -> None:
    of, stages, _ = _made()
    with pytest.raises(VerificationError):
        verify_disclosure(of, stages, value)


def test_other_version_of_a_field_is_unknown() -> None:
    of, stages, show = _made()
    value = show(None)
    _set(*FIRST, "fields", 0, to=_field_text(lambda parts: ["cz-field/2", *parts[1:]]))(value)
    with pytest.raises(Unknown):
        verify_disclosure(of, stages, value)


@settings(max_examples=150)
@given(st.data())
def test_no_single_changed_byte_of_a_disclosure_is_accepted(data: st.DataObject) -> None:
    of, stages, show = _made()
    text = bytearray(canonical(show([("甲", "b"), ("甲", "d"), ("乙", "x"), ("乙", "y")])))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EvidenceError):
        verify_disclosure(of, stages, parse(bytes(text)))


BAD_STAGES: dict[str, Callable[[list[Any]], list[Any]]] = {
    "none": lambda _: [],
    "swapped": lambda stages: stages[::-1],
    "twice": lambda stages: [stages[0], *stages],
    "unknown": lambda stages: [("丙", stages[0][1])],
    "required left out": lambda stages: stages[1:],
    "no name": lambda _: [{"sm3": "ab" * 32, "sha256": "ab" * 32}],
    "digest too short": lambda _: [{"name": "甲", "sm3": "ab", "sha256": "ab" * 32}],
}  # fmt: skip


@pytest.mark.parametrize("change", BAD_STAGES.values(), ids=BAD_STAGES)
def test_refuses_statement_whose_stages_are_not_the_templates(change: Callable[[list[Any]], list[Any]]) -> None:
    of = template(*TWO)
    of = Template.parse(of.data.replace('"name": "甲", '.encode(), '"name": "甲", "required": true, '.encode()))
    stages = [(made.name, made.pair) for made in committed(of, VALUES)]
    assert list(check_stages(of, stages)) == ["甲", "乙"]
    with pytest.raises(VerificationError):
        check_stages(of, change(stages))


def test_stage_data_of_a_plaintext_record_gives_its_stage_hash() -> None:
    of = template(*TWO)
    made = committed(of, VALUES)[0]
    data = [leaf.decode() for leaf in made.leaves]
    assert [opened.value for opened in verify_stage_data(of, "甲", made.pair.sm3, data)] == [f"值{name}" for name in "abcde"]


@pytest.mark.parametrize(
    "change",
    [lambda data: data[1:], lambda data: data[::-1], lambda data: [*data, data[0]], lambda _data: "x", lambda _data: [],
     lambda data: [data[0].replace("值", "别"), *data[1:]], lambda data: [1, *data[1:]]],
    ids=["left out", "swapped", "twice", "no array", "empty", "value", "no text"],
)  # fmt: skip
def test_refuses_injured_stage_data(change: Callable[[list[str]], Any]) -> None:
    of = template(*TWO)
    made = committed(of, VALUES)[0]
    with pytest.raises(VerificationError):
        verify_stage_data(of, "甲", made.pair.sm3, change([leaf.decode() for leaf in made.leaves]))


def test_refuses_stage_data_of_another_stage_or_value_outside_the_template() -> None:
    of = template(("甲", [field("a", "NUMBER")]), ("乙", [field("a", "NUMBER")]))
    good, bad = committed(of, {"甲": {"a": 1}, "乙": {"a": "no number"}})
    verify_stage_data(of, "甲", good.pair.sm3, [good.leaves[0].decode()])
    for name, made in (("乙", good), ("乙", bad), ("丙", good)):
        with pytest.raises(VerificationError):
            verify_stage_data(of, name, made.pair.sm3, [made.leaves[0].decode()])
