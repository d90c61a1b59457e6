"""Which file is which when names move on: files known by inode and first bytes, and the order of rotated names."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.commitment import hmac_sm3
from streaming.port import SourceRefused, SourceUnavailable

HEAD_BYTES: Final = 1024
TAIL_BYTES: Final = 64
_FINGERPRINT_BYTES: Final = 8
_DATE_DIGITS: Final = 6

_IDENTITY = re.compile(r"file ([0-9]{1,20}) head ([0-9]{1,4}) ([0-9a-f]{16})", re.ASCII)
_ROTATED = re.compile(r"[.-]([0-9][0-9T:._-]*)", re.ASCII)


@dataclass(slots=True)
class Known:
    """An open file and what it is known by: its inode and what it began with when it was first seen."""

    descriptor: int
    inode: int
    head: bytes = b""

    def identity(self, key: bytes) -> str:
        """What the file is, for whoever holds `key` and for nobody else: its first bytes can hardly be guessed from it."""
        return f"file {self.inode} head {len(self.head)} {_fingerprint(self.head, key)}"

    def remember_head(self) -> None:
        """What the file begins with now is what it is known by from here on."""
        self.head = self.read(0, HEAD_BYTES)

    def size(self) -> int:
        """How many bytes the file has now."""
        return os.fstat(self.descriptor).st_size

    def read(self, start: int, count: int) -> bytes:
        """The bytes from `start` on, at most `count`, fewer only at the end."""
        return os.pread(self.descriptor, count, start) if count > 0 else b""

    def is_at(self, path: Path) -> bool:
        """Whether `path` still names this file; a name that nobody has says nothing yet."""
        try:
            return path.stat().st_ino == self.inode
        except OSError:
            return True

    def close(self) -> None:
        """The file is closed."""
        os.close(self.descriptor)


def _fingerprint(head: bytes, key: bytes) -> str:
    return hmac_sm3(key, head)[:_FINGERPRINT_BYTES].hex()


def open_regular(path: Path) -> Known:
    """The file at `path`, known by what it begins with.

    Raises: SourceUnavailable if there is none yet; SourceRefused if it may not be read or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise SourceUnavailable(f"log file does not exist ({path.name})", hint="check the path, or wait for it") from error
    except (PermissionError, IsADirectoryError) as error:
        raise SourceRefused(f"log file may not be read ({path.name})", hint="run as a user who may read it") from error
    except OSError as error:
        raise SourceUnavailable(f"log file cannot be opened: {error.strerror} ({path.name})") from error
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise SourceRefused(f"source is no regular file ({path.name})", hint="pipe it into standard input instead: -")
    known = Known(descriptor, about.st_ino)
    known.remember_head()
    return known


def predecessor(path: Path, identity: str, offset: int, key: bytes, *, tail: bytes = b"") -> tuple[Known, bool] | None:
    """The file of that `identity`, which was read up to `offset` and there ended with `tail`; None if it is not found.

    It lies at `path` itself, or beside it under a rotated name; the second member says whether what was
    found is a copy of it, under another inode, while the file itself was emptied.
    """
    match = _IDENTITY.fullmatch(identity)
    if match is None:
        return None
    inode, head, fingerprint = int(match[1]), int(match[2]), match[3]
    copies: list[Path] = []
    for candidate in (path, *rotated(path)):
        known = _try(candidate)
        if known is None:
            continue
        known.head = known.read(0, head)
        same = known.size() >= max(offset, head) and _fingerprint(known.head, key) == fingerprint
        same = same and (not tail or known.read(offset - len(tail), len(tail)) == tail)
        if same and known.inode == inode:
            return known, False
        if same and head and candidate != path:
            copies.append(candidate)
        known.close()
    for candidate in copies:
        known = _try(candidate)
        if known is not None:
            known.head = known.read(0, head)
            return known, True
    return None


def _try(path: Path) -> Known | None:
    try:
        return open_regular(path)
    except (SourceUnavailable, SourceRefused):
        return None


def rotated(path: Path) -> list[Path]:
    """The files beside `path` that have its name and a number or date behind it, the newest first; compressed ones are none."""
    found: list[tuple[tuple[int, str], Path]] = []
    for beside in path.parent.glob(f"{_literal(path.name)}[.-]*"):
        match = _ROTATED.fullmatch(beside.name[len(path.name) :])
        if match:
            found.append((_age(match[1]), beside))
    return [beside for _, beside in sorted(found)]


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _age(suffix: str) -> tuple[int, str]:
    """Ascends with age: numbers count up from the newest, dates down."""
    digits = re.sub(r"[^0-9]", "", suffix)
    if len(digits) < _DATE_DIGITS:
        return int(digits), ""
    return 0, "".join(chr(0x10FFFF - ord(character)) for character in suffix)


def successors(path: Path, file: Known) -> list[Path] | None:
    """The files that came after `file`, which lies beside `path` under a rotated name, oldest first, without `path`.

    None if `file` is not there any more, so that nobody can tell what came after it.
    """
    newer: list[Path] = []
    for beside in rotated(path):
        try:
            if beside.stat().st_ino == file.inode:
                return newer[::-1]
        except OSError:
            continue
        newer.append(beside)
    return None
