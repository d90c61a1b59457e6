"""/openapi.json: the framework's routes as they describe themselves, and the hot routes described here; with examples.

The description is written in English; `openapi_zh.toml` gives each of its texts in Chinese, for people.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from evidence.api import examples
from evidence.api.deps import JSON, content, described
from evidence.api.problems import KINDS
from evidence.api.schemas_streams import ALL_COMPONENTS

_DESCRIPTION = """Evidence preservation for the securities industry (T/SAC 004—2024).

Every refusal is an RFC 9457 problem with `retry` and, per fault, where it is and what was expected; never a value
that was sent (/problems lists them). Times are RFC 3339 with zone; a bare date is that day in Beijing; ranges are
half-open. Routes with a lock need `Authorization: Bearer` and a token: that of the local user lies in
`EVIDENCE_HOME/token`. `X-Request-Id` is echoed, or made. The examples can be sent as they stand."""

_HEADERS = {
    401: {"WWW-Authenticate": "how to authorise"},
    429: {"Retry-After": "seconds to wait before trying again"},
    503: {"Retry-After": "seconds to wait before trying again"},
}
_LOCATION = {"Location": "where what was made is found"}
_ETAG = {"ETag": "the same as long as the bytes are"}
_BY_OPERATION = {
    ("preserveEvidence", 201): _LOCATION,
    ("createIssuance", 201): _LOCATION,
    **{(name, 200): _ETAG for name in ("getBundle", "getTemplate", "getTemplateSchema", "logCheckpoint", "twinCheckpoint")},
}

_TAGS = {
    "evidence": "存证: items, one or many, and their bundles",
    "issuance": "出证 and verification",
    "originals": "Files beside the items",
    "streams": "流式: declared, collected, asked with proof",
    "log": "The log itself, for anyone who wants to check it",
    "chains": "The chains, node by node",
    "service": "Templates, certificates, health, numbers",
}

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


def _add_examples(operation: dict[str, Any], bodies: Mapping[str, Mapping[str, Any]]) -> None:
    """The operation's body and required parameters have examples that can be sent as they stand."""
    shown = bodies.get(operation["operationId"])
    if shown is not None:
        values = {name: {"summary": name, "value": value} for name, value in shown.items()}
        operation["requestBody"]["content"][JSON]["examples"] = values
    for parameter in operation.get("parameters", ()):
        is_template = operation["operationId"].startswith("getTemplate")
        value = examples.TEMPLATE if is_template else examples.PARAMETERS.get(parameter["name"])
        if value is not None and parameter.get("required"):
            parameter["example"] = value


def chinese(text: str) -> str | None:
    """A text of the description in Chinese; None if there is none. Names of problems stand with their titles.

    Shapes: the names of the problems of one status are joined by a middle dot.
    """
    names = text.split(" · ")
    if all(name in KINDS for name in names):
        return "；".join(f"{KINDS[name].title_zh} ({name})" for name in names)
    return _texts().get(text)


@functools.cache
def _texts() -> dict[str, str]:
    found: dict[str, str] = tomllib.loads((files("evidence.api") / "openapi_zh.toml").read_text("utf-8"))["texts"]
    return found


def in_chinese(description: dict[str, Any]) -> dict[str, Any]:
    """`description` with every summary and description in Chinese for which there is one; all else is as it was."""

    def put(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            # What an example or an enumeration holds is sent as it stands.
            return {key: member if key in ("examples", "example", "enum") else put(member, key) for key, member in value.items()}
        if isinstance(value, list):
            return [put(member) for member in value]
        is_text = name in ("summary", "description") and isinstance(value, str)
        return (chinese(value) or value) if is_text else value

    whole: dict[str, Any] = put(description)
    return whole


def _add_headers(operation: dict[str, Any]) -> None:
    """The answers that carry a header of their own say so."""
    for status, answer in operation["responses"].items():
        named = _BY_OPERATION.get((operation["operationId"], int(status))) or _HEADERS.get(int(status), {})
        if named:
            answer["headers"] = {
                name: {"description": text, "required": True, "schema": {"type": "string"}} for name, text in named.items()
            }


def describe(app: FastAPI) -> None:
    """`app.openapi()` gives the whole description, made once when first asked for."""

    @functools.cache
    def whole() -> dict[str, Any]:
        found = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
        for path, (route, description) in _HOT.items():
            found["paths"].setdefault(path, {})["post"] = _operation(route, description)
        found["paths"] = dict(sorted(found["paths"].items()))
        found["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items()]
        bodies = examples.bodies()
        for operation in (operation for path in found["paths"].values() for operation in path.values()):
            _add_examples(operation, bodies)
            _add_headers(operation)
        components = found.setdefault("components", {})
        components["schemas"] = ALL_COMPONENTS
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        return found

    app.openapi = whole  # type: ignore[method-assign]  # the framework's documented way to give another description
