"""The files of the archive, and one original on its way into them.

An object is written and flushed under `originals/tmp`, then gets its lasting name as a second link,
then its row; the first name goes last. So whatever moment we die at, the files left in `tmp` name
every object whose row may be missing, and `settle` needs to look at nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from evidence.content import KEY_BYTES, Randomness, Wrap
from evidence.errors import StorageFull, TooLarge
from evidence.keys import make_folder, sync_folder
from evidence.original import MAX_MANIFEST_BYTES, Manifest, Part
from evidence.segments import OBJECT_ID_BYTES, SALT_BYTES, SEGMENT_BYTES, ObjectWriter
from evidence.steps import Step, StepFunction
from models.digest import Algorithm, Digest, Hasher, Pair, hasher
from models.errors import VerificationError

_T = TypeVar("_T")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk() -> Iterator[None]:
    """What the disk refuses within becomes an error that a caller can be told. Raises: StorageFull."""
    try:
        yield
    except OSError as error:
        said = os.strerror(error.errno or errno.EIO).lower()
        reason = "the disk is full" if error.errno in _FULL else f"the disk refuses ({said})"
        raise StorageFull(f"original cannot be stored: {reason}", retry_after_s=30) from error


class ObjectFolder:
    """A folder of a home: objects under `ab/cdef…` by their random id, unfinished ones under `tmp`."""

    def __init__(self, home: Path, *, name: str = "originals") -> None:
        self._folder = home / name
        self._tmp = self._folder / "tmp"

    def prepare(self) -> None:
        """The folders exist. Raises: StorageFull."""
        with disk():
            make_folder(self._tmp)

    def path(self, object_id: bytes) -> Path:
        """Where an object lies for good."""
        name = object_id.hex()
        return self._folder / name[:2] / name[2:]

    def temporary(self, object_id: bytes) -> Path:
        """Where an object lies until its row is committed."""
        return self._tmp / object_id.hex()

    def publish(self, object_ids: Iterable[bytes]) -> None:
        """Finished objects have their lasting names as well, and the folders are flushed. Raises: StorageFull."""
        with disk():
            folders = set()
            for object_id in object_ids:
                path = self.path(object_id)
                if path.parent not in folders:
                    make_folder(path.parent)
                    folders.add(path.parent)
                os.link(self.temporary(object_id), path)
            for folder in folders:
                sync_folder(folder)

    def retire(self, object_ids: Iterable[bytes]) -> None:
        """Objects whose rows are about to go are named in `tmp` again, so that a crash loses no track of them."""
        with disk():
            for object_id in object_ids:
                with suppress(FileNotFoundError, FileExistsError):
                    os.link(self.path(object_id), self.temporary(object_id))
            sync_folder(self._tmp)

    def keep(self, object_ids: Iterable[bytes]) -> None:
        """Objects whose rows are committed no longer lie in `tmp`."""
        for object_id in object_ids:
            self.temporary(object_id).unlink(missing_ok=True)

    def remove(self, object_ids: Iterable[bytes]) -> None:
        """Objects without rows are gone, their lasting name first."""
        for object_id in object_ids:
            self.path(object_id).unlink(missing_ok=True)
            self.temporary(object_id).unlink(missing_ok=True)

    def unsettled(self) -> list[bytes]:
        """The objects in `tmp`. Files of other names are not ours and are left alone."""
        return [name for path in self._tmp.glob("*") if (name := _object_id(path.name)) is not None]

    def objects(self) -> Iterator[bytes]:
        """The ids of all objects that have a lasting name, in order of their folders."""
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            for path in sorted(folder.iterdir()):
                name = _object_id(folder.name + path.name)
                if name is not None:
                    yield name


def _object_id(name: str) -> bytes | None:
    try:
        found = bytes.fromhex(name)
    except ValueError:
        return None
    return found if len(found) == OBJECT_ID_BYTES and found.hex() == name else None


@dataclass(frozen=True, slots=True)
class Piece:
    """One finished object in `tmp`, with the key that opens it."""

    object_id: bytes
    key: bytes
    size: int
    digest: bytes

    def __repr__(self) -> str:
        return f"Piece({self.object_id.hex()[:8]}…, {self.size} bytes)"


@dataclass(frozen=True, slots=True)
class Finished:
    """A whole original in `tmp`: one piece, or its parts in order and the piece that holds their manifest."""

    pair: Pair
    size: int
    pieces: tuple[Piece, ...]
    manifest: Piece | None

    @property
    def head(self) -> Piece:
        """The piece whose key opens everything: the manifest, or the only one."""
        return self.manifest or self.pieces[0]

    @property
    def object_ids(self) -> tuple[bytes, ...]:
        """All objects, the manifest last."""
        return tuple(piece.object_id for piece in (*self.pieces, *((self.manifest,) if self.manifest else ())))


class Upload:
    """An original while it streams in: hashed with both digests, split at the unit limit, encrypted, in bounded memory."""

    def __init__(
        self,
        folder: ObjectFolder,
        *,
        unit_limit_bytes: int,
        max_bytes: int | None,
        randomness: Randomness,
        step: StepFunction,
    ) -> None:
        self._folder = folder
        self._limit = unit_limit_bytes
        self._max = max_bytes
        self._randomness = randomness
        self._step = step
        self._sm3, self._sha256 = hasher(Algorithm.SM3), hasher(Algorithm.SHA256)
        self._size = 0
        self._pieces: list[Piece] = []
        self._made: list[bytes] = []
        self._writer: ObjectWriter | None = None
        self._id = self._key = b""
        # Digest of the current part; for the first part that of the whole is the same and is not computed twice.
        self._own: Hasher | None = None

    def write(self, data: bytes) -> None:
        """`data` follows what came before.

        Raises: TooLarge above the limit; StorageFull if the disk refuses.
        """
        self._size += len(data)
        if self._max is not None and self._size > self._max:
            raise TooLarge(f"original is too large: expected at most {self._max} bytes")
        position = 0
        with disk():
            while position < len(data):
                writer = self._open()
                if writer.size == self._limit:
                    self._close_piece(writer)
                    writer = self._open()
                taken = data[position : position + self._limit - writer.size]
                self._sm3.update(taken)
                self._sha256.update(taken)
                if self._own is not None:
                    self._own.update(taken)
                writer.write(taken)
                position += len(taken)

    def finish(self, digest: Digest) -> Finished:
        """The original is whole in `tmp`, flushed, and has the digest it was sent under.

        Raises: VerificationError if it has another; StorageFull if the disk refuses.
        """
        pair = Pair(self._sm3.digest(), self._sha256.digest())
        got = pair.sm3 if digest.algorithm is Algorithm.SM3 else pair.sha256
        if got != digest.value:
            expected = digest.value.hex()[:8]
            raise VerificationError(
                f"original does not have its digest: expected {expected}…, got {got.hex()[:8]}… ({self._size} bytes)"
            )
        with disk():
            self._close_piece(self._open())
            manifest = None
            if len(self._pieces) > 1:
                manifest = self._write_manifest(pair)
        self._step(Step.ORIGINAL_WRITE_AFTER)
        return Finished(pair, self._size, tuple(self._pieces), manifest)

    def release(self) -> None:
        """The files are no longer this upload's to remove."""
        self._made.clear()

    def abandon(self) -> None:
        """Nothing of the upload is left; idempotent, and without effect after `release`."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for object_id in self._made:
            self._folder.temporary(object_id).unlink(missing_ok=True)
        self._made.clear()

    def _open(self) -> ObjectWriter:
        if self._writer is None:
            if not self._made:
                self._step(Step.ORIGINAL_WRITE_BEFORE)
            if self._pieces:
                self._own = hasher(Algorithm.SM3)
            self._id, self._key = self._randomness(OBJECT_ID_BYTES), self._randomness(KEY_BYTES)
            self._made.append(self._id)
            path = self._folder.temporary(self._id)
            self._writer = ObjectWriter(path, self._id, Wrap(self._key), self._randomness(SALT_BYTES))
        return self._writer

    def _close_piece(self, writer: ObjectWriter) -> None:
        writer.finish()
        self._writer = None
        digest = (self._own or self._sm3).digest()
        self._pieces.append(Piece(self._id, self._key, writer.size, digest))

    def _write_manifest(self, pair: Pair) -> Piece:
        parts = tuple(Part(Digest(Algorithm.SM3, piece.digest), piece.size) for piece in self._pieces)
        data = Manifest(pair, self._size, self._limit, parts).to_bytes()
        if len(data) > MAX_MANIFEST_BYTES:
            raise TooLarge(f"original has too many parts: expected a manifest of at most {MAX_MANIFEST_BYTES} bytes")
        writer = self._open()
        writer.write(data)
        writer.finish()
        self._writer = None
        return Piece(self._id, self._key, writer.size, b"")


async def gathered(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of about a segment: a change of thread for each small chunk would cost more than its hash."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(bytes(chunk))
        size += len(chunk)
        if size >= SEGMENT_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


async def in_thread(work: Callable[[], _T]) -> _T:
    """The work, done beside the loop. A cancelled caller still waits for it, however often it is cancelled.

    A thread cannot be stopped half-way, and must not go on writing to a file that was given up.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
