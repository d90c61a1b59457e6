"""What every route needs of a request: its id, its caller, its body within bounds."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable

from starlette.types import Receive, Scope

from evidence.access import Access, Caller
from evidence.api.problems import BodyLate, UnsupportedMedia
from evidence.errors import TooLarge, Unauthorised
from models.canonical import MAX_BODY_BYTES, JSONValue, parse
from models.errors import Malformed
from models.opaque import kinds

BODY_TIMEOUT_S = 30.0
"""Within this time the whole of a JSON body has to arrive; a slower client is answered 408."""

IN_LINE_BYTES = 32 << 10
"""A longer body is parsed in a thread, so that one caller's long body does not hold up the others."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_JSON = re.compile(rb"application/json(?:[ \t]*;[ \t]*charset[ \t]*=[ \t]*\"?utf-8\"?)?[ \t]*", re.IGNORECASE)


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the first header `name` (lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


class RequestIds:
    """Gives each request its id: the caller's own if that is 1–64 safe characters, else a fresh one of 32 hex digits.

    A fresh id is 8 random bytes of this process and a count: drawing randomness for each request would hand the
    interpreter's lock over each time.
    """

    def __init__(self, randomness: Callable[[int], bytes]) -> None:
        self._prefix = randomness(8).hex()
        self._count = itertools.count()

    def of(self, scope: Scope) -> str:
        """The id of the request of `scope`."""
        given = header(scope, b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given) and not kinds(given.decode("ascii")):
            # One that looks like a person's number is not taken over: it would stand in logs and audit rows.
            return given.decode("ascii")
        return f"{self._prefix}{next(self._count):016x}"


def caller_of(scope: Scope, access: Access) -> Caller:
    """Who is calling, by the bearer token.

    Raises: Unauthorised if there is no token, or it is unknown, expired or revoked.
    """
    value = header(scope, b"authorization")
    if value is None:
        raise Unauthorised(
            "request has no access token: expected Authorization: Bearer", hint="set EVIDENCE_TOKEN or EVIDENCE_TOKEN_FILE"
        )
    if value[:7].lower() != b"bearer " or not 1 <= len(value) - 7 <= 256 or not value.isascii():
        raise Unauthorised("authorization has wrong form: expected Bearer and a token")
    return access.authenticate(value[7:].strip().decode("ascii"))


def declared_length(scope: Scope) -> int | None:
    """The Content-Length in bytes, or None where the body is chunked.

    Raises: Malformed if it is no number.
    """
    value = header(scope, b"content-length")
    if value is None:
        return None
    if not _LENGTH.fullmatch(value):
        raise Malformed("content-length has wrong form: expected a number of bytes")
    return int(value)


def check_plain(scope: Scope) -> None:
    """The body comes as it is, without a content coding.

    Raises: UnsupportedMedia otherwise: nothing here unpacks what a stranger sends.
    """
    coding = header(scope, b"content-encoding")
    if coding is not None and coding.strip().lower() not in (b"", b"identity"):
        raise UnsupportedMedia("content coding is not supported: expected the body as it is")


async def read_body(scope: Scope, receive: Receive, *, limit: int = MAX_BODY_BYTES, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The whole body, at most `limit` bytes; judged by its declared length first and again while it arrives.

    Raises: TooLarge above the limit; BodyLate if it stops early or takes longer than `timeout_s`; Malformed
        if Content-Length is no number; UnsupportedMedia if it has a content coding.
    """
    check_plain(scope)
    declared = declared_length(scope)
    if declared is not None and declared > limit:
        raise TooLarge(f"body is too large: expected at most {limit} bytes, got {declared}")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        # Nearly always: the body came with the headers, and no timer is needed.
        first: bytes = message.get("body", b"")
        return _whole(first, declared, limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if message["type"] != "http.request":
                    raise BodyLate(f"body ended early: expected {declared} bytes, got {size}")
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"body is too large: expected at most {limit} bytes, got more")
                chunks.append(chunk)
                if not message.get("more_body"):
                    return _whole(b"".join(chunks), declared, limit)
                message = await receive()
    except TimeoutError as error:
        raise BodyLate(f"body did not arrive in time: expected within {timeout_s:g} s, got {size} bytes") from error


def _whole(body: bytes, declared: int | None, limit: int) -> bytes:
    if len(body) > limit:
        raise TooLarge(f"body is too large: expected at most {limit} bytes, got {len(body)}")
    if declared is not None and declared != len(body):
        raise Malformed(f"body has another length than declared: expected {declared} bytes, got {len(body)}")
    return body


class LongBodies:
    """Parses long bodies one at a time beside the loop; after one that was refused, nobody's long body for as long again.

    So refused bodies, from however many connections, take at most half of one core from everyone else.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def parse(self, body: bytes, *, limit: int) -> JSONValue:
        """The value of `body`. Raises: Malformed."""
        async with self._turn:
            began = time.perf_counter()
            try:
                return await asyncio.to_thread(parse, body, max_bytes=limit)
            except Malformed:
                await asyncio.sleep(time.perf_counter() - began)
                raise


async def read_json(scope: Scope, receive: Receive, *, limit: int = MAX_BODY_BYTES, in_line: int = IN_LINE_BYTES) -> JSONValue:
    """The value of the strict JSON body; one longer than `in_line` bytes is parsed beside the loop.

    Raises: UnsupportedMedia if its type is not application/json in UTF-8; Malformed if it is no strict
        JSON; TooLarge, BodyLate as `read_body`.
    """
    kind = header(scope, b"content-type")
    if kind is None or not _JSON.fullmatch(kind):
        raise UnsupportedMedia("content type is not supported: expected application/json in UTF-8")
    body = await read_body(scope, receive, limit=limit)
    if len(body) <= in_line:
        return parse(body, max_bytes=limit)
    long_bodies: LongBodies = scope["long_bodies"]
    return await long_bodies.parse(body, limit=limit)
