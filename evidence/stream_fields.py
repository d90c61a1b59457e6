"""What a declaration and a slice say, field by field, for a person to read: the contents of their items."""

from __future__ import annotations

from models.canonical import JSONValue, canonical, format_time
from models.declaration import Declaration
from models.slice import SliceHeader


def _text(value: JSONValue) -> str:
    return canonical(value).decode()


def declaration_fields(declaration: Declaration) -> dict[str, JSONValue]:
    """D for a person to read: what is kept, encrypted, as the item's content."""
    return {
        "stream_id": declaration.stream_id,
        "log": declaration.log,
        "source": declaration.source,
        "encoding": declaration.encoding,
        "charset": declaration.charset,
        "collector": str(declaration.collector),
        "slice": declaration.slice,
        "index": declaration.index,
        "keywords": _text({**declaration.keywords.to_json(), "size": declaration.keywords_size}),
        "rules": _text([rule.to_json() for rule in declaration.rules]),
        "boundary": declaration.boundary,
        "case": declaration.case,
        "max_silence_s": declaration.max_silence_s,
        "slice_proof_s": declaration.slice_proof_s,
        "previous": None if declaration.previous is None else _text(declaration.previous.to_json()),
    }


def slice_fields(header: SliceHeader) -> dict[str, JSONValue]:
    """H for a person to read: what is kept, encrypted, as the item's content."""
    return {
        "stream_id": header.stream_id,
        "slice_id": header.slice_id,
        "slice_create_time": format_time(header.created_at),
        "slice_start_position": str(header.start),
        "slice_end_position": str(header.end),
        "number": header.number,
        "previous": None if header.previous is None else _text(header.previous.to_json()),
        "kind": header.kind,
        "lines": header.lines,
        "bytes": header.payload_bytes,
        "next_by": None if header.next_by is None else format_time(header.next_by),
        "content": _text(header.content.to_json()),
    }
