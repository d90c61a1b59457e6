"""The key files of a home: made once, never overwritten, never given out.

`keys/log.pem`, `twin.pem`, `node-<n>.pem` and `ca.pem` sign; `find.key` makes the blind index;
`kek/<month>.key` wraps secrets. All are different keys. What leaves this module is something that
signs, tags or wraps, never the key: no function returns one.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from evidence.content import KEY_BYTES, Randomness, Wrap
from evidence.errors import HomeRefused, NotFound, StorageFull
from models.canonical import JSONValue, canonical_text, format_time, quoted
from models.digest import Algorithm, hasher
from models.errors import Malformed, SigningUnavailable
from models.signature import Signer, SM2Signer

Clock = Callable[[], datetime]

FIND_KEY_BYTES = 32
TAG_BYTES = 16
_MODE = 0o600
_OTHERS = 0o077
_BLOCK_BYTES = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_MONTH = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])", re.ASCII)


def sync_folder(folder: Path) -> None:
    """The folder's entries are on the disk: a name made in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """The folder exists, for its owner only, and so do its parents, flushed."""
    missing = [folder, *folder.parents]
    for path in reversed(missing[: next(i for i, path in enumerate(missing) if path.exists())]):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        sync_folder(path.parent)


def write_once(path: Path, data: bytes, *, randomness: Randomness, mode: int = _MODE) -> bool:
    """`path` exists and is whole: with `data` if it was absent (True), else unchanged (False).

    The bytes are flushed under another name and then linked, so that a crash never leaves half a
    key that could be neither used nor replaced, and of two writers one wins.
    Raises: StorageFull if the disk refuses.
    """
    spare = path.parent / f".{path.name}.{randomness(8).hex()}"
    try:
        make_folder(path.parent)
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(spare, path)
        except FileExistsError:
            return False
        finally:
            spare.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise StorageFull(f"file {path.name} cannot be written: {error.strerror}", retry_after_s=30) from error
    return True


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody but its owner may read.

    Raises: NotFound if it is absent; HomeRefused if others may read or write it, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if os.name == "posix" and mode & _OTHERS:
                raise HomeRefused(
                    f"key file {path.name} is open to others: expected mode 0600, got {mode:04o}",
                    hint=f"make it private with chmod 600, and replace the key if others may have read {path.name}",
                )
            return file.read()
    except FileNotFoundError as error:
        raise NotFound(f"key file {path.name} is absent: expected in the folder keys of the home") from error
    except OSError as error:
        raise HomeRefused(f"key file {path.name} cannot be read: {error.strerror}") from error


class TimedSigner:
    """A signer that signs only within its key's validity; what it signed stays verifiable as of its time.

    Source: T/SAC 004—2024 6.4.3-b.
    """

    __slots__ = ("_clock", "_name", "_signer", "not_after", "not_before")

    def __init__(self, signer: Signer, *, name: str, not_before: datetime, not_after: datetime, clock: Clock) -> None:
        self._signer = signer
        self._name = name
        self._clock = clock
        self.not_before = not_before
        self.not_after = not_after

    def __repr__(self) -> str:
        return f"TimedSigner({self._name})"

    @property
    def public_key(self) -> bytes:
        """The public key: 65 bytes 04‖X‖Y."""
        return self._signer.public_key

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`, made within the key's validity.

        Shapes: any length → 64 bytes r‖s.
        Raises: SigningUnavailable before not_before and after not_after.
        """
        now = self._clock()
        if now < self.not_before:
            raise SigningUnavailable(f"key {self._name} is not valid yet: expected from {format_time(self.not_before)} on")
        if now > self.not_after:
            raise SigningUnavailable(
                f"key {self._name} has expired: expected until {format_time(self.not_after)}",
                hint="make a new key and let both sign for a while; what the old one signed still verifies",
            )
        return self._signer.sign(message)


class FindKey:
    """K_find: turns what is searched for into a tag that nobody without the key can compute or guess.

    Source: formats §1 (blind search index), §7.3.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) != FIND_KEY_BYTES:
            raise Malformed(f"search key has wrong length: expected {FIND_KEY_BYTES} bytes, got {len(key)}")
        block = key.ljust(_BLOCK_BYTES, b"\x00")
        self._inner = hasher(Algorithm.SM3, bytes(byte ^ 0x36 for byte in block))
        self._outer = hasher(Algorithm.SM3, bytes(byte ^ 0x5C for byte in block))

    def __repr__(self) -> str:
        return "FindKey(…)"

    def tag(self, kind: str, value: JSONValue) -> bytes:
        """HMAC-SM3(K_find, JCS(["cz-find/1", kind, value])), cut.

        Shapes: JSON value → 16 bytes.
        Raises: Malformed if the value cannot stand in canonical JSON.
        """
        inner, outer = self._inner.copy(), self._outer.copy()
        text = quoted(value) if type(value) is str else canonical_text(value)
        inner.update(f'["cz-find/1",{quoted(kind)},{text}]'.encode())
        outer.update(inner.digest())
        return outer.digest()[:TAG_BYTES]


class WrappingKeys:
    """The KEKs of a home, one a month; the month's key is made when the month first needs it. Threads may share it.

    Source: formats §2.1 (KEK new each month).
    """

    def __init__(self, folder: Path, *, clock: Clock, randomness: Randomness = os.urandom) -> None:
        self._folder = folder
        self._clock = clock
        self._randomness = randomness
        self._wraps: dict[str, Wrap] = {}
        self._lock = threading.Lock()

    def current(self) -> tuple[str, Wrap]:
        """This month's name and key; its file is on the disk before anything is wrapped under it.

        Raises: HomeRefused, StorageFull if it cannot be made or read.
        """
        now = self._clock()
        month = f"{now.year:04d}-{now.month:02d}"
        wrap = self._wraps.get(month)
        if wrap is None:
            write_once(self._folder / f"{month}.key", self._randomness(KEY_BYTES), randomness=self._randomness)
            wrap = self.get(month)
        return month, wrap

    def get(self, month: str) -> Wrap:
        """The key of a month.

        Raises: NotFound if it is absent; HomeRefused if others may read it or it is damaged.
        """
        wrap = self._wraps.get(month)
        if wrap is not None:
            return wrap
        if not _MONTH.fullmatch(month):
            raise NotFound("wrapping key has no such month: expected for example 2026-11")
        with self._lock:
            if month not in self._wraps:
                key = read_private(self._folder / f"{month}.key")
                if len(key) != KEY_BYTES:
                    raise HomeRefused(f"key file {month}.key has wrong length: expected {KEY_BYTES} bytes, got {len(key)}")
                self._wraps[month] = Wrap(key, randomness=self._randomness)
        return self._wraps[month]


class HomeKeys:
    """The folder `keys` of a home."""

    def __init__(self, home: Path, *, clock: Clock, randomness: Randomness = os.urandom) -> None:
        self._folder = home / "keys"
        self._clock = clock
        self._randomness = randomness
        self.wrapping = WrappingKeys(self._folder / "kek", clock=clock, randomness=randomness)

    def create_signer(self, name: str) -> bool:
        """The signing key `name` exists; True if it was made now. An existing one is never touched.

        Raises: SigningUnavailable if libcrypto has no SM2; StorageFull.
        """
        path = self._pem(name)
        return not path.exists() and write_once(path, SM2Signer.generate().to_pem(), randomness=self._randomness)

    def create_find_key(self) -> bool:
        """K_find exists; True if it was made now. Raises: StorageFull."""
        path = self._folder / "find.key"
        return not path.exists() and write_once(path, self._randomness(FIND_KEY_BYTES), randomness=self._randomness)

    def signer(self, name: str, *, not_before: datetime, not_after: datetime) -> TimedSigner:
        """The signer of key `name`, for its time of validity only.

        Raises: SigningUnavailable if the key is absent, or libcrypto has no SM2; HomeRefused if the
            file is open to others or damaged.
        """
        return TimedSigner(self._open(name), name=name, not_before=not_before, not_after=not_after, clock=self._clock)

    def find_key(self) -> FindKey:
        """K_find. Raises: NotFound if it is absent; HomeRefused."""
        key = read_private(self._folder / "find.key")
        if len(key) != FIND_KEY_BYTES:
            raise HomeRefused(f"key file find.key has wrong length: expected {FIND_KEY_BYTES} bytes, got {len(key)}")
        return FindKey(key)

    def names(self) -> list[str]:
        """The names of the signing keys that exist, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.pem") if not path.name.startswith("."))

    def _pem(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise Malformed("key name has wrong form: expected a-z, 0-9 and -")
        return self._folder / f"{name}.pem"

    def _open(self, name: str) -> SM2Signer:
        try:
            pem = read_private(self._pem(name))
        except NotFound as error:
            raise SigningUnavailable(error.message, hint="run evidence init") from error
        try:
            return SM2Signer.from_pem(pem)
        except Malformed as error:
            raise HomeRefused(f"key file {name}.pem is damaged: expected an SM2 key as PKCS#8 PEM") from error
