"""What of an item can be searched for exactly: its link code, its files' digests, the fields its template names.

The database holds tags only (`keys.FindKey`): whoever lacks K_find can neither search nor guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evidence.keys import FindKey
from models.canonical import JSONValue
from models.field import Field, FieldType
from models.template import Template

LINK = "link"
DIGEST = "digest"


def item_tags(
    key: FindKey, template: Template, stages: Mapping[str, Mapping[str, JSONValue]], link_code: str | None
) -> list[bytes]:
    """All tags of one item, 16 bytes each.

    Source: formats §1 (blind search index); interface §3 (`search: exact`).
    """
    found = [] if link_code is None else [key.tag(LINK, link_code)]
    for name, values in stages.items():
        for field in template.by_name[name].fields:
            value = values.get(field.name)
            if value is not None and (field.search or field.type is FieldType.FILE_OBJECT):
                found.extend(_of_field(key, field, value))
    return found


def _of_field(key: FindKey, field: Field, value: JSONValue) -> Iterable[bytes]:
    if field.type is FieldType.FILE_OBJECT:
        yield key.tag(DIGEST, value["digest"])
        if "twin" in value:
            yield key.tag(DIGEST, value["twin"])
    else:
        yield key.tag(field.name, value)
