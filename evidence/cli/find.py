"""`evidence show`, `query` and `whoami`: one item, items by condition, and who is asking."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage
from evidence.cli.remote import connect
from evidence.cli.verbs import REMOTE, Verbs, positive
from models.canonical import JSONValue


def register(verbs: Verbs) -> None:
    """`show`, `query` and `whoami` are in the table."""
    say = verbs.say
    verbs.add("whoami", REMOTE, _whoami, "令牌所属的账号、角色、主体", "account, roles and subject of the token")
    show = verbs.add(
        "show", REMOTE, _show, "查看一项存证：各链状态、回执、原件", "one item: states per chain, receipts, originals"
    )
    show.add_argument(
        "id",
        metavar="ID",
        help=say("存证编号，或其至少 8 位的唯一前缀", "an evidence id, or a unique prefix of at least 8 digits"),
    )
    query = verbs.add(
        "query",
        REMOTE,
        _query,
        "按摘要、文件、链接码、模板、主体、字段或时间查询",
        "items by digest, file, link code, template, subject, field or time",
    )
    query.add_argument(
        "--digest", metavar="ALG:HEX", help=say("原件摘要，sm3:… 或 sha256:…", "digest of an original, sm3:… or sha256:…")
    )
    query.add_argument(
        "--file",
        metavar="FILE",
        help=say("按文件内容查询，只发送其摘要", "by the content of a file; only its digest is sent"),
    )
    query.add_argument("--link-code", metavar="CODE", help=say("链式数据的链接码", "the code of a link"))
    query.add_argument("--template", metavar="NAME", help=say("模板，如 file@1", "a template, for example file@1"))
    query.add_argument("--subject", metavar="ID", help=say("存证主体", "the subject"))
    query.add_argument(
        "--field",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=say("可查询字段的精确值；可重复", "the exact value of a searchable field; repeatable"),
    )
    query.add_argument(
        "--axis", choices=["occurred", "preserved", "final"], help=say("何种时间，默认受理", "which time; preserved by default")
    )
    query.add_argument(
        "--from",
        metavar="TIME",
        dest="start",
        help=say("起始时间，含；带时区，或为北京时间的日期", "from this time on: RFC 3339 with zone, or a date in Beijing"),
    )
    query.add_argument(
        "--to",
        metavar="TIME",
        dest="end",
        help=say("截止时间，不含；只写日期则含该日", "before this time; a bare date includes that day"),
    )
    query.add_argument("--limit", type=positive, metavar="N", help=say("本页至多多少条", "how many in this page at most"))
    query.add_argument("--cursor", help=say("上一页给出的 next_cursor", "the next_cursor of the page before"))


def flat(value: JSONValue, name: str = "") -> list[tuple[str, str]]:
    """The leaves of a JSON value with dotted names, for a person to read."""
    if isinstance(value, Mapping) and value:
        return [leaf for key, member in value.items() for leaf in flat(member, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and value:
        return [leaf for place, member in enumerate(value) for leaf in flat(member, f"{name}[{place}]")]
    if value is None or isinstance(value, Mapping | list):
        return [(name, "–")]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return [(name, text)]


def listing(value: JSONValue) -> str:
    """A JSON object as lines of name and value; the bytes of E and notes are left to --json."""
    lines = [(name, text) for name, text in flat(value) if "\n" not in text and not text.startswith("{")]
    widest = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name.ljust(widest)}  {text}" for name, text in lines)


def _show(args: argparse.Namespace, console: Console) -> Exit:
    with connect(args, console) as client:
        item = client.get(args.id)
    console.document(item, listing(item))
    return Exit.DONE


def _whoami(args: argparse.Namespace, console: Console) -> Exit:
    with connect(args, console) as client:
        account = client.account()
    console.document(account, listing(account))
    return Exit.DONE


def _criteria(args: argparse.Namespace) -> dict[str, JSONValue]:
    from pathlib import Path

    from evidence.conversation import digests_of

    fields: dict[str, str] = {}
    for given in args.field:
        name, equals, value = given.partition("=")
        if not equals or not name or name in fields:
            raise Usage("field condition has wrong form: expected NAME=VALUE, each name once")
        fields[name] = value
    if args.file and args.digest:
        raise Usage("--file and --digest both name a digest: choose one")
    digest = args.digest
    if args.file:
        try:
            digest = f"sm3:{digests_of(Path(args.file))[0].sm3.hex()}"
        except OSError as error:
            raise Usage(f"file cannot be read: {(error.strerror or '').lower()} ({args.file})") from error
    given = {
        "digest": digest,
        "link_code": args.link_code,
        "template": args.template,
        "subject": args.subject,
        "field": fields or None,
        "axis": args.axis,
        "from": args.start,
        "to": args.end,
        "limit": args.limit,
        "cursor": args.cursor,
    }
    return {name: value for name, value in given.items() if value is not None}


def _query(args: argparse.Namespace, console: Console) -> Exit:
    criteria = _criteria(args)
    with connect(args, console) as client:
        page = client.search(criteria)
    items = page.get("items")
    rows = [
        [
            str(item.get("evidence_id", "")),
            str(item.get("leaf_index", "")),
            str(item.get("state", "")),
            str(item.get("template", "")),
            str(item.get("created_at", "")),
        ]
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
    ]
    head = console.say("存证编号 序号 状态 模板 时间", "id leaf state template time").split()
    text = table(head, rows, widest=67) if rows else console.say("没有符合条件的存证", "no item fits")
    if page.get("next_cursor"):
        text += f"\n--cursor {page['next_cursor']}"
    console.document(page, text)
    return Exit.DONE
