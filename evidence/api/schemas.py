"""The component schemas of /openapi.json: what answers hold, as JSON Schema with ASCII names."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
EVIDENCE_ID: Schema = {"type": "string", "pattern": "^ev_[0-9a-f]{64}$"}
TIME: Schema = {"type": "string", "format": "date-time"}
NODE_HASH: Schema = {"type": "string", "description": "32 bytes in base64"}


def array(items: Schema, **more: Any) -> Schema:
    """A list of `items`."""
    return {"type": "array", "items": items, **more}


def nullable(schema: Schema) -> Schema:
    """`schema` or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def open_object(required: Schema, optional: Schema | None = None) -> Schema:
    """An object that has all of `required` and may gain members in later versions."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def closed_object(required: Schema, optional: Schema | None = None) -> Schema:
    """An object that has all of `required` and nothing unknown: what a caller sends."""
    return {**open_object(required, optional), "additionalProperties": False}


def ref(name: str) -> Schema:
    """A component schema by name."""
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEM = open_object(
    {
        "type": {"type": "string", "format": "uri-reference"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "request_id": TEXT,
        "retry": {"type": "string", "enum": ["now", "later", "fix", "never"]},
        "errors": array(ref("ProblemDetail")),
    },
    {"hint": TEXT, "record_id": EVIDENCE_ID, "tombstone": {"type": "object"}},
)

_PROBLEM_DETAIL = open_object(
    {
        "pointer": {**TEXT, "description": "a JSON pointer into the body, or ?name of a parameter"},
        "field": TEXT,
        "field_zh": TEXT,
        "expected": TEXT,
        "got": {**TEXT, "description": "a type and a length, never a value"},
        "clause": TEXT,
    }
)

_LINK = closed_object(
    {"code": {"type": "string", "minLength": 1, "maxLength": 128}},
    {"follows": nullable(HASH), "closes": FLAG},
)

_ORIGINAL_REF = closed_object(
    {
        "field": {"type": "string", "minLength": 1},
        "digest": {"type": "string", "pattern": "^(sm3|sha256):[0-9a-f]{64}$"},
        "name": {"type": "string", "minLength": 1},
        "media_type": {"type": "string", "minLength": 1},
    }
)

_SIGNATURE = closed_object(
    {"value": {**TEXT, "description": "base64 of r‖s (64 bytes) or of DER"}},
    {
        "certificate": {**TEXT, "description": "PEM, or base64 of DER; or hex SM3 of a registered certificate"},
        "key_id": TEXT,
        "encoding": {"type": "string", "enum": ["rs", "der"], "default": "rs"},
    },
)

_SUBMISSION = closed_object(
    {
        "template": {"type": "string", "minLength": 1, "examples": ["file@1"]},
        "client_key": {"type": "string", "minLength": 1, "maxLength": 128, "description": "opaque: nothing personal in it"},
    },
    {
        "stages": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "object"},
            "description": "stage → field → value, as the template says",
        },
        "sealed": closed_object({"statement": TEXT}),
        "link": nullable(ref("Link")),
        "occurred_at": nullable({**TIME, "description": "UTC with milliseconds, for instance 2026-11-21T06:00:00.000Z"}),
        "secret": nullable({**TEXT, "description": "base64 of 32 random bytes; made by the service if absent"}),
        "originals": array(ref("OriginalRef"), maxItems=512),
        "signature": nullable(ref("Signature")),
    },
)

_PROMISE = {
    "evidence_id": EVIDENCE_ID,
    "state": ref("State"),
    "leaf_index": COUNT,
    "package_hash": HASH,
    "evidence": {**TEXT, "description": "E: canonical bytes as text; PackageHash = SM3 of them"},
    "promise": open_object({"checkpoint": TEXT, "inclusion_proof": array(NODE_HASH), "on_chain_by": TIME}),
}

_SUMMARY = {
    "evidence_id": EVIDENCE_ID,
    "leaf_index": COUNT,
    "package_hash": HASH,
    "template": TEXT,
    "subject": TEXT,
    "submitter": TEXT,
    "created_at": TIME,
    "occurred_at": nullable(TIME),
    "state": ref("State"),
}

_ON_CHAIN = open_object(
    {
        "chain": TEXT,
        "state": ref("State"),
        "tx_id": nullable(TEXT),
        "height": nullable(COUNT),
        "block_time": nullable(TIME),
        "receipt": nullable({"type": "object"}),
    }
)

_ORIGINAL = open_object({"name": nullable(TEXT), "field": TEXT, "media_type": TEXT, "digest": nullable(TEXT), "held": FLAG})

_ITEM = open_object(
    {
        **_SUMMARY,
        "commitment": {"type": "string", "enum": ["plaintext", "hash", "merkle"]},
        "evidence": {**TEXT, "description": "E: canonical bytes as text"},
        "on_chain_by": TIME,
        "overdue": FLAG,
        "validated_by": {"type": "string", "enum": ["platform", "submitter"]},
        "signed_by": nullable(TEXT),
        "part": nullable(COUNT),
        "link": nullable({"type": "object"}),
        "stages": array(open_object({"name": TEXT, "sha256": HASH, "sm3": HASH})),
        "originals": array(_ORIGINAL),
        "contents": nullable({"type": "object", "description": "in clear, masked, or null, as the role shows them"}),
        "chains": array(_ON_CHAIN),
    }
)

_BATCH_RESULT = open_object(
    {"index": COUNT, "status": {"type": "integer", "minimum": 200, "maximum": 599}},
    {**_PROMISE, "secret": TEXT, "problem": ref("Problem")},
)

_TRANSACTION = open_object(
    {
        "link_code": TEXT,
        "subject": TEXT,
        "template": nullable(TEXT),
        "parts": array(open_object({"part": COUNT, **_SUMMARY, "stages": array(TEXT), "closes": FLAG})),
        "stages": open_object({"present": array(TEXT), "missing": array(TEXT), "repeated": array(TEXT)}),
        "head": nullable(HASH),
        "closed": FLAG,
        "as_of": open_object({"tree_size": COUNT}),
    }
)

_NODE_ANSWER = open_object(
    {
        "chain": TEXT,
        "node": COUNT,
        "tx_id": nullable(TEXT),
        "state": {"type": "string", "enum": ["present", "absent", "unavailable", "not-offered"]},
    }
)

_NODES = open_object(
    {"evidence_id": EVIDENCE_ID, "nodes": array(_NODE_ANSWER), "agree": FLAG, "differing": array({"type": "object"})}
)

_MOMENT: Schema = {"type": "string", "maxLength": 40, "description": "RFC 3339 with zone, or a date (that day in Beijing)"}

_SEARCH = closed_object(
    {},
    {
        "digest": TEXT,
        "link_code": TEXT,
        "template": TEXT,
        "subject": TEXT,
        "field": {"type": "object", "description": "field → exact value, for fields marked search: exact"},
        "axis": {"type": "string", "enum": ["occurred", "preserved", "final"]},
        "from": _MOMENT,
        "to": _MOMENT,
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
        "cursor": TEXT,
        "expand": {"type": "string", "enum": ["transaction"]},
    },
)

_LISTED = {
    "next_cursor": nullable(TEXT),
    "as_of": open_object({"tree_size": COUNT}),
    "total": nullable(COUNT),
    "complete": {"type": "string", "enum": ["stated", "proven"]},
}

_PAGE = open_object({"items": array(ref("Summary")), **_LISTED}, {"transactions": array(ref("Transaction"))})

_ACCESS = open_object(
    {
        "account": TEXT,
        "roles": array({"type": "string", "enum": ["business", "auditor", "court", "operator"]}),
        "subject": open_object({"id": TEXT, "name": TEXT}),
        "log": TEXT,
    }
)

_SERVICE = open_object(
    {
        "version": TEXT,
        "origin": TEXT,
        "environment": {"type": "string", "enum": ["sandbox", "production"]},
        "keys": array(open_object({"origin": TEXT, "tree": {"type": "string", "enum": ["sm3", "sha256"]}, "vkey": TEXT})),
        "limits": {"type": "object"},
        "chains": array(TEXT),
        "templates": array(TEXT),
    }
)

_TEMPLATE_SUMMARY = open_object(
    {
        "name": TEXT,
        "title": TEXT,
        "biz_name": TEXT,
        "commitment": {"type": "string", "enum": ["plaintext", "hash", "merkle"]},
        "model": {"type": "string", "enum": ["single", "chain", "stream"]},
        "personal": FLAG,
        "digest": open_object({"sha256": HASH, "sm3": HASH}),
    }
)

_ISSUANCE_REQUEST = closed_object(
    {},
    {
        "ids": array(TEXT, minItems=1, maxItems=1000),
        "search": ref("Search"),
        "matter": {**TEXT, "maxLength": 256, "description": "what it is issued for: a case, a request; nothing personal"},
        "disclose": nullable(array(TEXT)),
        "originals": FLAG,
        "kind": {"type": "string", "enum": ["item", "transaction"]},
    },
)

_ISSUANCE = open_object(
    {
        "id": TEXT,
        "state": TEXT,
        "matter": TEXT,
        "done": COUNT,
        "total": COUNT,
        "items": array({"type": "object", "description": "evidence_id, state, and of what was issued: digests and size"}),
        "record": nullable({**EVIDENCE_ID, "description": "the item that records the act, once it is done"}),
    }
)

_BLOCK = {"height": COUNT, "hash": TEXT, "parent": TEXT, "time": TIME, "transactions": array(TEXT)}

_CHAIN = open_object(
    {
        "chain": TEXT,
        "engine": TEXT,
        "consensus": TEXT,
        "first": {**COUNT, "description": "the first leaf that this chain covers"},
        "final_end": {**COUNT, "description": "all leaves below it are final on this chain"},
        "submitted_end": {**COUNT, "description": "all leaves below it were handed to this chain"},
        "last_error": nullable(TEXT),
        "nodes": array(
            open_object({"node": COUNT, "height": nullable(COUNT), "hash": nullable(TEXT), "up": FLAG}, {"detail": TEXT})
        ),
    }
)

_REPORT = open_object(
    {"format": TEXT, "verdict": {"enum": ["VALID", "INVALID", "INDETERMINATE", None]}},
    {"malformed": TEXT, "sentence": TEXT, "steps": array({"type": "object"}), "trust_is": TEXT},
)

COMPONENTS: dict[str, Schema] = {
    "Access": _ACCESS,
    "Batch": closed_object({"submissions": array(ref("Submission"), minItems=1, maxItems=1000)}),
    "BatchResult": _BATCH_RESULT,
    "BatchResults": open_object({"results": array(ref("BatchResult"))}),
    "Block": open_object({"chain": TEXT, "node": COUNT, **_BLOCK}),
    "Blocks": open_object({"chain": TEXT, "node": COUNT, "head": COUNT, "items": array(open_object(_BLOCK)), **_LISTED}),
    "Certificate": {"type": "string", "format": "binary"},
    "ChainTransaction": open_object(
        {
            "chain": TEXT,
            "node": COUNT,
            "tx_id": TEXT,
            "key": TEXT,
            "height": COUNT,
            "block": TEXT,
            "sender": TEXT,
            "payload": TEXT,
        }
    ),
    "Chains": open_object({"items": array(_CHAIN), **_LISTED}),
    "ConsistencyPath": open_object({"from": COUNT, "to": COUNT, "path": array(NODE_HASH)}),
    "InclusionPath": open_object({"leaf_index": COUNT, "tree_size": COUNT, "path": array(NODE_HASH)}),
    "Issuance": _ISSUANCE,
    "IssuanceRequest": _ISSUANCE_REQUEST,
    "Item": _ITEM,
    "Link": _LINK,
    "Nodes": _NODES,
    "OriginalRef": _ORIGINAL_REF,
    "OriginalStored": open_object({"digest": TEXT, "twin": TEXT, "size": COUNT, "parts": COUNT}),
    "Page": _PAGE,
    "Problem": _PROBLEM,
    "ProblemDetail": _PROBLEM_DETAIL,
    "Promise": open_object(_PROMISE, {"secret": TEXT}),
    "Readiness": open_object({"ready": FLAG}),
    "Report": _REPORT,
    "Search": _SEARCH,
    "Service": _SERVICE,
    "Signature": _SIGNATURE,
    "State": {"type": "string", "enum": ["promised", "submitted", "final"]},
    "Submission": _SUBMISSION,
    "Summary": open_object(_SUMMARY),
    "Template": open_object(
        {"format": {"const": "cz-template/1"}, "name": TEXT, "title": TEXT, "stages": array({"type": "object"})}
    ),
    "TemplateSchema": open_object(
        {"$schema": TEXT, "title": TEXT, "type": {"const": "object"}, "properties": {"type": "object"}}
    ),
    "TemplateSummary": _TEMPLATE_SUMMARY,
    "Templates": open_object({"items": array(ref("TemplateSummary")), **_LISTED}),
    "Text": TEXT,
    "Transaction": _TRANSACTION,
    "Verify": {
        "type": "object",
        "properties": {
            "bundle": {"type": "string", "format": "binary"},
            "original": array({"type": "string", "format": "binary"}),
            "trust": {"type": "string", "format": "binary"},
        },
        "required": ["bundle"],
    },
}
