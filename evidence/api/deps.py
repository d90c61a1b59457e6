"""What the framework's routes share: the service, the caller, strict parameters, and how a route is described."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from evidence import store as rows
from evidence.access import Caller, Role
from evidence.api.problems import MEDIA_TYPE, TABLE, QueryRefused, encode
from evidence.api.requests import caller_of
from evidence.bootstrap import Service
from models.canonical import JSONValue
from models.errors import Problem

JSON = "application/json"


def service_of(request: Request) -> Service:
    """The service behind this application."""
    service: Service = request.app.state.service
    return service


def request_id(request: Request) -> str:
    """The id that the door gave this request."""
    found: str = request.scope["request_id"]
    return found


def _caller(request: Request) -> Caller:
    return caller_of(request.scope, service_of(request).access)


def role(*roles: Role) -> Callable[[Request], Caller]:
    """A dependency that gives the caller if it has one of `roles`; it raises Unauthorised or Forbidden."""

    def check(request: Request) -> Caller:
        caller = _caller(request)
        caller.require(*roles)
        return caller

    return check


Running = Annotated[Service, Depends(service_of)]
RequestId = Annotated[str, Depends(request_id)]
AnyCaller = Annotated[Caller, Depends(_caller)]
Reader = Annotated[Caller, Depends(role(Role.BUSINESS, Role.AUDITOR, Role.COURT, Role.OPERATOR))]
Writer = Annotated[Caller, Depends(role(Role.BUSINESS))]
Issuer = Annotated[Caller, Depends(role(Role.BUSINESS, Role.COURT))]
ProofReader = Annotated[Caller, Depends(role(Role.BUSINESS, Role.AUDITOR, Role.COURT))]


class StrictRoute(APIRoute):
    """A route that refuses query parameters it does not know: a mistyped filter must not answer as if it were absent."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler behind the check."""
        inner = super().get_route_handler()
        known = frozenset(field.alias for field in self.dependant.query_params)

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                names = [name for name, _ in request.query_params.multi_items()]
                unknown = len([name for name in names if name not in known])
                if unknown or len(names) != len(set(names)):
                    expected = f"only {', '.join(sorted(known))}, once each" if known else "no parameters"
                    problem = Problem("?", "query", "参数", expected, f"{unknown} unknown of {len(names)}", "")
                    raise QueryRefused(f"query has unknown or doubled parameters: expected {expected}", (problem,))
            return await inner(request)

        return handle


async def record(service: Service, caller: Caller, act: str, name: str, request_id: str) -> None:
    """The access is in the audit log, durably, before anything is shown. Source: interface §2 (`court`: recorded)."""
    at_ms = round(service.clock().timestamp() * 1000)
    row = {"at_ms": at_ms, "account": caller.account, "act": act, "object": name, "request_id": request_id}
    await service.log.write(lambda connection: rows.write_audit(connection, [row]))


def answer(value: JSONValue, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as a JSON answer that no cache keeps, unless `headers` say otherwise."""
    return Response(encode(value), status, {"cache-control": "no-store", **(headers or {})}, JSON)


def content(media_type: str, schema: str | None = None) -> dict[str, Any]:
    """One answer's content for the description: a component schema by name, or bytes."""
    found = {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "string", "format": "binary"}
    return {media_type: {"schema": found}}


_ALWAYS = (400, 422, 503)
_WITH_TOKEN = (401, 403)


def _reasons(status: int) -> str:
    return " · ".join(sorted({kind.name for kind in TABLE.values() if kind.status == status}))


def refusals(statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route for the description, with the names of the problems that have each status."""
    return {
        status: {"description": _reasons(status), "content": content(MEDIA_TYPE, "Problem")}
        for status in sorted({*statuses, *_ALWAYS})
    }


def described(
    operation_id: str,
    summary: str,
    ok: Mapping[int, tuple[str, Mapping[str, Any]]],
    *,
    problems: Sequence[int] = (),
    public: bool = False,
    body: Mapping[str, Any] | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The keyword arguments by which a route describes itself.

    Shapes: `ok` maps a status to its description and content; `public` routes need no token.
    """
    extra: dict[str, Any] = {"security": [] if public else [{"bearer": []}]}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": dict(body)}
    if parameters:
        extra["parameters"] = list(parameters)
    wanted = (*problems, *(() if public else _WITH_TOKEN), *((408, 413, 415) if body is not None else ()))
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": text, **({"content": dict(found)} if found else {})} for status, (text, found) in ok.items()
    }
    return {
        "operation_id": operation_id,
        "summary": summary,
        "responses": {**responses, **refusals(wanted)},
        "openapi_extra": extra,
        "response_model": None,
        "status_code": min(ok),
    }
