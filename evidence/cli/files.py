"""Files and streams that the command line names: read within a bound, written whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from evidence.cli.console import Console
from evidence.cli.exits import Usage
from models.canonical import JSONValue, parse
from models.errors import Malformed

MAX_FILE_BYTES = 1 << 30
"""The limit of a bundle (formats §6.2); nothing larger is read whole."""


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _bounded(stream: BinaryIO, limit: int, what: str) -> bytes:
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise Malformed(f"{what} is too long: expected at most {limit} bytes")
    return data


def read(path: str, what: str, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of the file `path`, or of standard input for `-`.

    Raises: Usage if it cannot be read; Malformed if it has more than `limit` bytes.
    """
    try:
        if path == "-":
            return _bounded(sys.stdin.buffer, limit, what)
        with Path(path).open("rb") as stream:
            return _bounded(stream, limit, what)
    except OSError as error:
        raise Usage(f"{what} cannot be read: {_why(error)} ({path})") from error
    except ValueError as error:
        raise Usage(f"{what} cannot be read: the path is not one") from error


def read_json(path: str, what: str, *, limit: int = 1 << 20) -> JSONValue:
    """The value of a strict JSON file. Raises: Usage, Malformed."""
    return parse(read(path, what, limit=limit), max_bytes=limit)


def write(console: Console, path: str, data: bytes, *, private: bool = False, fresh: bool = False) -> None:
    """`data` is in the file `path`, whole and flushed, or on standard output for `-`.

    `private` leaves it readable by its owner alone; `fresh` refuses to replace a file that exists.
    Raises: Usage if it cannot be written or, with `fresh`, exists with other content.
    """
    if path == "-":
        console.raw(data)
        return
    target = Path(path)
    try:
        if fresh and target.exists():
            raise Usage(f"file exists and is not replaced: choose another name ({path})")
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if not private:
                mask = os.umask(0)
                os.umask(mask)
                Path(name).chmod(0o666 & ~mask)
            Path(name).replace(target)
        except BaseException:  # also Ctrl-C leaves no half file
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        why = _why(error) if isinstance(error, OSError) else "the path is not one"
        raise Usage(f"file cannot be written: {why} ({path})") from error
