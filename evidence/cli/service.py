"""`evidence init` and `serve`: a home is made, and runs."""

from __future__ import annotations

import argparse
import logging

from evidence.cli.console import Console
from evidence.cli.exits import Exit
from evidence.cli.local import settings_of
from evidence.cli.verbs import LOCAL, Verbs
from evidence.errors import Unready

_MAX_PORT = 65_535


def register(verbs: Verbs) -> None:
    """`init` and `serve` are in the table."""
    init = verbs.add(
        "init",
        LOCAL,
        _init,
        "建立数据目录：密钥、数据库、内嵌账本、本机主体与令牌；可重复执行，从不覆盖密钥",
        "make a home: keys, database, embedded ledger, a subject and a token; idempotent, never overwrites a key",
    )
    init.add_argument(
        "--environment",
        choices=["sandbox", "production"],
        help=verbs.say("测试环境（默认，不得作为证据使用）或生产环境", "sandbox (by default: not evidence) or production"),
    )
    init.add_argument(
        "--origin",
        metavar="NAME",
        help=verbs.say("日志名称，全世界唯一，此后不变", "the name of the log: unique in the world, never changed"),
    )
    serve = verbs.add("serve", LOCAL, _serve, "运行服务；SIGTERM 时从容结束", "run the service; graceful on SIGTERM")
    serve.add_argument(
        "--host", metavar="H", help=verbs.say("监听的地址，默认仅本机", "the address to listen on; by default this machine only")
    )
    serve.add_argument(
        "--port",
        metavar="P",
        type=_port,
        help=verbs.say("监听的端口，默认 EVIDENCE_PORT 或 8000", "the port; by default EVIDENCE_PORT or 8000"),
    )


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _MAX_PORT:
        raise ValueError(text)
    return number


def _init(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.bootstrap import initialise, utc_now
    from evidence.settings import Environment

    environment = None if args.environment is None else Environment(args.environment)
    report = initialise(settings_of(console, environment=environment, origin=args.origin), clock=utc_now)
    value = {
        "home": str(report.home),
        "created": report.is_new,
        "origin": report.origin,
        "environment": report.environment,
        "token_file": str(report.token_file),
        "vkey": report.vkey,
    }
    made = console.say("已建立", "made") if report.is_new else console.say("已存在，未作改动", "was there already, unchanged")
    lines = [f"{report.home} {made}", *(f"{name}  {each}" for name, each in value.items() if name not in {"home", "created"})]
    if report.environment == Environment.SANDBOX:
        lines.append(console.say("测试环境 · 不得作为证据使用", "sandbox: never to be used as evidence"))
    console.document(value, "\n".join(lines))
    return Exit.DONE


def _serve(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.api.server import serve
    from evidence.logging import configure

    settings = settings_of(console, host=args.host, port=args.port)
    configure(level=logging.WARNING if console.quiet else logging.INFO)
    serve(settings, listening=lambda url: console.document({"url": url, "home": str(settings.home)}, url))
    if not console.answered:
        raise Unready("service did not start: the log on standard error says why")
    return Exit.DONE
