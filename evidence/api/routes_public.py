"""What anyone may know: templates, the service itself, its certificates, its health, its numbers; and who the caller is."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from evidence.api.deps import JSON, AnyCaller, Running, StrictRoute, answer, content, described
from evidence.api.intake import MAX_BATCH_BYTES, MAX_BATCH_ITEMS, MAX_WAIT_S
from evidence.api.jsonschema import stages_schema, template_summary
from evidence.api.metrics import CONTENT_TYPE, gauge
from evidence.api.problems import encode
from evidence.api.status import chain_rows, oldest_promise_age_s, whole_list
from evidence.bootstrap import Service
from evidence.errors import NotFound
from models.canonical import MAX_BODY_BYTES, JSONValue
from models.digest import Algorithm, unhex
from models.errors import Unknown
from models.template import Template, builtin, builtin_names

router = APIRouter(tags=["service"], route_class=StrictRoute)

TemplateName = Annotated[str, Path(max_length=128, description="a template's name and version, for example file@1")]
SCHEMA = "application/schema+json"


def template_named(name: str) -> Template:
    """The published template `name`. Raises: NotFound if there is none."""
    try:
        return builtin(name)
    except Unknown as error:
        raise NotFound("no template has that name and version", hint="GET /v1/templates lists them") from error


@router.get(
    "/v1/templates", **described("listTemplates", "Templates", {200: ("All of them.", content(JSON, "Templates"))}, public=True)
)
def templates(service: Running) -> Response:
    """Every published template: name, 中文名称, how it reaches the chain, digests of its bytes."""
    items: list[JSONValue] = [template_summary(builtin(name)) for name in builtin_names()]
    return answer(whole_list(service, items), headers={"cache-control": "public, max-age=300"})


def _unchanging(request: Request, body: bytes, etag: str, media_type: str) -> Response:
    headers = {"etag": f'"{etag}"', "cache-control": "public, max-age=86400"}
    if headers["etag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


@router.get(
    "/v1/templates/{name}",
    **described(
        "getTemplate",
        "A template, byte for byte",
        {200: ("The file whose digests stand in every statement.", content(JSON, "Template")), 304: ("Unchanged.", {})},
        problems=(404,),
        public=True,
    ),
)
def template(request: Request, name: TemplateName) -> Response:
    """The template's own bytes; a published version never changes, and `ETag` is their SM3."""
    found = template_named(name)
    return _unchanging(request, found.data, found.pair.sm3.hex(), JSON)


@router.get(
    "/v1/templates/{name}/schema",
    **described(
        "getTemplateSchema",
        "JSON Schema of a template's stages",
        {200: ("JSON Schema 2020-12.", content(SCHEMA, "TemplateSchema")), 304: ("Unchanged.", {})},
        problems=(404,),
        public=True,
    ),
)
def template_schema(request: Request, name: TemplateName) -> Response:
    """What `stages` of a submission of this template look like; rules across fields stay with the service."""
    found = template_named(name)
    return _unchanging(request, encode(stages_schema(found)), f"schema-{found.pair.sm3.hex()}", SCHEMA)


@router.get(
    "/v1/service", **described("getService", "What this service is", {200: ("Facts.", content(JSON, "Service"))}, public=True)
)
def service_facts(service: Running) -> Response:
    """Version, origin, environment, keys, limits. Whoever verifies takes keys from a trust file that came by another way."""
    settings = service.settings
    keys = [{"origin": key.name, "tree": tree.value, "vkey": str(key)} for tree, key in service.log_keys().items()]
    value: dict[str, JSONValue] = {
        "version": version("evidence"),
        "origin": service.origin,
        "environment": service.home.facts.environment,
        "keys": keys,
        "anchor_mode": settings.anchor_mode.value,
        "promise_s": settings.promise_s,
        "chains": sorted(service.chains),
        "templates": list(builtin_names()),
        "digests": [algorithm.value for algorithm in Algorithm],
        "limits": {
            "submission_bytes": MAX_BODY_BYTES,
            "batch_items": MAX_BATCH_ITEMS,
            "batch_bytes": MAX_BATCH_BYTES,
            "unit_bytes": settings.unit_limit_bytes,
            "wait_s": MAX_WAIT_S,
        },
    }
    return answer(value, headers={"cache-control": "no-cache"})


@router.get(
    "/v1/access/self",
    **described("getAccess", "Who the token is", {200: ("Account, roles, subject.", content(JSON, "Access"))}),
)
def access_self(service: Running, caller: AnyCaller) -> Response:
    """What a client needs to build a statement itself: the account it submits as, its subject, and the log's origin."""
    return answer(
        {
            "account": caller.account,
            "roles": sorted(role.value for role in caller.roles),
            "subject": {"id": caller.subject_id, "name": caller.subject_name},
            "log": service.origin,
        }
    )


@router.get(
    "/v1/certificates/{digest}",
    **described(
        "getCertificate",
        "A certificate by the SM3 of its DER",
        {200: ("The certificate.", content("application/pkix-cert"))},
        problems=(404,),
        public=True,
    ),
)
def certificate(
    digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="hex SM3 of the certificate's DER")], service: Running
) -> Response:
    """The certificate that a signature names as its signer. No route gives out a private key."""
    der = service.access.certificate(unhex(digest))
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(der, headers=headers, media_type="application/pkix-cert")


@router.get(
    "/healthz", **described("getHealth", "The process answers", {200: ("It does.", content("text/plain", "Text"))}, public=True)
)
async def healthz() -> Response:
    """The process runs and its loop turns; says nothing of the disk or the chains."""
    return Response("ok\n", headers={"cache-control": "no-store"}, media_type="text/plain")


@router.get(
    "/readyz",
    **described("getReadiness", "An item could be acknowledged", {200: ("It could.", content(JSON, "Readiness"))}, public=True),
)
def readyz(service: Running) -> Response:
    """An item could be acknowledged now. A chain that is down does not make this fail: promises run on."""
    service.check_ready()
    return answer({"ready": True})


@router.get(
    "/metrics",
    **described("getMetrics", "Numbers for operators", {200: ("Prometheus text.", content("text/plain", "Text"))}, public=True),
)
def metrics(request: Request, service: Running) -> Response:
    """Counts, times and ages in the Prometheus text form; no id, name or account is in it."""
    lines = [*request.app.state.latency.lines(), *_state_lines(service)]
    return Response("\n".join(lines) + "\n", headers={"cache-control": "no-store"}, media_type=CONTENT_TYPE)


def _state_lines(service: Service) -> list[str]:
    size, chains = service.log.state.size, chain_rows(service)
    age = oldest_promise_age_s(service, service.clock())
    streams, overdue, silent_s = service.shelf.health()
    known, behind = service.behind.fresh()
    return [
        *gauge("evidence_log_size", "Entries in the log.", {"": size}),
        *gauge("evidence_queue_depth", "Items that wait for a commit.", {"": service.log.waiting}),
        *gauge("evidence_oldest_promise_age_seconds", "Age of the oldest item that is not final.", {"": age}),
        *gauge("evidence_anchors_open", "Anchors under way.", {row.chain: row.open_anchors for row in chains}, label="chain"),
        *gauge(
            "evidence_chain_lag_items",
            "Items that no final anchor covers.",
            {row.chain: size - row.anchored for row in chains},
            label="chain",
        ),
        *gauge(
            "evidence_chain_up",
            "Whether the node answers.",
            {row.chain: int(row.height is not None) for row in chains},
            label="chain",
        ),
        *gauge("evidence_streams", "Streams that have not ended.", {"": streams}),
        *gauge("evidence_streams_overdue", "Streams whose next slice is overdue: their collector is silent.", {"": overdue}),
        *gauge("evidence_stream_silence_seconds", "Age of the newest slice of the quietest stream.", {"": silent_s}),
        *gauge("evidence_streams_behind_known", "Streams whose collector said lately how far behind it is.", {"": known}),
        *gauge("evidence_stream_behind", "The most that any of those is behind its source.", behind, label="unit"),
    ]
