"""One call to a service and what may come of it, without a socket: both clients drive these steps.

A step is a `Call` to be sent or a `Pause` to be waited; what is sent back is an `Answer`, or a
`Failure` if none came. Only calls that may be repeated without harm are repeated: every read, and
writes that the service knows again by their `client_key` or digest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from evidence.errors import (
    Ambiguous,
    Conflict,
    Erased,
    Forbidden,
    NotFinal,
    NotFound,
    Overloaded,
    ServiceError,
    Stale,
    StorageFull,
    TooLarge,
    Unauthorised,
    Unready,
)
from models.canonical import JSONValue, parse
from models.errors import EvidenceError, Invalid, Malformed, Problem

Value = TypeVar("Value")

MAX_ANSWER_BYTES = 64 << 20
MAX_BUNDLE_BYTES = 1 << 30
_RETRY_STATUS = frozenset({408, 425, 429, 502, 503, 504})
_TYPE = re.compile(r"(?:.*/)?problems/([a-z0-9-]{1,64})")
_WHOLE = re.compile(r"[0-9]{1,6}", re.ASCII)


class Unreachable(ServiceError):
    """No answer came from the service, or none that this client understands (4)."""


class Answered(Exception):
    """The problem document (RFC 9457) behind an error: its cause, never raised alone, so that nobody parses messages."""

    def __init__(self, status: int, body: JSONValue) -> None:
        super().__init__(f"the service answered {status}")
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `body` makes its chunks anew for each attempt; `sink` takes a successful answer's bytes as they come."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: JSONValue = None
    body: Callable[[], Iterable[bytes]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    timeout_s: float | None = None
    limit: int = MAX_ANSWER_BYTES
    sink: Callable[[], Callable[[bytes], object]] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """No response came; `sent` says whether the request may have reached the service."""

    reason: str
    sent: bool


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long, then go on."""

    seconds: float


Steps = Generator[Call | Pause, Answer | Failure | None, Value]


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a call is repeated: delays double from `first_s` to `longest_s`, `total_s` in all."""

    attempts: int = 5
    first_s: float = 0.1
    longest_s: float = 5.0
    total_s: float = 30.0
    jitter: Callable[[], float] = lambda: 0.5
    """A number from 0 to 1, so that clients which failed together do not return together."""


def _retry_after(answer: Answer) -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text) if _WHOLE.fullmatch(text) else None


def exchange(call: Call, patience: Patience) -> Steps[Answer]:
    """The answer to `call`, of any status below 400, after as many repeats as are harmless and promising.

    Raises: the error that the last answer names (see `raise_for`); Unreachable if none came.
    """
    waited, delay = 0.0, patience.first_s
    for attempt in range(1, patience.attempts + 1):
        result = yield call
        if isinstance(result, Answer) and result.status < 400:
            return result
        pause = delay * (0.5 + patience.jitter() / 2)
        if isinstance(result, Answer):
            asked = _retry_after(result)
            # A refusal with Retry-After says that nothing was done, so even a call that is no repeat may be sent again.
            again = result.status in _RETRY_STATUS and (call.repeatable or asked is not None)
            pause = max(pause, asked or 0.0)
        else:
            again = isinstance(result, Failure) and (call.repeatable or not result.sent)
        if not again or attempt == patience.attempts or waited + pause > patience.total_s:
            break
        yield Pause(pause)
        waited += pause
        delay = min(2 * delay, patience.longest_s)
    if isinstance(result, Answer):
        raise_for(result)
    reason = result.reason if isinstance(result, Failure) else "nothing was received"
    raise Unreachable(f"service cannot be reached: {reason}", hint="is it running, and is --url or EVIDENCE_URL right?")


def json_of(answer: Answer) -> JSONValue:
    """The JSON value of an answer's body. Raises: Unreachable if it is none."""
    try:
        return parse(answer.body, max_bytes=MAX_ANSWER_BYTES)
    except Malformed as error:
        raise Unreachable(
            f"answer is not what this service sends: {error.message}", hint="does --url name an evidence service?"
        ) from error


def object_of(answer: Answer) -> dict[str, JSONValue]:
    """The JSON object of an answer's body. Raises: Unreachable if it is none."""
    value = json_of(answer)
    if not isinstance(value, dict):
        raise Unreachable("answer is not what this service sends: expected an object")
    return value


def _problems(body: Mapping[str, JSONValue]) -> tuple[Problem, ...]:
    listed = body.get("errors")
    found = []
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict):
            names = ("pointer", "field", "field_zh", "expected", "got", "clause")
            found.append(Problem(*(str(each.get(name) or "") for name in names)))
    return tuple(found)


_BY_TYPE: dict[str, type[EvidenceError]] = {
    "not-final": NotFinal,
    "ambiguous": Ambiguous,
    "stale": Stale,
    "not-found": NotFound,
    "unauthorised": Unauthorised,
    "unauthorized": Unauthorised,
    "forbidden": Forbidden,
}
_BY_STATUS: dict[int, type[EvidenceError]] = {
    401: Unauthorised,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    507: StorageFull,
}


def _unready(status: int, message: str, retry_after_s: float | None, hint: str | None) -> Unready:
    kind = {429: Overloaded, 507: StorageFull}.get(status, Unready)
    return kind(message, retry_after_s=int(retry_after_s or 5), hint=hint)


def error_of(status: int, body: JSONValue, *, retry_after_s: float | None = None) -> EvidenceError:
    """The error that a problem document of that status stands for: the same classes as inside the service."""
    document = body if isinstance(body, dict) else {}
    named = _TYPE.fullmatch(str(document.get("type", "")))
    kind = named[1] if named else ""
    message = str(document.get("detail") or document.get("title") or f"the service answered {status}")
    hint = str(document["hint"]) if document.get("hint") else None
    if kind == "conflict" or (status == 409 and kind not in _BY_TYPE):
        record = document.get("record_id")
        return Conflict(message, record_id=str(record) if record else None, hint=hint)
    if status == 410:
        return Erased(message)
    if status == 422 or document.get("errors"):
        return Invalid(message, _problems(document), hint=hint)
    if status in {429, 503, 507}:
        return _unready(status, message, retry_after_s, hint)
    late = status >= 500 or status in {408, 425}
    found = _BY_TYPE.get(kind) or _BY_STATUS.get(status) or (Unreachable if late else Malformed)
    return found(message, hint=hint)


def raise_for(answer: Answer) -> NoReturn:
    """Raise what an answer of status 400 or above says; the document stands as the error's cause.

    Raises: NotFound, Ambiguous, Conflict, Stale, Erased, Unauthorised, Forbidden, NotFinal, TooLarge, Unready,
        Overloaded, StorageFull, Invalid, Malformed, Unreachable.
    """
    try:
        body = parse(answer.body, max_bytes=MAX_ANSWER_BYTES)
    except Malformed:
        body = None
    raise error_of(answer.status, body, retry_after_s=_retry_after(answer)) from Answered(answer.status, body)
