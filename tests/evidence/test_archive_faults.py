"""Originals through deaths, full disks, expiry and hostile sizes."""

import asyncio
import errno
import os
import resource
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from archives import MIB, SECRET, Home, chunks, item, sm3_of
from databases import KINDS, empty_database
from sqlalchemy import text

from clock import ManualClock
from evidence.errors import Overloaded, StorageFull, TooLarge
from evidence.original import Manifest
from evidence.steps import Step
from evidence.tables import METADATA
from models.canonical import canonical
from models.digest import Algorithm, Digest, pair
from models.errors import EvidenceError, Malformed


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
