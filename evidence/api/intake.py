"""The hot routes: POST /v1/evidence and /v1/evidence:batch, as plain ASGI.

Nothing stands between the socket and `Preservation.preserve` but a token look-up and the strict
parser; the web framework only describes these two routes.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from evidence.access import Caller, Role
from evidence.api.problems import Busy, encode, language_of, problem_value, refused
from evidence.api.requests import caller_of, declared_length, header, read_json
from evidence.bootstrap import Service
from evidence.errors import TooLarge
from evidence.preservation import Preserved
from evidence.settings import AnchorMode
from models.canonical import MAX_BODY_BYTES, JSONValue, canonical
from models.errors import EvidenceError, Invalid, Problem

Answer = tuple[int, bytes, list[tuple[bytes, bytes]]]
"""What a hot route says: a status, a JSON body, and headers beside those that every such answer has."""

MAX_BATCH_ITEMS = 1000
MAX_BATCH_BYTES = 16 << 20
BATCH_IN_LINE_BYTES = 256 << 10
"""A hundred ordinary submissions are parsed at once: a change of thread would cost more."""
MAX_WAIT_S = 300
DEFAULT_WAIT_S = 60
REALTIME_WAIT_S = 10
"""In REALTIME mode an answer waits so long for its chain (architecture §5, Anchor modes)."""


def wait_of(query: bytes) -> int | None:
    """For how many seconds the caller wants to wait for finality, or None.

    Raises: QueryRefused if a parameter is unknown, stands twice or has a wrong form.
    Source: interface §3 (POST /v1/evidence[?wait=final&timeout_s=]).
    """
    if not query:
        return None
    seen: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=None):
        if name not in ("wait", "timeout_s") or name in seen:
            raise refused("wait", "等待", "only wait and timeout_s, once each", "another parameter")
        seen[name] = value
    if seen.get("wait", "final") != "final":
        raise refused("wait", "等待", "final", f"text of {len(seen['wait'])} characters")
    timeout = seen.get("timeout_s", str(DEFAULT_WAIT_S))
    if not (timeout.isascii() and timeout.isdigit() and 1 <= len(timeout) <= 3 and 1 <= int(timeout) <= MAX_WAIT_S):
        raise refused("timeout_s", "等待秒数", f"a whole number from 1 to {MAX_WAIT_S}", f"text of {len(timeout)} characters")
    if "wait" not in seen:
        raise refused("timeout_s", "等待秒数", "only together with wait=final", "no wait")
    return int(timeout)


class Lanes:
    """How many intake requests each account has under way: one account cannot fill the queue before all others."""

    max_per_account = 1024

    def __init__(self) -> None:
        self._under_way: dict[str, int] = {}

    def enter(self, account: str) -> None:
        """The request counts for its account until `leave`. Raises: Busy if the account has too many."""
        count = self._under_way.get(account, 0)
        if count >= self.max_per_account:
            raise Busy(f"account has too many requests under way: expected at most {self.max_per_account}", retry_after_s=1)
        self._under_way[account] = count + 1

    def leave(self, account: str) -> None:
        """The request is answered."""
        left = self._under_way[account] - 1
        if left:
            self._under_way[account] = left
        else:
            del self._under_way[account]


class Intake:
    """POST /v1/evidence: one submission in, one promise out."""

    route = "/v1/evidence"

    def __init__(self, service: Service, lanes: Lanes) -> None:
        self._service, self._lanes = service, lanes

    async def __call__(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to one request; every refusal is raised.

        Raises: Unauthorised, Forbidden, Busy, Malformed, Invalid, Conflict, Stale, Erased, Unready and
            what else `preserve` returns.
        """
        caller = caller_of(scope, self._service.access)
        caller.require(Role.BUSINESS)
        wait_s = wait_of(scope["query_string"])
        self._lanes.enter(caller.account)
        try:
            body = await read_json(scope, receive)
            [result] = await self._service.preservation.preserve([body], caller, request_id=scope["request_id"])
            if isinstance(result, EvidenceError):
                raise result
            if wait_s is None and self._service.settings.anchor_mode is AnchorMode.REALTIME:
                wait_s = REALTIME_WAIT_S
            if wait_s is not None:
                result = result._replace(state=await self._service.anchoring.wait_final(result.leaf_index, wait_s))
        finally:
            self._lanes.leave(caller.account)
        location = b"/v1/evidence/" + result.evidence_id.encode("ascii")
        return 201 if result.created else 200, result.to_bytes(), [(b"location", location)]


class BatchIntake:
    """POST /v1/evidence:batch: up to 1,000 submissions; a bad one refuses only itself."""

    route = "/v1/evidence:batch"

    def __init__(self, service: Service, lanes: Lanes) -> None:
        self._service, self._lanes = service, lanes

    async def __call__(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to one request; a refusal of the whole is raised, a refusal of one item stands in its result.

        Raises: Unauthorised, Forbidden, Busy, Malformed, Invalid, TooLarge.
        """
        caller = caller_of(scope, self._service.access)
        caller.require(Role.BUSINESS)
        if scope["query_string"]:
            raise refused("wait", "等待", "no parameters", "a parameter")
        request_id: str = scope["request_id"]
        self._lanes.enter(caller.account)
        try:
            body = await read_json(scope, receive, limit=MAX_BATCH_BYTES, in_line=BATCH_IN_LINE_BYTES)
            whole = declared_length(scope)
            results = await self._preserve(
                _submissions(body), caller, request_id=request_id, whole=MAX_BATCH_BYTES if whole is None else whole
            )
        finally:
            self._lanes.leave(caller.account)
        language = language_of({"accept-language": (header(scope, b"accept-language") or b"").decode("latin-1")})
        listed = b",".join([_result(index, result, request_id, language) for index, result in enumerate(results)])
        return 200, b'{"results":[%b]}' % listed, []

    async def _preserve(
        self, submissions: list[JSONValue], caller: Caller, *, request_id: str, whole: int
    ) -> list[Preserved | EvidenceError]:
        if whole <= MAX_BODY_BYTES:
            return await self._service.preservation.preserve(submissions, caller, request_id=request_id)
        # Only in a body above the limit of one submission can a submission be above it.
        sizes = await asyncio.to_thread(lambda: [len(canonical(submission)) for submission in submissions])
        fitting = [submission for submission, size in zip(submissions, sizes, strict=True) if size <= MAX_BODY_BYTES]
        done = iter(await self._service.preservation.preserve(fitting, caller, request_id=request_id) if fitting else ())
        return [
            next(done)
            if size <= MAX_BODY_BYTES
            else TooLarge(f"submission is too large: expected at most {MAX_BODY_BYTES} bytes, got {size}")
            for size in sizes
        ]


def _submissions(body: JSONValue) -> list[JSONValue]:
    if isinstance(body, dict) and set(body) == {"submissions"} and isinstance(body["submissions"], list):
        found: list[JSONValue] = body["submissions"]
        if 1 <= len(found) <= MAX_BATCH_ITEMS:
            return found
        got = f"array of {len(found)}"
    else:
        got = f"{type(body).__name__}"
    expected = f'an object with the one member "submissions", an array of 1 to {MAX_BATCH_ITEMS}'
    problem = Problem(pointer="/submissions", field="submissions", field_zh="存证请求", expected=expected, got=got, clause="")
    raise Invalid("batch has wrong form: expected 1 to 1000 submissions", (problem,))


def _result(index: int, result: Preserved | EvidenceError, request_id: str, language: str) -> bytes:
    if isinstance(result, EvidenceError):
        problem = problem_value(result, request_id=request_id, language=language)
        return encode({"index": index, "status": problem["status"], "problem": problem})
    return b'{"index":%d,"status":%d,%b' % (index, 201 if result.created else 200, result.to_bytes()[1:])
