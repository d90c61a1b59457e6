"""`evidence demo`: the whole path on real files, as a client of the service."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from evidence.cli.collect import collect, files_under, local_key
from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage
from evidence.cli.files import read
from evidence.cli.remote import connect, home_of, url_of
from evidence.cli.verbs import REMOTE, Verbs, seconds
from models.canonical import JSONValue

if TYPE_CHECKING:
    from evidence.client import Client
    from evidence.demo import Exhibit
    from evidence.demo_stream import StreamShown

ACCOUNTS = ("demo-login", "demo-suitability", "demo-order")
_TOKEN_DAYS = 1
_MAX_LOG_BYTES = 8 << 20
_LOGS = ("dpkg.log", "dnf.log", "apt/history.log", "alternatives.log", "syslog", "messages", "bootstrap.log")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_MORE_ZH = """\
默认：README、LICENSE、附录A 示例、附录B 九个环节（本机有 EVIDENCE_HOME 时由三个不同令牌逐一提交）、本机一份日志；
等待最终确认、出证、在不得联网的独立进程中验证，并说明每个证据包的篡改副本为何被拒。
信任文件取自 EVIDENCE_HOME，或以 --trust 给出。仅当全部有效且每个篡改副本均被拒时，退出码为 0。"""
_MORE_EN = """\
By default README, LICENSE, the Appendix A example, the nine stages of Appendix B (by three different tokens where
EVIDENCE_HOME is on this machine), and a log of this machine; waits until final, issues, verifies in a process that
may open no socket, and shows why each tampered copy of each bundle is refused. The trust file is that of
EVIDENCE_HOME, or --trust. Exit 0 only if every verdict is VALID and every tampered copy is not."""


def register(verbs: Verbs) -> None:
    """`demo` is in the table."""
    demo = verbs.add("demo", REMOTE, _demo, "以真实文件演示全过程", "the whole path on real files", more=(_MORE_ZH, _MORE_EN))
    demo.add_argument(
        "paths", metavar="PATH", nargs="*", help=verbs.say("改为演示这些文件或文件夹", "files or folders to show instead")
    )
    demo.add_argument(
        "--trust",
        metavar="trust.toml",
        help=verbs.say("信任文件；默认取自 EVIDENCE_HOME", "the trust file; that of EVIDENCE_HOME by default"),
    )
    demo.add_argument(
        "--timeout",
        type=seconds,
        default=120.0,
        metavar="S",
        help=verbs.say("至多等待最终确认多少秒，默认 120", "seconds to wait for finality, 120 by default"),
    )
    demo.add_argument(
        "--keep", metavar="DIR", help=verbs.say("保留证据包与信任文件的文件夹", "folder in which bundles and trust file stay")
    )


def _here(name: str) -> Path | None:
    """A file of this project: in the folder one stands in, or beside the package."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / name).is_file():
            return folder / name
    return None


def _machine_log(console: Console) -> Path | None:
    """A readable log of this machine that is not too large: the system's, else one of the home."""
    candidates = [Path("/var/log") / name for name in _LOGS]
    candidates += sorted(Path("/var/log").glob("*.log")) if Path("/var/log").is_dir() else []
    candidates += sorted(home_of(console).glob("*.log"))
    for path in candidates:
        try:
            if path.is_file() and 0 < path.stat().st_size <= _MAX_LOG_BYTES:
                with path.open("rb") as stream:
                    stream.read(1)
                return path
        except OSError:
            continue
    return None


def _file_exhibits(args: argparse.Namespace, console: Console, folder: Path) -> Iterator[Exhibit]:
    from evidence.demo import Exhibit

    key = local_key(console)
    if args.paths:
        for path in files_under(args.paths, deep=True):
            yield Exhibit(str(path), collect(path, key, held=True).submission, path)
        return
    for name in ("README.md", "LICENSE"):
        found = _here(name)
        if found is not None and found.stat().st_size > 0:
            yield Exhibit(name, collect(found, key, held=True).submission, found)
    log = _machine_log(console)
    if not log:
        console.note(console.say("本机没有可读的日志，略过", "no readable log on this machine: left out"))
        return
    # A log grows while it is read: what is preserved is a copy of this moment. It goes to our own machine only.
    copy = folder / log.name
    copy.write_bytes(log.read_bytes())
    held = urlsplit(url_of(args, console)).hostname in _LOOPBACK
    yield Exhibit(str(log), collect(copy, key, held=held).submission, copy)


@contextmanager
def _senders(args: argparse.Namespace, console: Console) -> Iterator[tuple[list[Client], list[str], bytes]]:
    """The clients that send, their accounts, and the trust file: three accounts of the home if it is that of the service."""
    from evidence.client import Client
    from models.trust import TrustRoots

    with ExitStack() as stack:
        own = stack.enter_context(connect(args, console))
        origin = own.service().get("origin")
        local = (home_of(console) / "home.json").is_file()
        if args.trust is None and not local:
            raise Usage(
                "demo needs a trust file: expected --trust, or EVIDENCE_HOME of the service",
                hint="evidence trust export -o trust.toml",
            )
        trust = read(args.trust, "trust file") if args.trust else _local_trust(console)
        if not any(log.origin == origin for log in TrustRoots.parse(trust).logs):
            raise Usage("trust file is that of another service than --url names")
        if not local or args.paths:
            yield [own], [str(own.account().get("account"))], trust
            return
        url = url_of(args, console)
        clients = [stack.enter_context(Client(url, token=token)) for token in _tokens(console)]
        yield [own, *clients], list(ACCOUNTS), trust


def _local_trust(console: Console) -> bytes:
    import asyncio

    from evidence.cli.local import opened
    from evidence.cli.trust import roots_of

    with opened(console) as home:
        return asyncio.run(roots_of(home))


def _tokens(console: Console) -> list[str]:
    """Tokens of the three accounts of the demonstration, good for a day; one subject, so that their parts form one link."""
    from evidence.access import Role
    from evidence.cli.local import opened

    with opened(console) as home:
        known = {row.account for row in home.access.list()}
        end = home.clock() + timedelta(days=_TOKEN_DAYS)
        return [
            home.access.rotate(name, expires_at=end)
            if name in known
            else home.access.add(name, roles=[Role.BUSINESS], subject=home.facts.subject, expires_at=end)
            for name in ACCOUNTS
        ]


def _exhibits(args: argparse.Namespace, console: Console, accounts: Sequence[str], folder: Path) -> list[Exhibit]:
    from dataclasses import replace

    from evidence.demo import appendices

    files = list(_file_exhibits(args, console, folder))
    if args.paths:
        if not files:
            raise Usage("there is no file to preserve in what was named")
        return files
    several = len(accounts) > 1
    parts = [replace(each, sender=each.sender + 1 if several else 0) for each in appendices(local_key(console), accounts)]
    return [*files, *parts]


def _demo(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.demo import run
    from evidence.demo_text import DemoText

    with ExitStack() as stack:
        clients, accounts, trust = stack.enter_context(_senders(args, console))
        folder = Path(args.keep) if args.keep else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evidence-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        exhibits = _exhibits(args, console, accounts, folder)
        shown = run(clients, exhibits, trust=trust, folder=folder, timeout_s=args.timeout, progress=console.progress)
        stream = None if args.paths else _show_stream(args, console, clients[0], folder)
    holds = all(each.holds for each in shown) and (stream is None or stream.holds)
    document: dict[str, JSONValue] = {"items": [each.to_json() for each in shown], "holds": holds}
    document["stream"] = None if stream is None else stream.to_json()
    console.document(document, DemoText(console.say, table).text(shown, stream, holds=holds))
    return Exit.DONE if holds else Exit.REFUSED


def _show_stream(args: argparse.Namespace, console: Console, client: Client, folder: Path) -> StreamShown | None:
    """A log of this machine as a stream: followed to its end, asked, verified. Left out where the service is not our own."""
    import os

    from evidence.bootstrap import utc_now
    from evidence.cli.remote import token_of
    from evidence.client import AsyncClient
    from evidence.collector import CollectorState, state_path
    from evidence.demo_stream import collect, show, stream_name

    log, home = _machine_log(console), home_of(console)
    if log is None or args.trust or urlsplit(url_of(args, console)).hostname not in _LOOPBACK:
        console.note(console.say("流式演示需要本机日志与本机服务，略过", "no log or no service of this machine: stream left out"))
        return None
    own = AsyncClient(url_of(args, console), token=token_of(console), request_id=console.request_id)
    collect(own, log, home, clock=utc_now, randomness=os.urandom)()
    name = stream_name(log)
    words = CollectorState.open(state_path(home, name), name).declared[-1].keywords
    apart = folder / "stream"
    apart.mkdir(exist_ok=True)
    # The collector's key was registered just now: only a trust file made after that knows it.
    return show(client, log, apart, trust=_local_trust(console), words=words)
