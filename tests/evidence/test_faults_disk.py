"""Disks that are full and flushes that fail: signing stops, nothing acknowledged is lost, and it goes on once healed."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fault_check import check_running
from fault_process import file_item, upload
from homes import business, file_submission, preserve, preserved, serving, settings_of

from clock import ManualClock
from evidence.bootstrap import Service
from evidence.errors import StorageFull, Unready
from evidence.settings import AnchorMode, Settings
from models.errors import EvidenceError

FULL, UNFLUSHED = "/dev/full", "/dev/null"
"""A write to the one meets ENOSPC; a flush of the other fails, and what was written to it is gone."""


async def promised(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    return {"client_key": body["client_key"], **(await preserved(service, body)).to_json()}


def wake(service: Service) -> None:
    for chain in service.anchoring.chains.values():
        chain.wake.set()


# --- a small file system --------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


@cache
def can_mount() -> bool:
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def fill(disk: Path, *, left: int) -> Path:
    """Only `left` bytes are free afterwards."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # what stands on the disk may be writing too
        while (room := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - left) > 0:
            file.write(bytes(min(room, 65_536)))
    return ballast


def on_small_disk(target: str, home: Path, disk: Path) -> Settings:
    if target == "home":
        return settings_of(disk / "home", anchor_mode=AnchorMode.ASYNC)
    if target == "database":
        return settings_of(home, f"sqlite:///{disk / 'evidence.db'}", anchor_mode=AnchorMode.ASYNC)
    if target == "secrets":
        return settings_of(home, secrets_url=f"sqlite:///{disk / 'secrets.db'}", anchor_mode=AnchorMode.ASYNC)
    return settings_of(home, chains=(f"embedded:{disk / 'ledger'}",), anchor_mode=AnchorMode.ASYNC)


@pytest.mark.parametrize("target", ["home", "database", "secrets", "ledger"] if can_mount() else [])
async def test_full_disk_stops_what_stands_on_it_and_goes_on_once_there_is_room(tmp_path: Path, target: str) -> None:
    with small_disk(tmp_path / "disk") as disk:
        settings = on_small_disk(target, tmp_path / "home", disk)
        bodies = [file_submission() for _ in range(60)]
        async with serving(settings) as service:
            held = [await promised(service, body) for body in bodies[:3]]
            ballast = fill(disk, left=8_000 if target == "ledger" else 40_000)
            refusals: list[EvidenceError] = []
            for body in bodies[3:]:
                try:
                    held.append(await promised(service, body))
                except EvidenceError as error:
                    refusals.append(error)
            if target == "ledger":
                assert refusals == [], "intake goes on while a chain cannot store"
                assert service.anchoring.state_of(service.log.state.size - 1) != "final"
            else:
                assert refusals
                assert all(isinstance(error, StorageFull) for error in refusals)
            assert service.log.state.size == len(held)
            ballast.unlink()
            wake(service)
            await check_running(service, bodies, held)
        async with serving(settings, make=False) as service:
            await check_running(service, bodies, held)


# --- one file whose writes or flushes fail --------------------------------------------------------------------


@contextlib.contextmanager
def injured(path: Path, device: str) -> Iterator[None]:
    """Every handle of this process on the file stands on `device` instead; handles opened later are whole."""
    handles = [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink() and entry.readlink() == path]
    assert handles, "the file is open"
    hurt = {handle: os.dup(handle) for handle in handles}
    with Path(device).open("r+b", buffering=0) as broken:
        for handle in hurt:
            os.dup2(broken.fileno(), handle, inheritable=False)
    try:
        yield
    finally:
        for handle, whole in hurt.items():
            with contextlib.suppress(OSError):
                if str(Path(f"/proc/self/fd/{handle}").readlink()) == device:
                    os.dup2(whole, handle, inheritable=False)
            os.close(whole)


def emptied(database: Path) -> Path:
    """The write-ahead log of the database, of which no reader needs anything."""
    with contextlib.closing(sqlite3.connect(database)) as raw:
        assert raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    return database.with_name(database.name + "-wal")


@pytest.mark.parametrize("name", ["evidence.db", "secrets.db"])
async def test_write_that_finds_no_room_is_refused_and_the_next_one_goes_on(tmp_path: Path, name: str) -> None:
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=3600), ManualClock()
    bodies = [file_submission() for _ in range(4)]
    async with serving(settings, clock) as service:
        held = [await promised(service, bodies[0])]
        with injured(emptied(settings.home / name), FULL):
            with pytest.raises(StorageFull):
                await preserve(service, bodies[1])
            assert service.log.state.size == 1
        held += [await promised(service, body) for body in bodies[1:]]
        clock.advance(3600)
        wake(service)
        await check_running(service, bodies, held)


@pytest.mark.parametrize("name", ["evidence.db", "secrets.db"])
async def test_failed_flush_stops_the_signing_until_a_restart(tmp_path: Path, name: str) -> None:
    """The kernel may call clean what it could not write: a second flush that succeeds proves nothing."""
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=3600), ManualClock()
    bodies = [file_submission() for _ in range(4)]
    async with serving(settings, clock) as service:
        held = [await promised(service, bodies[0])]
        with injured(emptied(settings.home / name), UNFLUSHED), pytest.raises(StorageFull):
            await preserve(service, bodies[1])
        for body in bodies[1:]:
            with pytest.raises(StorageFull, match="until the service is restarted"):
                await preserve(service, body)
        with pytest.raises(StorageFull):
            service.check_ready()
        with pytest.raises(StorageFull):
            await service.log.write(lambda connection: connection.exec_driver_sql("SELECT 1"))
        assert service.log.state.size == 1
    async with serving(replace(settings, anchor_mode=AnchorMode.ASYNC), clock, make=False) as service:
        await check_running(service, bodies, held)


# --- originals ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_original_that_finds_no_room_is_refused_and_nothing_of_it_stays(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home", anchor_mode=AnchorMode.ASYNC)
    body = file_item("with-original", b"".join(bytes([0, place]) * 8 for place in range(150)))
    digest = body["stages"]["文件"]["object"]["digest"]
    body["originals"] = [{"field": "object", "digest": digest, "name": "合同.txt", "media_type": "text/plain"}]
    async with serving(settings) as service:
        with largest_file(1000), pytest.raises(StorageFull, match="original cannot be stored"):
            await upload(service, 0)
        files = [path for path in (settings.home / "originals").rglob("*") if path.is_file()]
        assert files == []
        await upload(service, 0)
        held = [await promised(service, body)]
        item = bytes.fromhex(held[0]["evidence_id"][3:])
        with service.store.reading() as connection:
            assert service.originals.is_held(connection, item, digest)
        await check_running(service, [body], held)


async def test_refusals_of_a_full_disk_say_when_to_ask_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=3600)
    async with serving(settings) as service:
        await preserve(service, file_submission(), caller=business(service))
        with injured(emptied(settings.home / "evidence.db"), FULL), pytest.raises(Unready) as refusal:
            await preserve(service, file_submission())
        assert refusal.value.retry_after_s > 0
        assert "合同" not in str(refusal.value)
