"""Laws of the archive of originals, on SQLite and on PostgreSQL."""

import asyncio
import errno
import os
import resource
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from databases import KINDS, empty_database
from sqlalchemy import text

from clock import ManualClock
from evidence.archive import Archive
from evidence.content import content_key
from evidence.errors import Erased, NotFound, Overloaded, StorageFull, TooLarge
from evidence.keys import HomeKeys
from evidence.original import Manifest, Part
from evidence.segments import HEADER_BYTES
from evidence.steps import Step, no_step
from evidence.store import make_engine
from evidence.tables import METADATA
from models.canonical import canonical
from models.digest import Algorithm, Digest, Pair, pair, sm3
from models.errors import EvidenceError, Malformed, VerificationError

MIB = 1 << 20
SECRET = {n: sm3(b"secret %d" % n) for n in range(9)}


def item(n: int) -> bytes:
    return sm3(b"item %d" % n)


def key(n: int) -> bytes:
    return content_key(SECRET[n], f"ev_{item(n).hex()}")


def sm3_of(data: bytes) -> Digest:
    return Digest(Algorithm.SM3, pair(data).sm3)


def sha256_of(data: bytes) -> Digest:
    return Digest(Algorithm.SHA256, pair(data).sha256)


async def chunks(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0)


class Home:
    """An archive as the service has it, and the parts of it that a test needs in the hand."""

    def __init__(self, path: Path, url: str, clock: ManualClock) -> None:
        self.path, self.clock = path, clock
        self.writer, self.reader = make_engine(url, readers=0), make_engine(url, readers=4)
        METADATA.create_all(self.writer)
        self.keys = HomeKeys(path, clock=clock)
        self.keys.create_find_key()
        self.erased: set[bytes] = set()

    def archive(self, *, limit: int = 64 * MIB, max_bytes: int | None = None, step: Callable[[Step], None] = no_step) -> Archive:
        return Archive(
            self.path,
            self.writer,
            reader=self.reader,
            find_key=self.keys.find_key(),
            wrapping=self.keys.wrapping,
            secret_of=self.secret_of,
            clock=self.clock,
            unit_limit_bytes=limit,
            max_bytes=max_bytes,
            step=step,
        )

    def secret_of(self, name: bytes) -> bytes:
        if name in self.erased:
            raise Erased("secret was destroyed")
        return next(SECRET[n] for n in SECRET if item(n) == name)

    def claim(self, archive: Archive, digest: Digest | str, n: int, account: str = "a") -> bool:
        with self.writer.begin() as connection:
            return archive.claim(connection, digest, item(n), key(n), account=account)

    def read(self, archive: Archive, digest: Digest | str, n: int, start: int = 0, stop: int | None = None) -> bytes:
        with self.reader.connect() as connection:
            original = archive.open_original(connection, item(n), SECRET[n], digest)
        return b"".join(original.chunks(start, stop))

    def verify(self, archive: Archive, digest: Digest | str, n: int) -> Pair:
        with self.reader.connect() as connection:
            return archive.verify_original(connection, item(n), SECRET[n], digest)

    def files(self) -> list[Path]:
        return sorted(path for path in (self.path / "originals").rglob("*") if path.is_file())

    def count(self, table: str) -> int:
        with self.reader.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    def stray(self, archive: Archive) -> list[str]:
        with self.reader.connect() as connection:
            return list(archive.stray(connection))


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


class Died(Exception):
    pass


STEPS = [step for step in Step if step.name.startswith("ORIGINAL")]


@pytest.mark.parametrize("step", STEPS)
async def test_dying_at_any_step_leaves_a_whole_original_or_none(home: Home, step: Step) -> None:
    def die(at: Step) -> None:
        if at is step:
            raise Died

    data = os.urandom(10_000)
    archive = home.archive(limit=4096, step=die)
    with pytest.raises(Died):
        await archive.put(sm3_of(data), chunks(data), account="a")
    fresh = home.archive(limit=4096)
    fresh.sweep()
    assert fresh.sweep() == 0
    assert home.stray(fresh) == []
    assert home.claim(fresh, sm3_of(data), 1) == (step is Step.ORIGINAL_ROW_AFTER)
    assert len(home.files()) == (4 if step is Step.ORIGINAL_ROW_AFTER else 0)
    await fresh.put(sm3_of(data), chunks(data), account="a")
    assert home.claim(fresh, sm3_of(data), 1)
    assert home.read(fresh, sm3_of(data), 1) == data
    assert len(home.files()) == 4


async def test_sweep_leaves_strange_files_alone(local: Home) -> None:
    archive = local.archive()
    strange = local.path / "originals/tmp/readme.txt"
    strange.write_text("not ours")
    half = local.path / "originals/tmp" / ("ab" * 16)
    half.write_bytes(b"half")
    assert archive.sweep() == 1
    assert strange.exists()
    assert not half.exists()


async def test_full_disk_is_said_and_nothing_half_stays(local: Home) -> None:
    archive = local.archive(limit=MIB)
    data = os.urandom(4 * MIB)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
    try:
        with pytest.raises(StorageFull, match="the disk is full"):
            await archive.put(sm3_of(data), chunks(data), account="a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert local.files() == []
    assert local.count("original") == 0
    await archive.put(sm3_of(data), chunks(data), account="a")
    assert local.claim(archive, sm3_of(data), 1)


@pytest.mark.parametrize("call", ["fsync", "link", "open"])
async def test_disk_that_refuses_any_call_leaves_nothing(local: Home, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    archive = local.archive(limit=4096)
    data = os.urandom(10_000)
    real = getattr(os, call)
    calls = 0
    total = 0

    def fail(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == total:
            raise OSError(errno.EIO, "Input/output error")
        return real(*args, **kwargs)

    monkeypatch.setattr(f"evidence.upload.os.{call}", fail)
    refused = 0
    for total in range(1, 40):  # noqa: B007 - read by fail
        calls = 0
        try:
            await archive.put(sm3_of(data), chunks(data), account="a")
        except StorageFull:
            refused += 1
            assert local.files() == []
            assert local.count("original") == 0
        else:
            break
    assert refused >= 3
    assert local.claim(archive, sm3_of(data), 1)
    assert local.stray(archive) == []


async def test_database_that_cannot_write_leaves_no_file(local: Home) -> None:
    archive = local.archive(limit=4096)
    data = os.urandom(10_000)
    with local.writer.begin() as connection:
        connection.execute(text("DROP TABLE original_staged"))
    with pytest.raises(EvidenceError):
        await archive.put(sm3_of(data), chunks(data), account="a")
    METADATA.create_all(local.writer)
    with local.writer.begin() as connection:
        connection.execute(text("CREATE TRIGGER refuse BEFORE INSERT ON original_staged BEGIN SELECT RAISE(ABORT, 'no'); END"))
    with pytest.raises(EvidenceError, match="database"):
        await archive.put(sm3_of(data), chunks(data), account="a")
    assert local.files() == []
    assert local.count("original") == 0


async def test_refuses_originals_above_the_largest_size_and_too_many_at_once(local: Home) -> None:
    archive = local.archive(max_bytes=10_000)
    await archive.put(sm3_of(bytes(10_000)), chunks(bytes(10_000)), account="a")
    with pytest.raises(TooLarge, match="at most 10000 bytes"):
        await archive.put(sm3_of(bytes(10_001)), chunks(bytes(10_001)), account="a")
    gate = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"x"
        await gate.wait()

    tasks = [asyncio.create_task(archive.put(sm3_of(b"x"), waiting(), account="a")) for _ in range(64)]
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded, match="too many uploads"):
        await archive.put(sm3_of(b"x"), chunks(b"x"), account="a")
    gate.set()
    assert sum(stored.created for stored in await asyncio.gather(*tasks)) == 1
    assert len(local.files()) == 2


async def test_unclaimed_uploads_expire_and_owned_ones_stay(home: Home, clock: ManualClock) -> None:
    archive = home.archive(limit=4096)
    owned, spare, shared, fresh = (os.urandom(10_000) for _ in range(4))
    await archive.put(sm3_of(owned), chunks(owned), account="a")
    await archive.put(sm3_of(spare), chunks(spare), account="a")
    await archive.put(sm3_of(shared), chunks(shared), account="a")
    await archive.put(sm3_of(shared), chunks(shared), account="b")
    home.claim(archive, sm3_of(owned), 1)
    home.claim(archive, sm3_of(shared), 2)
    clock.advance(86_400)
    await archive.put(sm3_of(fresh), chunks(fresh), account="a")
    assert archive.expire(clock() - timedelta(hours=1)) == 1
    assert archive.expire(clock() - timedelta(hours=1)) == 0
    assert home.stray(archive) == []
    assert len(home.files()) == 3 * 4
    assert not home.claim(archive, sm3_of(spare), 3)
    assert home.claim(archive, sm3_of(fresh), 4)
    assert home.read(archive, sm3_of(owned), 1) == owned
    assert home.read(archive, sm3_of(shared), 2) == shared
    assert not home.claim(archive, sm3_of(shared), 5, "b")


async def test_memory_stays_bounded_while_an_original_streams_through(local: Home) -> None:
    archive = local.archive(limit=10 * MIB)
    block = os.urandom(MIB)

    async def long() -> AsyncIterator[bytes]:
        for _ in range(24):
            yield block

    data_pair = pair(block * 24)
    tracemalloc.start()
    await archive.put(Digest(Algorithm.SM3, data_pair.sm3), long(), account="a")
    local.claim(archive, Digest(Algorithm.SM3, data_pair.sm3), 1)
    with local.reader.connect() as connection:
        original = archive.open_original(connection, item(1), SECRET[1], Digest(Algorithm.SM3, data_pair.sm3))
    assert sum(len(piece) for piece in original.chunks()) == 24 * MIB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 101), (101, None)])
async def test_refuses_ranges_outside_an_original(local: Home, start: int, stop: int | None) -> None:
    archive = local.archive(limit=40)
    await archive.put(sm3_of(bytes(100)), chunks(bytes(100)), account="a")
    local.claim(archive, sm3_of(bytes(100)), 1)
    with pytest.raises(Malformed, match="range"):
        local.read(archive, sm3_of(bytes(100)), 1, start, stop)


def manifest_with(**changes: object) -> bytes:
    value: dict[str, object] = {
        "digest": "sm3:" + "11" * 32,
        "format": "cz-parts/1",
        "part_bytes": 10,
        "parts": [{"digest": "sm3:" + "22" * 32, "size": 10}, {"digest": "sm3:" + "33" * 32, "size": 5}],
        "size": 15,
        "twin": "sha256:" + "44" * 32,
    }
    return canonical(value | changes)


def test_manifest_is_canonical_and_reads_back() -> None:
    manifest = Manifest.parse(manifest_with())
    assert manifest.to_bytes() == manifest_with()
    assert (manifest.size, manifest.part_bytes, len(manifest.parts)) == (15, 10, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 16},
        {"size": True},
        {"part_bytes": 9},
        {"part_bytes": 0},
        {"parts": []},
        {"parts": {}},
        {"parts": [{"digest": "sm3:" + "22" * 32, "size": 5}, {"digest": "sm3:" + "33" * 32, "size": 10}]},
        {"digest": "sha256:" + "11" * 32},
        {"twin": "sm3:" + "11" * 32},
        {"digest": "sm3:11"},
        {"extra": 1},
    ],
    ids=str,
)
def test_refuses_a_manifest_whose_parts_do_not_make_the_whole(changes: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        Manifest.parse(manifest_with(**changes))
    with pytest.raises(Malformed):
        Manifest.parse(manifest_with() + b" ")
