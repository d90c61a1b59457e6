"""`evidence issue`: hand out a bundle (出证), joined with the opening where the item was sealed."""

from __future__ import annotations

import argparse

from evidence.cli.console import Console
from evidence.cli.exits import Exit, Usage
from evidence.cli.files import read, write
from evidence.cli.remote import connect
from evidence.cli.verbs import REMOTE, Verbs

_MORE_ZH = """\
默认披露全部字段；--disclose 只披露所列字段（FIELD，或多个环节同名时 STAGE/FIELD）；--disclose 后不跟字段则不披露。
密封提交的内容不在服务端：以 --opening 给出 seal 时保存的 opening 文件，在本机合入。"""
_MORE_EN = """\
All fields are disclosed by default; --disclose shows only those named (FIELD, or STAGE/FIELD where several
stages have it), and none if none is named. Contents of a sealed item are not at the service: --opening names
the file that `seal` kept, and they are joined on this machine."""


def register(verbs: Verbs) -> None:
    """`issue` is in the table."""
    issue = verbs.add("issue", REMOTE, _issue, "出证：取得证据包 .cz", "出证: hand out a bundle", more=(_MORE_ZH, _MORE_EN))
    issue.add_argument(
        "id",
        metavar="ID",
        help=verbs.say("存证编号，或其至少 8 位的唯一前缀", "an evidence id, or a unique prefix of at least 8 digits"),
    )
    issue.add_argument(
        "-o",
        "--output",
        metavar="X.cz",
        required=True,
        help=verbs.say("证据包写到何处；- 为标准输出", "where the bundle goes; - is standard output"),
    )
    issue.add_argument(
        "--disclose", metavar="FIELD", nargs="*", action="extend", help=verbs.say("只披露这些字段", "disclose only these fields")
    )
    issue.add_argument("--opening", metavar="O", help=verbs.say("seal 时保存的 opening 文件", "the opening that seal wrote"))
    issue.add_argument(
        "--kind",
        choices=["item", "transaction"],
        default="item",
        help=verbs.say("单项，或其所属事务的全部环节", "the item, or all parts of its transaction"),
    )


def _issue(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.sealing import MAX_OPENING_BYTES, Opening, join
    from models.digest import pair
    from models.template import builtin

    if args.opening and args.kind != "item":
        raise Usage("--opening opens one item: expected --kind item")
    opening = Opening.parse(read(args.opening, "opening", limit=MAX_OPENING_BYTES)) if args.opening else None
    with connect(args, console) as client:
        if opening is None:
            data = client.bundle(args.id, disclose=args.disclose, kind=args.kind)
        else:
            data = join(client.bundle(args.id, disclose=[]), opening, builtin(opening.template), args.disclose)
    write(console, args.output, data)
    if args.output != "-":
        digests = pair(data)
        console.document(
            {"file": args.output, "bytes": len(data), **digests.to_json()},
            console.say(
                f"已出证 {args.output}（{len(data)} 字节）\nSM3 {digests.sm3.hex()}",
                f"issued {args.output} ({len(data)} bytes)\nSM3 {digests.sm3.hex()}",
            ),
        )
    return Exit.DONE
