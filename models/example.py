"""Valid synthetic submissions of any template: for a first try, the demo, and tests.

Everything is made from a seed, so the same seed gives the same values, and a field that several
stages have gets one value in all of them. Nothing stands for a real person, account or product.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from models.canonical import JSONValue
from models.digest import pair, sm3
from models.field import EMPTY_CODE_TITLE, Field, FieldType, Form, Mask
from models.template import DataModel, Template

_BEIJING = timezone(timedelta(hours=8))
_START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
_SPAN_S = 300 * 86_400

_BY_MASK: Final[dict[Mask, str]] = {
    Mask.MASK_NAME: "张三",
    Mask.MASK_PHONE: "010-00000000",
    Mask.MASK_EMAIL: "example@example.com",
    Mask.MASK_ADDRESS: "北京市西城区示例大街1号",
    Mask.MASK_IP: "192.0.2.10",
    Mask.MASK_MAC: "00:00:5e:00:53:01",
    Mask.MASK_NICK: "示例用户",
}


class _Source:
    """Numbers that follow from a seed and a name."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    def bytes(self, name: str) -> bytes:
        return sm3(b"cz-example/1\x00" + self._seed + b"\x00" + name.encode())

    def number(self, name: str, below: int) -> int:
        return int.from_bytes(self.bytes(name)[:8]) % below

    def digits(self, name: str, count: int) -> str:
        return f"{self.number(name, 10**count):0{count}d}"

    def moment(self, name: str) -> datetime:
        return _START + timedelta(seconds=self.number(name, _SPAN_S))


def example(template: Template, *, seed: bytes, client_key: str, stages: Collection[str] | None = None) -> dict[str, JSONValue]:
    """A submission that satisfies `template`, with the given `client_key`.

    `stages` picks some of the template's stages (parts of one transaction share the seed, and with
    it the link code); None gives all.
    Raises: Malformed if the template has no stage of a given name.
    """
    source = _Source(seed)
    for name in stages or ():
        template.stage(name)
    values = {
        stage.name: {field.name: _value(field, source) for field in stage.fields}
        for stage in template.stages
        if stages is None or stage.name in stages
    }
    _equalise(template, values)
    submission: dict[str, JSONValue] = {"template": template.name, "client_key": client_key, "stages": values}
    if template.model is DataModel.CHAIN:
        submission["link"] = {"code": link_code(template, seed=seed)}
    return submission


def link_code(template: Template, *, seed: bytes) -> str:
    """The link code of the examples that this seed gives: opaque, the same in every part."""
    return _Source(seed).bytes(template.link_field or "link").hex()[:32]


def _equalise(template: Template, values: dict[str, dict[str, JSONValue]]) -> None:
    """Make equal what a rule of the template wants equal: the first place that is given decides."""
    for rule in template.rules:
        chosen: JSONValue = None
        for path in rule.paths:
            holder: JSONValue = values
            for step in path[:-1]:
                holder = holder.get(step, {})
            if path[-1] not in holder:
                continue
            chosen = holder[path[-1]] if chosen is None else chosen
            holder[path[-1]] = chosen


def _value(field: Field, source: _Source) -> JSONValue:
    if field.enum is not None:
        codes = [code for code, title in field.enum.items() if title != EMPTY_CODE_TITLE]
        return codes[source.number(field.name, len(codes))]
    return _BY_TYPE[field.type](field, source)


def _file(field: Field, source: _Source) -> JSONValue:
    data = source.bytes(field.name) * 8
    digests = pair(data)
    return {
        "digest": f"sm3:{digests.sm3.hex()}",
        "name": f"示例{field.title}.pdf",
        "size": len(data),
        "twin": f"sha256:{digests.sha256.hex()}",
    }


def _objects(field: Field, source: _Source) -> JSONValue:
    choice = field.detail.choice
    element = {item.name: _value(item, source) for item in field.items}
    if choice is None:
        return [element] if field.items else []
    return [{**element, choice.by: code} for code in sorted(choice.sets[0], key=str)]


def _text(field: Field, source: _Source) -> str:
    name, mask = field.name, field.detail.mask
    if field.detail.form is not None:
        return {
            Form.NUMBER: f"{1 + source.number(name, 1_000_000)}.25",
            Form.COUNT: str(1 + source.number(name, 64)),
            Form.DATE: source.moment(name).date().isoformat(),
        }[field.detail.form]
    if name.endswith(("link_unique_code",)):
        return source.bytes(name).hex()[:32]
    if name.endswith(("_hash", "_signature")):
        return source.bytes(name).hex()
    if name == "media_type":
        return "application/pdf"
    if name.endswith(("_code", "_number", "_sn", "_id")) or mask in {Mask.MASK_ACCOUNT, Mask.MASK_DEVICE_ID}:
        text = f"EX{source.digits(name, 8)}"
    elif mask in _BY_MASK:
        text = _BY_MASK[mask]
    else:
        text = f"示例{field.title}"
    return text if field.max is None else text[: field.max]


_BY_TYPE: Final[dict[FieldType, Callable[[Field, _Source], JSONValue]]] = {
    FieldType.CHARACTER: _text,
    FieldType.TEXT: _text,
    FieldType.NUMBER: lambda field, source: 1 + source.number(field.name, 100_000),
    FieldType.DECIMAL: lambda field, source: f"{1 + source.number(field.name, 10_000)}.5",
    FieldType.DATE: lambda field, source: source.moment(field.name).date().isoformat(),
    FieldType.TIME: lambda field, source: source.moment(field.name).astimezone(_BEIJING).isoformat(timespec="seconds"),
    FieldType.BOOLEAN: lambda field, source: bool(source.number(field.name, 2)),
    FieldType.FILE_OBJECT: _file,
    FieldType.OBJECT_ARRAY: _objects,
}
