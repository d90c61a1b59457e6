"""Laws of the archive of originals, on SQLite and on PostgreSQL."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from archives import MIB, SECRET, Home, chunks, item, sha256_of, sm3_of
from databases import KINDS, empty_database
from sqlalchemy import text

from clock import ManualClock
from evidence.errors import NotFound
from evidence.original import Manifest, Part
from evidence.segments import HEADER_BYTES
from models.digest import pair, sm3
from models.errors import VerificationError


@pytest.fixture(params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Home]:
    url = empty_database(request, tmp_path / "main.db")
    found = Home(tmp_path, url, clock)
    yield found
    found.writer.dispose()
    found.reader.dispose()


@pytest.fixture
def local(tmp_path: Path, clock: ManualClock) -> Iterator[Home]:
    """On SQLite only: what is tested does not depend on the database."""
    found = Home(tmp_path, f"sqlite:///{tmp_path}/main.db", clock)
    yield found
    found.writer.dispose()
    found.reader.dispose()


async def test_original_is_held_owned_and_read_back_by_both_digests(home: Home) -> None:
    archive = home.archive()
    data = os.urandom(3 * MIB + 17)
    stored = await archive.put(sm3_of(data), chunks(data), account="a")
    assert (stored.pair, stored.size, stored.parts, stored.created) == (pair(data), len(data), 1, True)
    assert home.claim(archive, sm3_of(data), 1)
    assert home.claim(archive, str(sha256_of(data)), 1)
    for digest in (sm3_of(data), str(sha256_of(data))):
        assert home.read(archive, digest, 1) == data
        assert home.read(home.archive(), digest, 1, MIB - 3, 2 * MIB + 9) == data[MIB - 3 : 2 * MIB + 9]
    assert home.verify(archive, sm3_of(data), 1) == pair(data)
    assert home.count("original_staged") == 0
    assert len(home.files()) == 1
    assert home.stray(archive) == []
    with home.reader.connect() as connection:
        assert archive.is_held(connection, item(1), sm3_of(data))
        assert not archive.is_held(connection, item(2), sm3_of(data))
        assert archive.owners(connection, sha256_of(data)) == [item(1)]


@pytest.mark.parametrize(("size", "parts"), [(0, 1), (1, 1), (4095, 1), (4096, 1), (4097, 2), (8192, 2), (8193, 3), (50_000, 13)])
async def test_original_above_the_unit_limit_is_split_and_given_back_byte_for_byte(home: Home, size: int, parts: int) -> None:
    archive = home.archive(limit=4096)
    data = os.urandom(size)
    stored = await archive.put(sha256_of(data), chunks(data, 1000), account="a")
    assert (stored.parts, stored.size, stored.pair) == (parts, size, pair(data))
    assert home.claim(archive, sm3_of(data), 1)
    assert home.read(archive, sm3_of(data), 1) == data
    assert home.read(archive, sm3_of(data), 1, size // 3, size // 2) == data[size // 3 : size // 2]
    assert home.verify(archive, sha256_of(data), 1) == pair(data)
    with home.reader.connect() as connection, archive.open_original(connection, item(1), SECRET[1], sm3_of(data)) as original:
        manifest = original.manifest
    assert (manifest is None) == (parts == 1)
    if manifest is not None:
        pieces = [data[start : start + 4096] for start in range(0, size, 4096)]
        assert manifest == Manifest(pair(data), size, 4096, tuple(Part(sm3_of(piece), len(piece)) for piece in pieces))
    assert len(home.files()) == parts + (parts > 1)
    assert home.stray(archive) == []


async def test_refuses_a_body_of_another_digest_and_keeps_nothing(home: Home) -> None:
    archive = home.archive(limit=4096)
    data = os.urandom(20_000)
    for digest in (sm3_of(b"other"), sha256_of(b"other")):
        with pytest.raises(VerificationError, match="does not have its digest"):
            await archive.put(digest, chunks(data), account="a")
    with pytest.raises(VerificationError):
        await archive.put(sm3_of(data), chunks(data[:-1]), account="a")
    assert home.files() == []
    assert home.count("original") == 0
    assert not home.claim(archive, sm3_of(data), 1)


async def test_aborted_uploads_leave_nothing(home: Home) -> None:
    archive = home.archive(limit=MIB)
    data = os.urandom(3 * MIB)

    async def broken() -> AsyncIterator[bytes]:
        yield data[: 2 * MIB + 5]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await archive.put(sm3_of(data), broken(), account="a")

    arrived = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield data[: 2 * MIB + 5]
        arrived.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(archive.put(sm3_of(data), stalled(), account="a"))
    await arrived.wait()
    assert home.files() != []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert home.files() == []
    assert home.count("original") == 0
    await archive.put(sm3_of(data), chunks(data), account="a")


async def test_upload_cancelled_at_any_moment_is_whole_or_nothing(local: Home) -> None:
    archive = local.archive(limit=4096)
    for turns in range(0, 60, 2):
        data = os.urandom(10_000)
        task = asyncio.create_task(archive.put(sm3_of(data), chunks(data), account="a"))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert local.stray(archive) == []
        assert not list((local.path / "originals/tmp").iterdir())
        if local.claim(archive, sm3_of(data), 1):
            assert local.read(archive, sm3_of(data), 1) == data


async def test_uploading_twice_is_idempotent_and_stores_once(home: Home) -> None:
    archive = home.archive()
    data = os.urandom(100_000)
    first = await archive.put(sm3_of(data), chunks(data), account="a")
    again = await archive.put(sha256_of(data), chunks(data), account="a")
    other = await archive.put(sm3_of(data), chunks(data), account="b")
    assert (first.created, again.created, other.created) == (True, False, True)
    assert len(home.files()) == 1
    assert home.claim(archive, sm3_of(data), 1, "a")
    assert home.claim(archive, sm3_of(data), 2, "b")
    assert home.read(archive, sm3_of(data), 1) == home.read(archive, sm3_of(data), 2) == data
    late = await archive.put(sm3_of(data), chunks(data), account="c")
    assert late.created
    assert home.claim(archive, sm3_of(data), 3, "c")
    assert len(home.files()) == 1


async def test_concurrent_uploads_of_one_original_are_safe(home: Home) -> None:
    archive = home.archive(limit=40_000)
    data = os.urandom(150_000)
    stored = await asyncio.gather(*(archive.put(sm3_of(data), chunks(data, 7000 + n), account=f"a{n % 4}") for n in range(12)))
    assert sum(one.created for one in stored) == 4
    assert len(home.files()) == 5
    for n in range(4):
        assert home.claim(archive, sm3_of(data), n, f"a{n}")
        assert home.read(archive, sm3_of(data), n) == data


async def test_knowing_a_digest_gives_nothing_of_another_account(home: Home) -> None:
    archive = home.archive()
    data = os.urandom(1000)
    await archive.put(sm3_of(data), chunks(data), account="a")
    assert not home.claim(archive, sm3_of(data), 2, "b")
    assert home.claim(archive, sm3_of(data), 1, "a")
    assert not home.claim(archive, sm3_of(data), 2, "b")
    with pytest.raises(NotFound, match="original is not held"):
        home.read(archive, sm3_of(data), 2)


async def test_one_upload_serves_all_items_of_its_account(home: Home) -> None:
    archive = home.archive()
    data = os.urandom(1000)
    await archive.put(sm3_of(data), chunks(data), account="a")
    for n in (1, 2, 3):
        assert home.claim(archive, sm3_of(data), n, "a")
        assert home.claim(archive, sm3_of(data), n, "a")
    assert home.count("original_owner") == 3
    home.erased |= {item(1), item(2), item(3)}
    assert not home.claim(archive, sm3_of(data), 4, "a")


async def test_key_of_one_item_opens_nothing_of_another(home: Home) -> None:
    archive = home.archive()
    data = os.urandom(1000)
    await archive.put(sm3_of(data), chunks(data), account="a")
    home.claim(archive, sm3_of(data), 1)
    with home.reader.connect() as connection, pytest.raises(VerificationError, match="key of object"):
        archive.open_original(connection, item(1), SECRET[2], sm3_of(data))


async def test_neither_name_nor_digest_nor_bytes_of_an_original_lie_anywhere(local: Home) -> None:
    archive = local.archive(limit=8192)
    data = "客户张三的风险揭示书".encode() * 1000
    await archive.put(sm3_of(data), chunks(data), account="a")
    local.claim(archive, sm3_of(data), 1)
    stored = b"".join(path.read_bytes() + str(path).encode() for path in local.path.rglob("*") if path.is_file())
    for digest in pair(data):
        assert digest not in stored
        assert digest.hex().encode() not in stored
        assert digest.hex()[:16].encode() not in stored
    assert data[:30] not in stored
    assert sm3(data[:8192]) not in stored


async def test_rotten_copy_is_found_and_not_relied_on_when_uploaded_again(local: Home) -> None:
    archive = local.archive()
    data = os.urandom(3 * MIB)
    await archive.put(sm3_of(data), chunks(data), account="a")
    local.claim(archive, sm3_of(data), 1)
    (path,) = local.files()
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + MIB + 1000)
        file.write(b"rot")
    with pytest.raises(VerificationError, match="segment 1 of stored object"):
        local.verify(archive, sm3_of(data), 1)
    with pytest.raises(VerificationError, match="segment 1 of stored object"):
        local.read(archive, sm3_of(data), 1)
    await archive.put(sm3_of(data), chunks(data), account="a")
    assert local.claim(archive, sm3_of(data), 2)
    assert local.read(archive, sm3_of(data), 2) == data


async def test_swapped_missing_and_altered_parts_are_found(local: Home) -> None:
    archive = local.archive(limit=4096)
    data = os.urandom(4096 * 3)
    await archive.put(sm3_of(data), chunks(data), account="a")
    local.claim(archive, sm3_of(data), 1)
    parts = [path for path in local.files() if path.stat().st_size == HEADER_BYTES + 4096 + 16]
    assert len(parts) == 3
    whole = {path: path.read_bytes() for path in parts}
    parts[0].write_bytes(whole[parts[1]])
    parts[1].write_bytes(whole[parts[0]])
    with pytest.raises(VerificationError, match="does not open"):
        local.verify(archive, sm3_of(data), 1)
    for path in parts:
        path.write_bytes(whole[path])
    assert local.verify(archive, sm3_of(data), 1) == pair(data)
    parts[2].unlink()
    with pytest.raises(VerificationError, match="is absent"):
        local.verify(archive, sm3_of(data), 1)
    assert [said.endswith("has no file") for said in local.stray(archive)] == [True]
    parts[2].write_bytes(whole[parts[2]])
    (local.path / "originals/ab").mkdir(exist_ok=True)
    (local.path / "originals/ab" / ("0" * 30)).write_bytes(b"x")
    assert [said.endswith("belongs to no object") for said in local.stray(archive)] == [True]
    with local.writer.begin() as connection:
        connection.execute(text("DELETE FROM original_part WHERE place = 1"))
    with pytest.raises(VerificationError, match="lacks parts: expected 3, got 2"):
        local.verify(archive, sm3_of(data), 1)


async def test_item_that_claims_the_wrong_digest_by_an_edited_index_is_found(local: Home) -> None:
    archive = local.archive()
    one, two = os.urandom(50), os.urandom(50)
    for n, data in ((1, one), (2, two)):
        await archive.put(sm3_of(data), chunks(data), account="a")
        local.claim(archive, sm3_of(data), n)
    with local.writer.begin() as connection:
        connection.execute(text("UPDATE original_find SET number = 3 - number"))
    with pytest.raises(NotFound):
        local.verify(archive, sm3_of(one), 1)
    local.claim(archive, sm3_of(two), 1)
    with pytest.raises(VerificationError, match="has another digest"):
        local.verify(archive, sm3_of(two), 1)
