"""The ASGI application: one door in front of the hot routes and of everything the framework routes.

The door gives each request its id, times it, adds the headers every answer has, and is the top of
the process for a request: whatever was raised becomes a problem here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evidence.api import (
    routes_chains,
    routes_issuances,
    routes_items,
    routes_log,
    routes_originals,
    routes_pages,
    routes_public,
    routes_streams,
)
from evidence.api.intake import BatchIntake, Intake, Lanes
from evidence.api.metrics import Latency
from evidence.api.openapi import describe
from evidence.api.problems import Internal, MethodRefused, QueryRefused, kind_of, language_of, problem_response
from evidence.api.requests import LongBodies, RequestIds, header
from evidence.bootstrap import Service
from evidence.errors import Damaged, NotFound
from evidence.logging import name_request
from evidence.store import storage_error
from models.errors import EvidenceError, Malformed, Problem, VerificationError

_log = logging.getLogger("evidence.api")

_UNROUTED = "(none)"
VERIFIERS = 1
"""Verifying is bounded work on one core; a second bundle waits, so that intake keeps its share."""

HOT_METHODS = {Intake.route: "GET, POST", BatchIntake.route: "POST"}
"""The framework does not know that POST is served at the door."""


def create_app(service: Service, *, randomness: Callable[[int], bytes] = os.urandom) -> ASGIApp:
    """The application over `service`; its lifespan starts and stops the service.

    Shapes: an ASGI 3 callable; `randomness` gives the ids of requests that bring none.
    """
    return Door(service, randomness=randomness)


_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")


class _Answer:
    """`send` with the headers that every answer has; remembers the status."""

    __slots__ = ("_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = (b"x-request-id", request_id.encode("ascii"))
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._request_id, _NO_SNIFF]
        await self._send(message)

    async def whole(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send a whole JSON answer, which no cache keeps."""
        self.status = status
        length = (b"content-length", b"%d" % len(body))
        named = [_JSON, length, _NO_STORE, *headers, self._request_id, _NO_SNIFF]
        await self._send({"type": "http.response.start", "status": status, "headers": named})
        await self._send({"type": "http.response.body", "body": body})


class Door:
    """The outermost ASGI callable."""

    def __init__(self, service: Service, *, randomness: Callable[[int], bytes]) -> None:
        self._service = service
        self._request_ids = RequestIds(randomness)
        self._latency = Latency()
        self._long_bodies = LongBodies()
        lanes = Lanes()
        self._hot: dict[str, Intake | BatchIntake] = {
            hot.route: hot for hot in (Intake(service, lanes), BatchIntake(service, lanes))
        }
        self.framework = _framework(service, self._latency)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._live(receive, send)
            return
        started = time.perf_counter()
        if scope["method"] == "HEAD":
            # What GET says without its body; the server leaves that out because its own scope still says HEAD.
            scope = {**scope, "method": "GET", "is_head": True}
        request_id = self._request_ids.of(scope)
        scope["request_id"], scope["long_bodies"] = request_id, self._long_bodies
        answer = _Answer(send, request_id)
        hot = self._hot.get(scope["path"]) if scope["method"] == "POST" else None
        name_request(request_id)
        try:
            if hot is None:
                await self.framework(scope, receive, answer)
            else:
                await answer.whole(*await hot(scope, receive))
        except EvidenceError as error:
            await self._refuse(error, scope, receive, answer)
        except DBAPIError as error:
            await self._refuse(storage_error(error), scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the top of the process for a request: the caller gets a problem, the log the cause
            _log.error("request failed: %s", type(error).__name__, exc_info=error)
            await self._refuse(Internal("something of ours broke; the log has it under this request id"), scope, receive, answer)
        finally:
            route = hot.route if hot else getattr(scope.get("route"), "path", _UNROUTED)
            self._latency.observe(
                scope["method"] if route != _UNROUTED else "*", route, answer.status or 499, time.perf_counter() - started
            )

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._service.start()
        except EvidenceError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._service.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _refuse(self, error: EvidenceError, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if answer.status:
            # The answer has begun and cannot become a problem; cutting the connection is how the caller learns of it.
            raise error
        if kind_of(error).status >= 500:
            _log.warning("request refused: %s", error.message)
        language = language_of({"accept-language": (header(scope, b"accept-language") or b"").decode("latin-1")})
        await problem_response(error, request_id=scope["request_id"], language=language)(scope, receive, answer)


def _framework(service: Service, latency: Latency) -> FastAPI:
    app = FastAPI(title="存证 evidence", version="1", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.service = service
    app.state.latency = latency
    app.state.verifying = asyncio.Semaphore(VERIFIERS)
    modules = (
        routes_items,
        routes_issuances,
        routes_originals,
        routes_log,
        routes_public,
        routes_chains,
        routes_streams,
        routes_pages,
    )
    for routes in modules:
        app.include_router(routes.router)
    app.add_exception_handler(EvidenceError, _on_evidence_error)
    app.add_exception_handler(DBAPIError, _on_database)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_parameters)
    app.add_exception_handler(Exception, _on_fault)
    describe(app)
    return app


def _answer(request: Request, error: EvidenceError) -> Response:
    page = routes_pages.refusal_page(request, error) if request.method == "GET" else None
    return page or problem_response(error, request_id=request.scope["request_id"], language=language_of(request.headers))


def _on_evidence_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, EvidenceError):
        raise error
    if isinstance(error, VerificationError) and request.method == "GET":
        # Nothing was sent that could fail to verify, so it is what we hold.
        _log.error("stored bytes do not verify: %s", error.message)
        error = Damaged("stored bytes do not verify", hint="an operator runs `evidence examine`: it names what is damaged")
    if kind_of(error).status >= 500:
        _log.warning("request refused: %s", error.message)
    return _answer(request, error)


def _on_database(request: Request, error: Exception) -> Response:
    """The database did not answer: it is full, or away."""
    if not isinstance(error, DBAPIError):
        raise error
    met = storage_error(error)
    _log.warning("request refused: %s", met.message)
    return _answer(request, met)


def _on_fault(request: Request, error: Exception) -> Response:
    # The framework raises `error` again after this answer, and the door logs it.
    return _answer(request, Internal(f"something of ours broke ({type(error).__name__}); the log has it under this request id"))


def _on_http_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals: no such path, no such method, a body it cannot read."""
    if not isinstance(error, HTTPException):
        raise error
    allow = HOT_METHODS.get(request.url.path) or (error.headers or {}).get("Allow")
    if error.status_code in (404, 405) and allow is not None:
        return _answer(request, MethodRefused(f"method is not allowed here: expected {allow}", allow=allow))
    if error.status_code == 404:
        return _answer(request, NotFound("no such route: expected one of /openapi.json"))
    return _answer(request, Malformed("request could not be read"))


def _on_parameters(request: Request, error: Exception) -> Response:
    """Path and query parameters of a wrong form, all of them; the value that came is never repeated."""
    if not isinstance(error, RequestValidationError):
        raise error
    problems = []
    for fault in error.errors():
        place, *rest = (str(part) for part in fault["loc"])
        name = rest[0] if rest else place
        pointer = f"?{name}" if place == "query" else f"{place}/{name}"
        given = fault.get("input")
        got = (
            "nothing"
            if fault["type"] == "missing"
            else f"text of {len(given)} characters"
            if isinstance(given, str)
            else type(given).__name__
        )
        problems.append(
            Problem(pointer=pointer, field=name, field_zh="参数", expected=str(fault["msg"]).lower(), got=got, clause="")
        )
    names = ", ".join(sorted({problem.field for problem in problems}))
    return _answer(request, QueryRefused(f"parameters are wrong: {names}", tuple(problems)))
