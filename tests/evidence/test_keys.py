"""Laws of the key files of a home."""

import hmac
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clock import ManualClock
from evidence.errors import HomeRefused, NotFound, StorageFull
from evidence.keys import FindKey, HomeKeys, write_once
from models.canonical import canonical
from models.errors import Malformed, SigningUnavailable
from models.signature import verify

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)


def test_key_is_made_once_and_never_overwritten(tmp_path: Path, clock: ManualClock) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    assert keys.create_signer("log")
    before = (tmp_path / "keys/log.pem").read_bytes()
    assert not keys.create_signer("log")
    assert not HomeKeys(tmp_path, clock=clock).create_signer("log")
    assert (tmp_path / "keys/log.pem").read_bytes() == before
    assert keys.names() == ["log"]


def test_key_files_are_private_and_whole_and_leave_no_spare(tmp_path: Path, clock: ManualClock) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    keys.create_signer("node-1")
    keys.create_find_key()
    keys.wrapping.current()
    files = [path for path in (tmp_path / "keys").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["2026-01.key", "find.key", "node-1.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_of_many_who_make_one_key_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "keys/x.key"
    won: list[bytes] = []

    def make(data: bytes) -> None:
        if write_once(path, data, randomness=os.urandom):
            won.append(data)

    threads = [threading.Thread(target=make, args=(bytes([n]) * 16,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == won
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_refuses_a_key_file_open_to_others(tmp_path: Path, clock: ManualClock, mode: int) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    keys.create_signer("log")
    (tmp_path / "keys/log.pem").chmod(mode)
    with pytest.raises(HomeRefused, match=f"expected mode 0600, got {mode:04o}"):
        keys.signer("log", not_before=START, not_after=END)


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN PRIVATE KEY-----\n", b"\xff" * 100])
def test_refuses_a_damaged_key_file_without_showing_it(tmp_path: Path, clock: ManualClock, damage: bytes) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    keys.create_signer("log")
    (tmp_path / "keys/log.pem").write_bytes(damage)
    with pytest.raises(HomeRefused, match=r"log\.pem is damaged"):
        keys.signer("log", not_before=START, not_after=END)


def test_refuses_an_absent_key(tmp_path: Path, clock: ManualClock) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    with pytest.raises(SigningUnavailable, match=r"log\.pem is absent"):
        keys.signer("log", not_before=START, not_after=END)
    with pytest.raises(NotFound):
        keys.find_key()
    with pytest.raises(NotFound):
        keys.wrapping.get("2025-12")


@pytest.mark.parametrize("name", ["", "../log", "Log", "a/b", "a.b", "-a"])
def test_refuses_a_key_name_that_could_leave_the_folder(tmp_path: Path, clock: ManualClock, name: str) -> None:
    with pytest.raises(Malformed, match="key name"):
        HomeKeys(tmp_path, clock=clock).create_signer(name)
    assert not list(tmp_path.iterdir())


def test_an_expired_key_signs_nothing_and_what_it_signed_still_verifies(tmp_path: Path, clock: ManualClock) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    keys.create_signer("log")
    signer = keys.signer("log", not_before=START, not_after=START + timedelta(days=1))
    signature = signer.sign(b"head")
    clock.advance(86_400)
    signer.sign(b"the last moment counts")
    clock.advance(0.001)
    with pytest.raises(SigningUnavailable, match="key log has expired"):
        signer.sign(b"head")
    verify(signer.public_key, b"head", signature)
    clock.set(START - timedelta(seconds=1))
    with pytest.raises(SigningUnavailable, match="not valid yet"):
        signer.sign(b"head")


def test_nothing_that_is_given_out_shows_a_private_key(tmp_path: Path, clock: ManualClock) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    keys.create_signer("log")
    keys.create_find_key()
    signer = keys.signer("log", not_before=START, not_after=END)
    given = [signer, keys.find_key(), keys.wrapping.current()[1]]
    public = {name for thing in given for name in dir(thing) if not name.startswith("_")}
    assert public == {"not_after", "not_before", "open", "open_at", "public_key", "seal", "seal_at", "seal_each", "sign", "tag"}
    assert [repr(thing) for thing in given] == ["TimedSigner(log)", "FindKey(…)", "Wrap(…)"]


def test_wrapping_key_is_new_each_month_and_old_ones_stay(tmp_path: Path, clock: ManualClock) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    first, wrap = keys.wrapping.current()
    sealed = wrap.seal(b"secret", aad=b"a")
    clock.set(datetime(2026, 2, 1, tzinfo=UTC))
    second, other = keys.wrapping.current()
    assert (first, second) == ("2026-01", "2026-02")
    assert other is not wrap
    again = HomeKeys(tmp_path, clock=clock).wrapping
    assert again.get("2026-01").open(sealed, aad=b"a") == b"secret"
    assert again.current()[0] == "2026-02"


def test_refuses_a_wrapping_key_of_wrong_length(tmp_path: Path, clock: ManualClock) -> None:
    keys = HomeKeys(tmp_path, clock=clock)
    keys.wrapping.current()
    (tmp_path / "keys/kek/2026-01.key").write_bytes(bytes(15))
    with pytest.raises(HomeRefused, match="expected 16 bytes, got 15"):
        HomeKeys(tmp_path, clock=clock).wrapping.current()


def test_blind_tag_is_hmac_sm3_over_the_tagged_array() -> None:
    key = bytes(range(32))
    expected = hmac.new(key, canonical(["cz-find/1", "original", "sm3:00"]), "sm3").digest()[:16]
    assert FindKey(key).tag("original", "sm3:00") == expected
    assert FindKey(key).tag("field", "sm3:00") != expected
    assert FindKey(bytes(32)).tag("original", "sm3:00") != expected


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "keys").write_bytes(b"a file where the folder should be")
    with pytest.raises(StorageFull, match="cannot be written"):
        HomeKeys(tmp_path, clock=clock).create_find_key()
