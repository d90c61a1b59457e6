"""/openapi.json: the framework's routes as they describe themselves, and the hot routes described here."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from evidence.api.deps import JSON, content, described
from evidence.api.schemas_streams import ALL_COMPONENTS

_DESCRIPTION = """存证：证券行业区块链存证（T/SAC 004—2024）。

Every refusal is an RFC 9457 problem with `retry` and, per fault, where it is and what was expected; never a value
that was sent. Times are RFC 3339 with zone; ranges are half-open."""

_WAIT = (
    {
        "name": "wait",
        "in": "query",
        "schema": {"type": "string", "enum": ["final"]},
        "description": "answer only when final, or at the timeout",
    },
    {
        "name": "timeout_s",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 300},
        "description": "only with wait",
    },
)

_PROMISED = {
    201: ("Sealed: the promise.", content(JSON, "Promise")),
    200: ("The same submission was sealed before: its present state.", content(JSON, "Promise")),
}
_RESULTS = {200: ("One result a submission, in order.", content(JSON, "BatchResults"))}

_INTAKE = described(
    "preserveEvidence",
    "存证: preserve one submission",
    _PROMISED,
    problems=(409, 410, 429, 507),
    body=content(JSON, "Submission"),
    parameters=_WAIT,
)
_BATCH = described(
    "preserveBatch", "存证: preserve up to 1,000 submissions", _RESULTS, problems=(429, 507), body=content(JSON, "Batch")
)

_HOT = {
    "/v1/evidence": (_INTAKE, "Durable when answered. `client_key` makes it repeatable: the same again gives the same evidence."),
    "/v1/evidence:batch": (_BATCH, "A submission that is refused refuses only itself; its result holds the problem."),
}


def _operation(route: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "tags": ["evidence"],
        "operationId": route["operation_id"],
        "summary": route["summary"],
        "description": description,
        "responses": {str(status): answer for status, answer in route["responses"].items()},
        **route["openapi_extra"],
    }


def describe(app: FastAPI) -> None:
    """`app.openapi()` gives the whole description, made once when first asked for."""

    @functools.cache
    def whole() -> dict[str, Any]:
        found = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
        for path, (route, description) in _HOT.items():
            found["paths"].setdefault(path, {})["post"] = _operation(route, description)
        found["paths"] = dict(sorted(found["paths"].items()))
        components = found.setdefault("components", {})
        components["schemas"] = ALL_COMPONENTS
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        return found

    app.openapi = whole  # type: ignore[method-assign]  # the framework's documented way to give another description
