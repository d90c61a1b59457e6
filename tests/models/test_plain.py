"""Others' trees: the construction of C.5 as printed, and why a match with it is no verdict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.digest import sm3
from models.errors import Malformed, VerificationError
from models.plain import SENTENCE, Profile, match_plain, plain_path, plain_root

ITEMS = st.lists(st.binary(max_size=4), min_size=1, max_size=20)


@given(ITEMS, st.sampled_from(Profile), st.data())
def test_every_item_leads_to_the_root_and_to_no_verdict(items: list[bytes], profile: Profile, data: st.DataObject) -> None:
    top = plain_root(items, profile=profile)
    index = data.draw(st.integers(0, len(items) - 1))
    path = plain_path(items, index, profile=profile)
    assert match_plain(items[index], index, len(items), path, top, profile=profile) == SENTENCE
    assert "VALID" not in SENTENCE
    with pytest.raises(VerificationError):
        match_plain(items[index] + b"!", index, len(items), path, top, profile=profile)
    with pytest.raises(VerificationError):
        match_plain(items[index], index, len(items), [*path, bytes(32)], top, profile=profile)


def test_three_items_as_c5_prints_them() -> None:
    one, two, three = (sm3(item) for item in (b"1", b"2", b"3"))
    assert plain_root([b"1", b"2", b"3"]) == sm3(sm3(one + two) + three)
    assert plain_root([b"1", b"2", b"3"], profile="plain-dup") == sm3(sm3(one + two) + sm3(three + three))
    assert plain_root([b"1"]) == one


def test_node_can_be_passed_off_as_an_item_which_is_why_it_is_no_verdict() -> None:
    top = plain_root([b"1", b"2", b"3", b"4"])
    forged = sm3(b"1") + sm3(b"2")
    assert match_plain(forged, 0, 2, [sm3(sm3(b"3") + sm3(b"4"))], top) == SENTENCE


def test_doubled_last_item_gives_the_same_root_which_is_the_other_weakness() -> None:
    assert plain_root([b"1", b"2", b"3"], profile="plain-dup") == plain_root([b"1", b"2", b"3", b"3"], profile="plain-dup")


@pytest.mark.parametrize("items", [[], ()])
def test_list_of_nothing_has_no_root(items: list[bytes]) -> None:
    with pytest.raises(Malformed):
        plain_root(items)


@pytest.mark.parametrize(("index", "size", "path"), [(2, 2, []), (-1, 2, []), (0, 2, []), (0, 2, [b"short"])])
def test_path_out_of_form_is_refused(index: int, size: int, path: list[bytes]) -> None:
    with pytest.raises(VerificationError):
        match_plain(b"1", index, size, path, plain_root([b"1", b"2"]))
