"""The component schemas of the routes of streams."""

from __future__ import annotations

from evidence.api.schemas import (
    COMPONENTS,
    COUNT,
    EVIDENCE_ID,
    FLAG,
    TEXT,
    TIME,
    Schema,
    array,
    closed_object,
    nullable,
    open_object,
    ref,
)
from evidence.behind import MAX_BEHIND, Unit

_ID: Schema = {"type": "string", "pattern": "^[a-z0-9._-]{1,64}$"}
_BYTES: Schema = {
    "anyOf": [TEXT, closed_object({"b64": TEXT})],
    "description": "a text in the stream's charset, or bytes in base64",
}
_MOMENT: Schema = {**TEXT, "description": "RFC 3339 with zone, or a date, which is that day in Beijing"}
_SECONDS: Schema = {"type": "integer", "minimum": 1}
_PAGE = {"next_cursor": nullable(TEXT), "as_of": open_object({"tree_size": COUNT}), "total": COUNT, "complete": TEXT}

_RULE = closed_object(
    {"name": TEXT, "after": _BYTES, "class": TEXT, "min": _SECONDS, "max": _SECONDS}, {"bits": {"type": "integer", "minimum": 1}}
)

_DECLARATION: Schema = {
    "oneOf": [
        closed_object(
            {
                "declaration": {**TEXT, "description": "D: canonical bytes as text"},
                "keywords": array(TEXT),
                "sealed": closed_object({"statement": TEXT}),
                "secret": TEXT,
                "signature": ref("Signature"),
            }
        ),
        closed_object(
            {"stream_id": _ID},
            {
                "keywords": array(_BYTES),
                "rules": array(_RULE),
                "boundary": {"type": "string", "enum": ["none", "word"]},
                "case": {"type": "string", "enum": ["exact", "ascii"]},
                "charset": TEXT,
                "max_silence_s": _SECONDS,
                "slice_proof_s": _SECONDS,
                "slice": {"type": "string", "enum": ["hash", "merkle"]},
                "index": {"type": "string", "enum": ["hash", "merkle"]},
                "slice_private": FLAG,
                "index_private": FLAG,
            },
        ),
    ]
}

_BEHIND = nullable(
    {
        **open_object({"count": COUNT, "unit": {"type": "string", "enum": list(Unit)}, "at": TIME}),
        "description": "what its collector or producer said last of how much its source held unread; "
        "null: unknown, also after a restart",
    }
)

_STREAM: Schema = {
    "stream_id": _ID,
    "submitter": TEXT,
    "subject": TEXT,
    "source": TEXT,
    "slices": COUNT,
    "lines": COUNT,
    "position": nullable(TEXT),
    "newest": nullable({"type": "object"}),
    "lag_s": COUNT,
    "behind": _BEHIND,
    "next_by": nullable(TIME),
    "overdue": FLAG,
    "ended": FLAG,
}

STREAM_COMPONENTS: dict[str, Schema] = {
    "EndRequest": closed_object({}, {"reason": {"type": "string", "minLength": 1, "maxLength": 256}}),
    "Records": closed_object(
        {"first": COUNT, "records": array(_BYTES, minItems=1, maxItems=16384)},
    ),
    "RecordsTaken": open_object({"stream_id": _ID, "first": COUNT, "taken": COUNT, "next": COUNT, "committed": COUNT}),
    "Recount": open_object(
        {
            "stream_id": _ID,
            "lines_total": COUNT,
            "slices": COUNT,
            "range": {"type": "object"},
            "complete": FLAG,
            "failed": array({"type": "object"}),
            "notes": array(TEXT),
        }
    ),
    "RecountRequest": closed_object({}, {"from": nullable(_MOMENT), "to": nullable(_MOMENT), "submitter": nullable(TEXT)}),
    "Slices": open_object({"items": array({"type": "object"}), **_PAGE}),
    "Stream": {"type": "object"},
    "StreamAnswer": open_object(
        {
            "stream_id": _ID,
            "from": TIME,
            "to": TIME,
            "counts": array({"type": "object"}),
            "covered": FLAG,
            "lines_total": COUNT,
            "verdict": nullable(TEXT),
            "lines": nullable(array({"type": "object"})),
        }
    ),
    "StreamDeclaration": _DECLARATION,
    "StreamDeclared": open_object({"stream_id": _ID, "number": COUNT, "created": FLAG, "evidence_id": EVIDENCE_ID}),
    "StreamProgress": open_object({"stream_id": _ID, "behind": _BEHIND}),
    "StreamProgressReport": closed_object({"behind": nullable({**COUNT, "maximum": MAX_BEHIND})}),
    "StreamQuestion": closed_object(
        {},
        {
            "keywords": array(_BYTES, maxItems=16),
            "value": nullable(closed_object({"rule": TEXT, "v": _BYTES})),
            "op": {"type": "string", "enum": ["and", "or"]},
            "from": nullable(_MOMENT),
            "to": nullable(_MOMENT),
            "submitter": nullable(TEXT),
            "whole": FLAG,
            "all_keywords": FLAG,
            "scan": FLAG,
        },
    ),
    "Streams": open_object({"items": array(open_object(_STREAM)), **_PAGE}),
}

ALL_COMPONENTS: dict[str, Schema] = {**COMPONENTS, **STREAM_COMPONENTS}
