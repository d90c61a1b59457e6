"""One original as it lies in the archive: one object, or several tied by a manifest; read whole or by range.

Source of the splitting: T/SAC 004—2024 6.4.2-f (a largest unit, and parts that lose nothing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from evidence.content import Wrap
from evidence.segments import ObjectReader
from models.canonical import canonical, members, parse_canonical
from models.digest import Algorithm, Digest, Pair, hasher
from models.errors import EvidenceError, Malformed, VerificationError
from models.names import check_format

MANIFEST_FORMAT = "cz-parts"
MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an original above the unit limit."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ties the parts together: both digests and the size of the whole, and each part's digest and size in order."""

    pair: Pair
    size: int
    part_bytes: int
    parts: tuple[Part, ...]

    def to_bytes(self) -> bytes:
        """The manifest as it is stored: JCS."""
        return canonical(
            {
                "digest": f"sm3:{self.pair.sm3.hex()}",
                "format": f"{MANIFEST_FORMAT}/1",
                "part_bytes": self.part_bytes,
                "parts": [{"digest": str(part.digest), "size": part.size} for part in self.parts],
                "size": self.size,
                "twin": f"sha256:{self.pair.sha256.hex()}",
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest whose canonical bytes are `data`.

        Raises: Malformed if it has another form, or its parts do not tile the whole; Unknown for another version.
        """
        value = parse_canonical(data, max_bytes=MAX_MANIFEST_BYTES, what="manifest")
        check_format(value, MANIFEST_FORMAT)
        digest, _, part_bytes, parts, size, twin = members(value, "digest format part_bytes parts size twin", "manifest")
        whole, second = Digest.parse(digest), Digest.parse(twin)
        if (whole.algorithm, second.algorithm) != (Algorithm.SM3, Algorithm.SHA256):
            raise Malformed("manifest has its digests swapped: expected sm3, and sha256 as twin")
        if not isinstance(parts, list):
            raise Malformed("parts of the manifest are no array")
        found = []
        for entry in parts:
            part_digest, part_size = members(entry, "digest size", "part of the manifest")
            found.append(Part(Digest.parse(part_digest), part_size))
        manifest = cls(Pair(whole.value, second.value), size, part_bytes, tuple(found))
        manifest._check()
        return manifest

    def _check(self) -> None:
        numbers = (self.size, self.part_bytes, *(part.size for part in self.parts))
        if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in numbers):
            raise Malformed("manifest holds a size that is no positive whole number")
        *full, last = (part.size for part in self.parts) if self.parts else (0,)
        if any(size != self.part_bytes for size in full) or last > self.part_bytes or sum(full) + last != self.size:
            raise Malformed("parts of the manifest do not tile the whole")


@dataclass(frozen=True, slots=True)
class Opening:
    """An object and what opens it."""

    path: Path
    object_id: bytes
    wrap: Wrap
    size: int

    def reader(self) -> ObjectReader:
        """The object, open. Raises: VerificationError."""
        return ObjectReader(self.path, self.object_id, self.wrap, size=self.size)


class Original:
    """An original that an item owns; at most two segments of it are in memory at any time.

    Its first byte is proven to exist when it is made, every other when it is read.
    """

    def __init__(self, openings: Sequence[Opening], manifest: Manifest | None) -> None:
        self._openings = tuple(openings)
        self.manifest = manifest
        self.size = sum(opening.size for opening in openings)
        sizes = [opening.size for opening in openings]
        if manifest is not None and sizes != [part.size for part in manifest.parts]:
            raise VerificationError("stored parts are not those of the manifest: expected the same sizes in the same order")
        # The first object is opened now: an original that cannot be read is refused before a status line is sent.
        self._first: ObjectReader | None = self._openings[0].reader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """The file opened first is closed; idempotent."""
        if self._first is not None:
            self._first.close()
            self._first = None

    @property
    def part_count(self) -> int:
        """How many parts it is stored in: 1 where it does not exceed the unit limit."""
        return len(self._openings)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) in order, in pieces of at most 1 MiB; to be read once, in one thread at a time.

        Raises: Malformed if the range is not within the original; VerificationError at the first
            piece that was altered (what was given before is authentic).
        """
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise Malformed(f"range is not within the original: expected 0 to {self.size}")
        return self._chunks(start, stop)

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        try:
            begin = 0
            for number, opening in enumerate(self._openings):
                end = begin + opening.size
                if start < end and begin < stop:
                    with self._reader(number) as reader:
                        yield from reader.read(max(start, begin) - begin, min(stop, end) - begin)
                begin = end
        finally:
            self.close()

    def _reader(self, number: int) -> ObjectReader:
        if number == 0 and self._first is not None:
            first, self._first = self._first, None
            return first
        return self._openings[number].reader()

    def verify(self) -> Pair:
        """Both digests of the whole, computed from every stored byte.

        Raises: VerificationError naming the object, segment or part that was altered.
        """
        first, second = hasher(Algorithm.SM3), hasher(Algorithm.SHA256)
        for number in range(len(self._openings)):
            own = hasher(Algorithm.SM3)
            with self._reader(number) as reader:
                for piece in reader.read():
                    first.update(piece)
                    second.update(piece)
                    own.update(piece)
            if self.manifest is not None and own.digest() != self.manifest.parts[number].digest.value:
                raise VerificationError(f"part {number} of the original does not have the digest that the manifest states")
        pair = Pair(first.digest(), second.digest())
        if self.manifest is not None and pair != self.manifest.pair:
            raise VerificationError("original does not have the digests that its manifest states")
        return pair


def read_manifest(opening: Opening) -> Manifest:
    """The manifest stored in an object.

    Raises: VerificationError if it was altered or is none.
    """
    if opening.size > MAX_MANIFEST_BYTES:
        raise VerificationError(f"stored manifest is too long: expected at most {MAX_MANIFEST_BYTES} bytes, got {opening.size}")
    with opening.reader() as reader:
        data = b"".join(reader.read())
    try:
        return Manifest.parse(data)
    except VerificationError:
        raise
    except EvidenceError as error:
        raise VerificationError(f"stored manifest is damaged: {error.message}") from error
