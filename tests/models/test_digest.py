"""Digests: both algorithms against other implementations, and one form for each text."""

import hashlib

import pytest
from gmssl import sm3 as gmssl_sm3
from hypothesis import given, settings
from hypothesis import strategies as st

from models.canonical import JSONValue
from models.digest import (
    Algorithm,
    Digest,
    Pair,
    _PycaSM3,
    digest,
    hasher,
    is_hex,
    pair,
    pair_of_chunks,
    sha256,
    sm3,
    unhex,
)
from models.errors import Malformed, Unknown

PREFIXES = [b"", b"\0", b"x" * 64]


@settings(max_examples=40)
@given(st.binary(max_size=200))
def test_sm3_is_that_of_two_other_implementations(data: bytes) -> None:
    assert sm3(data).hex() == gmssl_sm3.sm3_hash(list(data))
    other = _PycaSM3()
    other.update(data)
    assert other.digest() == sm3(data) == digest(Algorithm.SM3, data)
    assert sha256(data) == hashlib.sha256(data).digest() == digest(Algorithm.SHA256, data)
    assert pair(data) == Pair(sm3(data), sha256(data))


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=str)
def test_hasher_begins_with_its_prefix_and_copies_apart(algorithm: Algorithm) -> None:
    state = hasher(algorithm, b"prefix")
    first, second = state.copy(), state.copy()
    first.update(b"a")
    second.update(b"b")
    assert first.digest() == first.digest() == digest(algorithm, b"prefixa")
    assert second.digest() == digest(algorithm, b"prefixb")
    assert state.digest() == digest(algorithm, b"prefix")
    assert hasher(algorithm).digest() == digest(algorithm, b"")


def test_sm3_for_a_python_without_it_copies_apart() -> None:
    state = _PycaSM3()
    state.update(b"prefix")
    first = state.copy()
    first.update(b"a")
    assert (first.digest(), state.digest()) == (sm3(b"prefixa"), sm3(b"prefix"))


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_chunks_hash_as_the_whole(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert pair_of_chunks(iter(chunks)) == (pair(whole), len(whole))


def test_digest_reads_back_from_its_text() -> None:
    for algorithm in Algorithm:
        value = Digest(algorithm, digest(algorithm, b"x"))
        assert Digest.parse(str(value)) == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sm3:" + "A" * 64, Malformed),
        ("sm3:" + "a" * 63, Malformed),
        ("sm3:" + "a" * 65, Malformed),
        ("sm3:" + "a" * 63 + "g", Malformed),
        ("sm3:0x" + "a" * 62, Malformed),
        ("sm3:" + "a" * 64 + "\n", Malformed),
        ("sm3:" + "١" * 64, Malformed),
        ("a" * 64, Malformed),
        ("", Malformed),
        (None, Malformed),
        (5, Malformed),
        ("SM3:" + "a" * 64, Unknown),
        ("md5:" + "a" * 64, Unknown),
        (":" + "a" * 64, Unknown),
    ],
)
def test_refuses_digest_of_another_form(text: JSONValue, error: type[Exception]) -> None:
    with pytest.raises(error):
        Digest.parse(text)


def test_pair_reads_back_and_refuses_other_members() -> None:
    value = pair(b"x")
    assert Pair.from_json(value.to_json()) == value
    good = value.to_json()
    bent: list[JSONValue] = [{}, {"sm3": good["sm3"]}, {**good, "md5": "00"}, {**good, "sm3": good["sm3"].upper()}]
    for bad in (*bent, [], None, {**good, "sm3": None}):
        with pytest.raises(Malformed):
            Pair.from_json(bad)


def test_hex_has_one_form() -> None:
    assert unhex("00ff", size=2) == b"\0\xff"
    assert is_hex("00ff", size=2)
    for text in ("00FF", "00f", "00ff00", "0 ff", "", None, b"00ff"):
        assert not is_hex(text, size=2)
        with pytest.raises(Malformed):
            unhex(text, size=2)
