"""Which exit code an outcome has, and the document that goes with it.

0, 1 and 2 are answers and stand only beside a document on stdout; every other code says that
there is no answer.
"""

from __future__ import annotations

from enum import IntEnum

from evidence.errors import (
    Ambiguous,
    Conflict,
    Erased,
    Forbidden,
    HomeRefused,
    NotFinal,
    NotFound,
    ServiceError,
    SettingWrong,
    Stale,
    StorageFull,
    TooLarge,
    Unauthorised,
    Unready,
)
from models.canonical import JSONValue
from models.errors import EvidenceError, Invalid, Malformed, SigningUnavailable, Undecided, Unknown, VerificationError


class Exit(IntEnum):
    """The exit codes of every verb (interface §2)."""

    DONE = 0
    REFUSED = 1
    UNDECIDED = 2
    MALFORMED = 3
    UNREACHABLE = 4
    USAGE = 64
    INTERNAL = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


ANSWERS = frozenset({Exit.DONE, Exit.REFUSED, Exit.UNDECIDED})


class Usage(EvidenceError):
    """The command line cannot be followed as it stands (64)."""


# The first class that fits decides, so special ones stand before general ones.
_TABLE: tuple[tuple[type[EvidenceError], Exit], ...] = (
    (Usage, Exit.USAGE),
    (SettingWrong, Exit.USAGE),
    (NotFinal, Exit.UNDECIDED),
    (Unauthorised, Exit.REFUSED),
    (Forbidden, Exit.REFUSED),
    (NotFound, Exit.REFUSED),
    (Ambiguous, Exit.REFUSED),
    (Conflict, Exit.REFUSED),
    (Stale, Exit.REFUSED),
    (Erased, Exit.REFUSED),
    (TooLarge, Exit.MALFORMED),
    (StorageFull, Exit.UNREACHABLE),
    (Unready, Exit.UNREACHABLE),
    (HomeRefused, Exit.UNREACHABLE),
    (ServiceError, Exit.UNREACHABLE),
    (VerificationError, Exit.REFUSED),
    (Undecided, Exit.UNDECIDED),
    (Invalid, Exit.MALFORMED),
    (Malformed, Exit.MALFORMED),
    (Unknown, Exit.MALFORMED),
    (SigningUnavailable, Exit.UNREACHABLE),
)


def exit_code(error: EvidenceError) -> Exit:
    """The code with which a verb ends that met `error`."""
    for kind, code in _TABLE:
        if isinstance(error, kind):
            return code
    return Exit.INTERNAL


def _kind(error: EvidenceError) -> str:
    name = type(error).__name__
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def error_document(error: EvidenceError, request_id: str) -> dict[str, JSONValue]:
    """The problem as one JSON object: the service's own where it sent one, else ours in the same form."""
    sent = getattr(error.__cause__, "body", None)
    if isinstance(sent, dict):
        document = dict(sent)
        document.setdefault("detail", error.message)
        return document
    document = {"type": f"/problems/{_kind(error)}", "detail": error.message, "request_id": request_id}
    if error.hint:
        document["hint"] = error.hint
    if isinstance(error, Invalid):
        document["errors"] = [problem.to_json() for problem in error.problems]
    if isinstance(error, Conflict):
        document["record_id"] = error.record_id
    return document
