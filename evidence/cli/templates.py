"""`evidence templates`: what can be submitted, an example of it, and a check before anything is sent."""

from __future__ import annotations

import argparse
import secrets
from typing import TYPE_CHECKING

from evidence.cli.console import Console, table
from evidence.cli.exits import Exit
from evidence.cli.verbs import LOCAL, Verbs

if TYPE_CHECKING:
    from models.template import Template

_OWN = frozenset({"conflict@1", "erasure@1", "issue@1", "log-close@1", "log-key@1", "stream@1", "stream-slice@1"})
"""Templates of what the service says of itself: nobody else may submit them."""


def register(verbs: Verbs) -> None:
    """`templates` and its four verbs are in the table."""
    group = verbs.group(
        "templates", LOCAL, "存证模板：列出、查看、示例、检查", "templates: list, show, example, check", default=_list
    )
    group.add("list", LOCAL, _list, "列出模板", "the templates that can be submitted")
    show = group.add("show", LOCAL, _show, "查看模板的环节与字段", "stages and fields of a template")
    show.add_argument("name", metavar="NAME", help=verbs.say("模板，如 file@1", "a template, for example file@1"))
    example = group.add(
        "example",
        LOCAL,
        _example,
        "输出一份合规的虚构提交，每次的 client_key 均不同，可直接用于 preserve -f -",
        "a valid synthetic submission, each time with a fresh client_key, ready for preserve -f -",
    )
    example.add_argument("name", metavar="NAME", help=verbs.say("模板，如 file@1", "a template, for example file@1"))
    check = group.add(
        "check",
        LOCAL,
        _check,
        "检查模板文件，或检查提交是否符合其模板",
        "check a template file, or a submission against its template",
    )
    check.add_argument("file", metavar="FILE", help=verbs.say("模板文件，或一份提交", "a template file, or a submission"))


def _list(_: argparse.Namespace, console: Console) -> Exit:
    from models.template import builtin, builtin_names

    found = [builtin(name) for name in builtin_names() if name not in _OWN]
    rows = [
        [each.name, each.title, each.model.value, each.commitment.value, str(len(each.stages)), str(each.field_count)]
        for each in found
    ]
    console.document(
        {"items": [_summary(each) for each in found], "total": len(found)},
        table(
            console.say("名称 标题 模型 承诺方式 环节 字段", "name title model commitment stages fields").split(), rows, widest=60
        ),
    )
    return Exit.DONE


def _summary(template: Template) -> dict[str, object]:
    return {
        "name": template.name,
        "title": template.title,
        "model": template.model.value,
        "commitment": template.commitment.value,
        "stages": len(template.stages),
        "fields": template.field_count,
        "sm3": template.pair.sm3.hex(),
        "sha256": template.pair.sha256.hex(),
    }


def _show(args: argparse.Namespace, console: Console) -> Exit:
    from models.canonical import parse
    from models.field import expectation
    from models.template import MAX_TEMPLATE_BYTES, builtin

    template = builtin(args.name)
    lines = [f"{template.name} {template.title}", f"SM3 {template.pair.sm3.hex()}"]
    for stage in template.stages:
        lines += ["", f"{stage.name}{console.say('（必填）', ' (required)') if stage.required else ''}"]
        for field in stage.fields:
            mark = "*" if field.required else " "
            lines.append(f" {mark} {field.name}  {field.title}  [{field.clause}]  {expectation(field)}")
    console.document(parse(template.data, max_bytes=MAX_TEMPLATE_BYTES), "\n".join(lines))
    return Exit.DONE


def _example(args: argparse.Namespace, console: Console) -> Exit:
    from models.example import example
    from models.template import builtin

    # A submission is JSON whether or not --json is given: it is made to be sent.
    console.document(example(builtin(args.name), seed=secrets.token_bytes(32), client_key=secrets.token_hex(16)))
    return Exit.DONE


def _check(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.cli.files import read
    from models.canonical import MAX_BODY_BYTES, parse
    from models.errors import Malformed
    from models.opaque import check_opaque
    from models.template import Template, builtin

    data = read(args.file, "file", limit=MAX_BODY_BYTES)
    value = parse(data)
    if not isinstance(value, dict):
        raise Malformed("file is neither a template nor a submission: expected an object")
    if "format" in value:
        template = Template.adopt(data)
        console.document(
            _summary(template) | {"valid": True}, console.say(f"模板有效：{template.name}", f"valid: {template.name}")
        )
        return Exit.DONE
    template = builtin(str(value.get("template")))
    link = value.get("link")
    template.validate(value.get("stages") or {}, link_code=link.get("code") if isinstance(link, dict) else None)
    problems = check_opaque(str(value.get("client_key", "")), "/client_key", "client_key")
    if problems:
        from models.errors import Invalid

        raise Invalid("client_key is not opaque", tuple(problems))
    console.document(
        {"template": template.name, "valid": True}, console.say(f"提交符合模板 {template.name}", f"fits {template.name}")
    )
    return Exit.DONE
