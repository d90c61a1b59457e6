"""An archive of originals as the service has it, for its tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from sqlalchemy import text

from clock import ManualClock
from evidence.archive import Archive
from evidence.content import content_key
from evidence.errors import Erased
from evidence.keys import HomeKeys
from evidence.steps import Step, no_step
from evidence.store import make_engine
from evidence.tables import METADATA
from models.digest import Algorithm, Digest, Pair, pair, sm3

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
