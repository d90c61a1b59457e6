"""What is kept of a slice: its records in a file apart from the database, its counts beside its row.

Both lie under keys that only the slice's own secret gives, so that destroying the secret destroys
them. The counts alone answer how often a keyword stood in the slice, with proof; the file is needed
only to show the lines.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json import loads
from pathlib import Path
from typing import Final

import zstandard

from evidence.content import Randomness, Wrap
from evidence.errors import NotFound
from evidence.steps import Step, StepFunction, no_step
from evidence.upload import ObjectFolder, disk
from models.canonical import JSONValue, b64u, canonical, unb64u
from models.commitment import derive
from models.counting import Counted
from models.errors import Malformed, VerificationError
from models.record import Buffer
from streaming.archive import NONCE_BYTES, open_sealed, seal, unpack

OBJECT_ID_BYTES: Final = 16
MAX_COUNTS_BYTES: Final = 64 << 20
_LEVEL: Final = 3


def _wrap(secret: bytes, tag: str, evidence_id: str, randomness: Randomness = os.urandom) -> Wrap:
    return Wrap(derive(secret, tag, evidence_id), randomness=randomness)


def _file_key(secret: bytes, slice_id: str) -> bytes:
    return derive(secret, "cz-slice-file/1", slice_id)


# --- records --------------------------------------------------------------------------------------------------------


class SliceArchive:
    """Files of slices under `streams` of a home, by random object id. Threads may share it."""

    def __init__(self, home: Path, *, randomness: Randomness = os.urandom, step: StepFunction = no_step) -> None:
        self._folder = ObjectFolder(home, name="streams")
        self._randomness, self._step = randomness, step

    def put(self, packed: bytes, *, secret: bytes, slice_id: str) -> bytes:
        """The packed slice is on the disk, encrypted under a key of its own; the id of its file.

        Until `keep` the file is also named in `tmp`: if we die between here and the commit of its row,
        `sweep` finds it there.
        Raises: StorageFull if the disk refuses.
        """
        object_id = self._randomness(OBJECT_ID_BYTES)
        sealed = seal(packed, key=_file_key(secret, slice_id), nonce=self._randomness(NONCE_BYTES), slice_id=slice_id)
        self._folder.prepare()
        path = self._folder.temporary(object_id)
        self._step(Step.SLICE_WRITE_BEFORE)
        with disk():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
        self._step(Step.SLICE_WRITE_AFTER)
        self._step(Step.SLICE_RENAME_BEFORE)
        self._folder.publish([object_id])
        self._step(Step.SLICE_RENAME_AFTER)
        return object_id

    def keep(self, object_id: bytes) -> None:
        """The file's row is committed."""
        self._step(Step.SLICE_KEEP_BEFORE)
        self._folder.keep([object_id])
        self._step(Step.SLICE_KEEP_AFTER)

    def drop(self, object_id: bytes) -> None:
        """The file is gone: no row was committed for it, or its slice was erased."""
        self._folder.remove([object_id])

    def get(self, object_id: bytes, *, secret: bytes, slice_id: str) -> Buffer:
        """The records of a slice.

        Raises: NotFound if the file is away; VerificationError if it was altered.
        """
        try:
            sealed = self._folder.path(object_id).read_bytes()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NotFound(
                    f"the archive of the slice is away: its index still answers counts ({slice_id})",
                    hint="bring the folder streams of the home back",
                ) from error
            raise VerificationError(f"archive of the slice cannot be read ({slice_id})") from error
        try:
            return unpack(open_sealed(sealed, key=_file_key(secret, slice_id), slice_id=slice_id))
        except Malformed as error:
            raise VerificationError(f"archive of the slice was altered: {error.message}") from error

    def sweep(self, known: Callable[[Sequence[bytes]], set[bytes]]) -> None:
        """Files that a crash left without a row are gone; those with one are settled. Before intake begins."""
        waiting = self._folder.unsettled()
        stored = known(waiting) if waiting else set()
        self._folder.keep([object_id for object_id in waiting if object_id in stored])
        self._folder.remove([object_id for object_id in waiting if object_id not in stored])


# --- counts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """What stood in a slice: every keyword by rank, zeros included, and for each rule its values ascending."""

    index: tuple[Counted, ...]
    values: tuple[tuple[Counted, ...], ...]


class _Zstd(threading.local):
    """One of each for a thread: to make one costs fifty times what it does to a small slice's counts."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def _packed(value: JSONValue) -> bytes:
    return _zstd.compressor.compress(canonical(value))


def _unpacked(packed: bytes) -> JSONValue:
    """What `_packed` was given: bytes that only our own key opened, so that they are what we once wrote."""
    return loads(_zstd.decompressor.decompress(packed, max_output_size=MAX_COUNTS_BYTES))


@lru_cache(maxsize=64)
def _zeros(keywords: tuple[bytes, ...]) -> tuple[Counted, ...]:
    return tuple(Counted(keyword, 0, []) for keyword in keywords)


def seal_counts(counts: Counts, *, secret: bytes, evidence_id: str, randomness: Randomness = os.urandom) -> bytes:
    """The counts compressed and encrypted; keywords that do not occur take no room."""
    value = [
        [[rank, entry.n, [[line, n] for line, n in entry.lines]] for rank, entry in enumerate(counts.index) if entry.n],
        [[[b64u(e.keyword), e.n, [[line, n] for line, n in e.lines]] for e in values] for values in counts.values],
    ]
    return _wrap(secret, "cz-slice-counts/1", evidence_id, randomness).seal(_packed(value), aad=b"counts")


def open_counts(sealed: bytes, keywords: tuple[bytes, ...], *, secret: bytes, evidence_id: str) -> Counts:
    """What `seal_counts` was given. Raises: VerificationError if the stored bytes were altered."""
    packed = _wrap(secret, "cz-slice-counts/1", evidence_id).open(sealed, aad=b"counts", what="counts of the slice")
    try:
        value = _unpacked(packed)
        found = list(_zeros(keywords))
        for rank, n, lines in value[0]:
            found[rank] = Counted(keywords[rank], n, [(line, count) for line, count in lines])
        values = tuple(
            tuple(Counted(unb64u(v), n, [(line, count) for line, count in lines]) for v, n, lines in entries)
            for entries in value[1]
        )
    except (zstandard.ZstdError, Malformed, IndexError, TypeError, ValueError) as error:
        raise VerificationError("counts of the slice cannot be read") from error
    return Counts(tuple(found), values)


# --- keywords of a declaration --------------------------------------------------------------------------------------


def seal_keywords(keywords: Sequence[bytes], *, secret: bytes, evidence_id: str, randomness: Randomness = os.urandom) -> bytes:
    """K of a declaration, encrypted under the secret of its item."""
    packed = _packed([b64u(keyword) for keyword in keywords])
    return _wrap(secret, "cz-stream-keywords/1", evidence_id, randomness).seal(packed, aad=b"keywords")


def open_keywords(sealed: bytes, *, secret: bytes, evidence_id: str) -> tuple[bytes, ...]:
    """What `seal_keywords` was given. Raises: VerificationError."""
    packed = _wrap(secret, "cz-stream-keywords/1", evidence_id).open(sealed, aad=b"keywords", what="keywords of the stream")
    return tuple(unb64u(keyword) for keyword in _unpacked(packed))
