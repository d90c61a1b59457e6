"""Pages for people: the explorer's front page, the page behind each problem, the description and its viewer."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from evidence.api.deps import Running, StrictRoute
from evidence.api.openapi import in_chinese
from evidence.api.problems import KINDS, encode, headers_of, kind_of, language_of
from evidence.api.requests import header
from evidence.api.status import chain_rows, head_of, newest_items
from evidence.bootstrap import Service
from evidence.errors import NotFound
from evidence.explorer import page
from evidence.explorer.words import WORDS, advice
from models.errors import EvidenceError

router = APIRouter(include_in_schema=False, route_class=StrictRoute)

Lang = Annotated[str | None, Query(pattern="^(zh|en)$")]

NEWEST = 20

_STATIC = files("evidence.api") / "static"
_MEDIA = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".LICENSE": "text/plain",
    ".NOTICE": "text/plain",
}
_STATIC_NAMES = ("docs.js", "swagger-ui-bundle.js", "swagger-ui.css", "swagger-ui.LICENSE", "swagger-ui.NOTICE")

_DOCS_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_RETRY = {
    "zh": {"now": "可立即原样重发", "later": "请稍后重试", "fix": "请修正后再试", "never": "不必重试，结果不会改变"},
    "en": {
        "now": "send the same again at once",
        "later": "try again later",
        "fix": "mend the request first",
        "never": "do not send it again: the answer stays the same",
    },
}


def _language(request: Request, lang: str | None) -> str:
    """The language of a page: as asked for, else English only for a reader who prefers it to Chinese."""
    if lang is not None:
        return lang
    accepted = (header(request.scope, b"accept-language") or b"").decode("latin-1").lower()
    return "en" if language_of(request.headers) == "en" and "zh" not in accepted else "zh"


def _is_sandbox(service: Service) -> bool:
    return service.home.facts.environment != "production"


@router.get("/")
def front(request: Request, service: Running, lang: Lang = None) -> Response:
    """Where the log stands, how far each chain is, and the newest items by prefix and state."""
    language = _language(request, lang)
    text = page.front(
        head_of(service),
        chain_rows(service),
        newest_items(service, NEWEST),
        now=service.clock(),
        language=language,
        sandbox=_is_sandbox(service),
    )
    return HTMLResponse(text, headers=page.HEADERS)


@router.get("/favicon.ico")
async def icon() -> Response:
    """The icon of every page."""
    return Response(page.ICON, headers={"cache-control": "public, max-age=86400"}, media_type="image/svg+xml")


@router.get("/problems")
def problems(request: Request, service: Running, lang: Lang = None) -> Response:
    """Every problem that a refusal can name."""
    language = _language(request, lang)
    kinds = sorted(KINDS.values(), key=lambda kind: (kind.status, kind.name))
    lines = [(kind.status, kind.name, kind.title(language), _RETRY[language][kind.retry.value]) for kind in kinds]
    text = page.problem_list(lines, language=language, sandbox=_is_sandbox(service))
    return HTMLResponse(text, headers=page.HEADERS)


@router.get("/problems/{name}")
def problem(request: Request, service: Running, name: Annotated[str, Path(max_length=64)], lang: Lang = None) -> Response:
    """What a problem's `type` means."""
    language = _language(request, lang)
    kind = KINDS.get(name)
    if kind is None:
        raise NotFound("no problem has that name", hint="GET /problems lists them")
    words = WORDS[language]
    pairs = [
        (words["status"], str(kind.status)),
        (words["name"], kind.name),
        (words["explained"], advice()[name][language]),
        (words["what_to_do"], _RETRY[language][kind.retry.value]),
    ]
    text = page.explanation(
        kind.title(language), pairs, language=language, sandbox=_is_sandbox(service), path=f"/problems/{name}"
    )
    return HTMLResponse(text, headers=page.HEADERS)


def refusal_page(request: Request, error: EvidenceError) -> Response | None:
    """The refusal of a page as a page, for a person's browser; None where the problem itself is the answer.

    Routes under /v1 answer programs, also when a person looks at them.
    """
    if request.url.path.startswith("/v1/") or "text/html" not in request.headers.get("accept", ""):
        return None
    language, kind = _language(request, None), kind_of(error)
    words = WORDS[language]
    pairs = [
        (words["status"], str(kind.status)),
        (words["explained"], advice()[kind.name][language]),
        (words["detail"], error.message),
        (words["request_id"], request.scope["request_id"]),
    ]
    text = page.explanation(
        kind.title(language),
        pairs,
        language=language,
        sandbox=_is_sandbox(request.app.state.service),
        path="/problems/" + kind.name,
    )
    return HTMLResponse(text, kind.status, headers=page.HEADERS | headers_of(error, language=language))


@router.get("/openapi.json")
def description(request: Request, lang: Lang = None) -> Response:
    """The description of every route, for people in Chinese with `lang=zh`; the same but for what people read."""
    value = request.app.openapi()
    found = in_chinese(value) if lang == "zh" else value
    return Response(encode(found), headers={"cache-control": "no-cache"}, media_type="application/json")


@router.get("/docs")
def docs(request: Request, service: Running, lang: Lang = None) -> Response:
    """The description, to read and try; everything it needs is served from here."""
    text = page.documentation(language=_language(request, lang), sandbox=_is_sandbox(service))
    return HTMLResponse(text, headers=_DOCS_HEADERS)


@router.get("/docs/{name}")
def static(name: Annotated[str, Path(max_length=64)]) -> Response:
    """A file of the viewer."""
    if name not in _STATIC_NAMES:
        raise NotFound("no file has that name")
    media = _MEDIA["." + name.rpartition(".")[2]]
    return Response((_STATIC / name).read_bytes(), headers={"cache-control": "public, max-age=86400"}, media_type=media)
