"""A proof of C.5 by another system is read strictly, contradicted where it is wrong, and undecided where all agrees."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import b64
from models.digest import Algorithm, sm3
from models.errors import Malformed, Unknown
from models.plain import MAX_ITEMS, PlainProof, Profile, plain_path, plain_root
from models.report import Verdict

LINES = [b"buy 100 AAA", b"sell 50 BBB", b"buy 7 AAA", b"", b"sell 1 CCC"]
ITEMS = st.lists(st.binary(max_size=6).filter(lambda item: b"\n" not in item), min_size=1, max_size=12)


def proof(items: list[bytes], at: int, /, *, made_by: Algorithm = Algorithm.SM3, shape: str = "plain", **changes: Any) -> bytes:
    """The file in which another system proves items[at], with `changes` to what it says."""
    value = {
        "algorithm": made_by,
        "format": "cz-plain/1",
        "index": at,
        "item": {"b64": b64(items[at])},
        "path": [node.hex() for node in plain_path(items, at, profile=shape, algorithm=made_by)],
        "profile": shape,
        "root": plain_root(items, profile=shape, algorithm=made_by).hex(),
        "size": len(items),
        **changes,
    }
    return json.dumps({name: member for name, member in value.items() if member is not ...}).encode()


def content(items: list[bytes]) -> bytes:
    return b"".join(item + b"\n" for item in items)


@given(ITEMS, st.sampled_from(Profile), st.sampled_from(Algorithm), st.data())
def test_what_agrees_is_undecided_and_any_change_contradicts(
    items: list[bytes], profile: Profile, algorithm: Algorithm, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    given_one = PlainProof.parse(proof(items, index, shape=profile, made_by=algorithm))
    for shown in (None, content(items)):
        report = given_one.judge(shown)
        assert report.verdict is Verdict.INDETERMINATE
        assert [step.holds for step in report.steps] == [True, *([None] * 2 if shown is None else [True] * 2)]
    other = {"b64": b64(items[index] + b"!")}
    changed = PlainProof.parse(proof(items, index, shape=profile, made_by=algorithm, item=other))
    for shown in (None, content(items)):
        assert changed.judge(shown).verdict is Verdict.INVALID
    assert given_one.judge(content([*items, b"more"])).verdict is Verdict.INVALID
    assert given_one.judge(content([*items[:index], items[index] + b"!", *items[index + 1 :]])).verdict is Verdict.INVALID


def test_three_items_computed_by_hand_as_c5_prints_them() -> None:
    one, two, three = (sm3(item) for item in (b"1", b"2", b"3"))
    value = proof([b"1", b"2", b"3"], 2, item="3", root=sm3(sm3(one + two) + three).hex(), path=[sm3(one + two).hex()])
    report = PlainProof.parse(value).judge(b"1\n2\n3")
    assert [step.holds for step in report.steps] == [True, True, True]
    assert report.verdict is Verdict.INDETERMINATE


def test_the_sentence_is_fixed_and_the_reasons_are_given_in_both_languages() -> None:
    found = PlainProof.parse(proof(LINES, 1)).judge(content(LINES)).to_json()
    assert found["verdict"] == "INDETERMINATE"
    assert str(found["sentence"]).startswith("matches a root that does not separate leaves from nodes")
    reasons = found["reasons"]
    assert isinstance(reasons, list)
    assert [any(word in str(reason) for reason in reasons) for word in ("not salted", "chain", "inner node")] == [True] * 3
    assert len(str(found["reasons_zh"])) > 50
    doubled = PlainProof.parse(proof(LINES, 1, shape="plain-dup")).judge().to_json()["reasons"]
    assert isinstance(doubled, list)
    assert len(doubled) == len(reasons) + 1


def test_node_passed_off_as_an_item_is_pointed_at_and_found_out_by_the_content() -> None:
    four = [b"1", b"2", b"3", b"4"]
    forged = sm3(b"1") + sm3(b"2")
    node = sm3(sm3(b"3") + sm3(b"4")).hex()
    value = PlainProof.parse(proof(four, 0, item={"b64": b64(forged)}, size=2, path=[node]))
    alone, whole = value.judge(), value.judge(content(four))
    assert alone.verdict is Verdict.INDETERMINATE
    assert "itself be an inner node" in alone.reasons[-1][1]
    assert whole.verdict is Verdict.INVALID
    assert [step.holds for step in whole.steps] == [True, True, False]


def test_the_right_line_at_another_place_contradicts() -> None:
    same = [b"a", b"b", b"a", b"c"]
    value = PlainProof.parse(proof(same, 0))
    assert value.judge(content(same)).verdict is Verdict.INDETERMINATE
    assert PlainProof.parse(proof(same, 0, index=1)).judge(content(same)).verdict is Verdict.INVALID
    assert PlainProof.parse(proof(same, 0, size=3)).judge(content(same)).verdict is Verdict.INVALID


def test_another_algorithm_or_profile_than_was_used_contradicts() -> None:
    three = LINES[:3]
    assert PlainProof.parse(proof(three, 2, algorithm="sha256")).judge().verdict is Verdict.INVALID
    assert PlainProof.parse(proof(three, 2, profile="plain-dup")).judge().verdict is Verdict.INVALID
    assert PlainProof.parse(proof(three, 2)).judge().verdict is Verdict.INDETERMINATE


@pytest.mark.parametrize(
    "changes",
    [
        {"root": ...},
        {"more": 1},
        {"root": "00"},
        {"root": "G" * 64},
        {"root": None},
        {"path": "00"},
        {"path": ["00"]},
        {"path": ["00" * 32] * 64},
        {"path": [None]},
        {"index": -1},
        {"index": 5},
        {"index": True},
        {"index": "0"},
        {"size": 0},
        {"size": None},
        {"size": True, "index": 0},
        {"item": None},
        {"item": 3},
        {"item": {"hex": "00"}},
        {"item": {"b64": "%"}},
        {"profile": "merkle"},
        {"profile": None},
        {"profile": []},
        {"algorithm": "md5"},
        {"algorithm": {}},
        {"format": "cz-slice/1"},
        {"format": None},
    ],
    ids=str,
)
def test_refuses_what_is_not_said_or_said_otherwise(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        PlainProof.parse(proof(LINES, 0, **changes))


def test_another_version_is_unknown() -> None:
    with pytest.raises(Unknown):
        PlainProof.parse(proof(LINES, 0, format="cz-plain/2"))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":1,"a":1}', b"[" * 100, b" " * (5 << 20)])
def test_refuses_bytes_that_are_no_proof(data: bytes) -> None:
    with pytest.raises(Malformed):
        PlainProof.parse(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(Malformed):
        PlainProof.parse(data)


@pytest.mark.parametrize("data", [b"", b"\n" * (MAX_ITEMS + 1)], ids=["no line", "too many"])
def test_refuses_content_that_no_tree_is_made_of(data: bytes) -> None:
    with pytest.raises(Malformed):
        PlainProof.parse(proof(LINES, 0)).judge(data)
