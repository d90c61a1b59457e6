"""`evidence access`: accounts, roles and tokens of a home."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timedelta
from typing import NoReturn

from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage
from evidence.cli.local import opened
from evidence.cli.verbs import LOCAL, Parser, Verbs

_SPAN = re.compile(r"([1-9][0-9]{0,5})([dhm])", re.ASCII)
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
ROLES = ("business", "auditor", "court", "operator")


def register(verbs: Verbs) -> None:
    """`access` and its four verbs are in the table."""
    group = verbs.group(
        "access", LOCAL, "账号与令牌：新增、列出、吊销、轮换", "accounts and tokens: add, list, revoke, rotate", default=_list
    )
    add = group.add(
        "add", LOCAL, _add, "新增账号；令牌只显示一次，在行末", "a new account; its token is printed once, last on the line"
    )
    add.add_argument("name", metavar="NAME", help=verbs.say("账号名称，不含个人信息", "the account: nothing personal in it"))
    add.add_argument(
        "--role",
        choices=ROLES,
        action="append",
        required=True,
        help=verbs.say(
            "角色，可重复：business 本主体的存证，auditor 全部元数据与证明，court 含内容（有记录），operator 运维",
            "repeatable: business its own subject, auditor metadata and proofs, court with contents (recorded), operator runs it",
        ),
    )
    add.add_argument(
        "--subject",
        metavar="ID[=NAME]",
        help=verbs.say("主体；business 默认为本机主体", "the subject; of business by default the home's own"),
    )
    _expires(add, verbs)
    group.add("list", LOCAL, _list, "列出账号", "the accounts")
    revoke = group.add("revoke", LOCAL, _revoke, "吊销账号的所有令牌", "no token of the account is good any more")
    revoke.add_argument("name", metavar="NAME", help=verbs.say("账号名称", "the account"))
    rotate = group.add("rotate", LOCAL, _rotate, "换发令牌；旧令牌随即失效", "a new token; the earlier ones are revoked")
    rotate.add_argument("name", metavar="NAME", help=verbs.say("账号名称", "the account"))
    _expires(rotate, verbs)

    signs = group.add(
        "register", LOCAL, _register, "登记账号的签名证书或公钥", "the account may sign under this certificate or key"
    )
    signs.add_argument("name", metavar="NAME", help=verbs.say("账号名称", "the account"))
    chosen = signs.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--certificate", metavar="C.cer", help=verbs.say("签名证书（PEM 或 DER）", "the certificate it signs under, PEM or DER")
    )
    chosen.add_argument("--vkey", metavar="VKEY", help=verbs.say("key show 输出的公钥", "the public key that key show prints"))


def _expires(parser: Parser, verbs: Verbs) -> None:
    parser.add_argument(
        "--expires", metavar="90d", help=verbs.say("有效期，如 90d、12h、30m", "how long the token is good: 90d, 12h, 30m")
    )


def _end(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    match = _SPAN.fullmatch(text)
    if match is None:
        _refuse()
    try:
        return now + int(match[1]) * _UNITS[match[2]]
    except OverflowError:
        _refuse()


def _refuse() -> NoReturn:
    raise Usage("--expires has wrong form: expected for example 90d, 12h or 30m")


def _add(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.access import Role

    with opened(console) as home:
        end = _end(args.expires, home.clock())
        subject = None
        if args.subject:
            number, _, name = args.subject.partition("=")
            subject = (number, name or number)
        elif "business" in args.role:
            subject = home.facts.subject
        token = home.access.add(args.name, roles=[Role(role) for role in args.role], subject=subject, expires_at=end)
    _show_token(args.name, token, console)
    return Exit.DONE


def _show_token(account: str, token: str, console: Console) -> None:
    console.document({"account": account, "token": token}, f"{account} {token}")
    console.note(console.say("令牌只显示这一次", "the token is shown this once"))


def _list(_: argparse.Namespace, console: Console) -> Exit:
    with opened(console) as home:
        accounts = [account.to_json() for account in home.access.list()]
    rows = [
        [
            str(each["account"]),
            " ".join(each["roles"]),
            str((each["subject"] or {}).get("id", "–")),
            str(each["state"]),
            str(each["expires_at"] or "–"),
        ]
        for each in accounts
    ]
    head = console.say("账号 角色 主体 状态 到期", "account roles subject state expires").split()
    console.document({"items": accounts, "total": len(accounts)}, table(head, rows))
    return Exit.DONE


def _revoke(args: argparse.Namespace, console: Console) -> Exit:
    with opened(console) as home:
        home.access.revoke(args.name)
    console.document({"account": args.name, "state": "revoked"}, console.say(f"已吊销 {args.name}", f"revoked {args.name}"))
    return Exit.DONE


def _rotate(args: argparse.Namespace, console: Console) -> Exit:
    with opened(console) as home:
        token = home.access.rotate(args.name, expires_at=_end(args.expires, home.clock()))
    _show_token(args.name, token, console)
    return Exit.DONE


def _register(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.cli.collect import MAX_KEY_FILE_BYTES
    from evidence.cli.files import read

    with opened(console) as home:
        if args.vkey:
            signer = home.access.register_key(args.name, args.vkey).key_id.hex()
        else:
            data = read(args.certificate, "certificate", limit=MAX_KEY_FILE_BYTES)
            signer = home.access.register_certificate(args.name, data).digest.value.hex()
    console.document({"account": args.name, "signer": signer}, f"{args.name} {signer}")
    return Exit.DONE
