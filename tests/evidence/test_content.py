"""Laws of encryption at rest."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.content import OVERHEAD_BYTES, Wrap, content_key, open_content, seal_content
from models.errors import Malformed, VerificationError

SECRET = bytes(range(32))
ID = "ev_" + "9a" * 32


@settings(max_examples=25)
@given(st.binary(max_size=5000))
def test_sealed_content_opens_to_itself_and_is_28_bytes_longer(plaintext: bytes) -> None:
    sealed = seal_content(SECRET, ID, plaintext)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert open_content(SECRET, ID, sealed) == plaintext


def test_refuses_every_flipped_bit() -> None:
    sealed = seal_content(SECRET, ID, b"buy 100")
    for position in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[position // 8] ^= 1 << (position % 8)
        with pytest.raises(VerificationError, match="does not open"):
            open_content(SECRET, ID, bytes(altered))


def test_refuses_content_of_another_item_or_under_another_secret() -> None:
    sealed = seal_content(SECRET, ID, b"buy 100")
    with pytest.raises(VerificationError):
        open_content(SECRET, "ev_" + "9b" * 32, sealed)
    with pytest.raises(VerificationError):
        open_content(bytes(range(1, 33)), ID, sealed)


@pytest.mark.parametrize("size", [0, 11, 27])
def test_refuses_content_cut_below_nonce_and_tag(size: int) -> None:
    with pytest.raises(VerificationError, match="too short"):
        open_content(SECRET, ID, bytes(size))


def test_same_content_never_gives_the_same_bytes_twice() -> None:
    assert len({seal_content(SECRET, ID, b"same") for _ in range(100)}) == 100


@pytest.mark.parametrize("count", [0, 1, 100])
def test_values_sealed_together_open_each_under_its_own_name_alone(count: int) -> None:
    wrap = Wrap(bytes(range(16)))
    values = [(b"same", b"item %d" % number) for number in range(count)]
    sealed = wrap.seal_each(values)
    assert [wrap.open(each, aad=aad) for each, (_, aad) in zip(sealed, values, strict=True)] == [b"same"] * count
    assert len({each[:12] for each in sealed}) == count
    for each in sealed[1:]:
        with pytest.raises(VerificationError):
            wrap.open(each, aad=b"item 0")


def test_too_little_randomness_is_never_shared_out() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        Wrap(bytes(16), randomness=lambda _n: bytes(12)).seal_each([(b"one", b""), (b"two", b"")])


def test_content_key_is_bound_to_secret_and_item() -> None:
    key = content_key(SECRET, ID)
    assert len(key) == 16
    assert key != content_key(SECRET, "ev_" + "9b" * 32)
    assert key != content_key(bytes(32), ID)


def test_sm4_gcm_agrees_with_rfc_8998_vector() -> None:
    nonce = bytes.fromhex("00001234567800000000abcd")
    wrap = Wrap(bytes.fromhex("0123456789abcdeffedcba9876543210"), randomness=lambda _n: nonce)
    plaintext = bytes.fromhex("".join(pair * 8 for pair in ("aa", "bb", "cc", "dd", "ee", "ff", "ee", "aa")))
    sealed = wrap.seal(plaintext, aad=bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"))
    expected = (
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
        "83de3541e4c2b58177e065a9bf7b62ec"
    )
    assert sealed[12:].hex() == expected


def test_refuses_a_key_of_another_size_and_shows_none() -> None:
    with pytest.raises(Malformed, match="expected 16 bytes, got 32"):
        Wrap(os.urandom(32))
    key = b"k" * 16
    assert key.decode() not in repr(Wrap(key))
