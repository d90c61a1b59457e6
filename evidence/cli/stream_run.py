"""`evidence stream run` and `end`: what takes the collector's own key."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage, error_document
from evidence.cli.files import read
from evidence.cli.find import listing
from evidence.cli.remote import connect, home_of, token_of, url_of
from evidence.cli.verbs import REMOTE, Verbs, positive, seconds
from models.canonical import JSONValue
from models.errors import EvidenceError

if TYPE_CHECKING:
    from evidence.client import AsyncClient
    from evidence.collector import CollectorState, Wish
    from evidence.collectors import Collector, Collectors
    from models.extraction import Rule
    from streaming.slicer import CutRule

_RUN_ZH = """\
来源：file:PATH（跟随增长与轮转）、kafka://HOST:PORT/TOPIC、-（标准输入）。
关键字文件每行一个，或 TOML（keywords = […]、[[rule]]）。
主题有多个分区而地址未指明其一时，一次采集全部分区，每个分区一个流：ID-0、ID-1……，采集中新增的分区随后加入；
某个流被拒绝不影响其他流，退出码为 1，结果列出各流及原因；来源本身拒绝时（如口令错误）全部停止。
首次运行时声明流；采集方私钥与声明保存在 --state（默认 EVIDENCE_HOME/collectors 或 ~/.config/evidence/collectors），须保密。
服务端最新的分片头就是已提交的偏移量：中断后再次运行即从该处继续，不丢不重。Ctrl-C 截出并签名最后一片。"""
_RUN_EN = """\
Sources: file:PATH (followed while it grows and rotates), kafka://HOST:PORT/TOPIC, - (standard input). One keyword a line,
or TOML (keywords = […], [[rule]]). All partitions of a topic are collected at once, where it has several and the address
names none (?partition=N): a stream for each, ID-0, ID-1 and so on; those added while it runs begin too. A stream that is
refused does not stop the others: the exit code is 1, and the answer names it and says why. What the source itself refuses,
such as a password, stops all. The first run declares the stream; the collector's key and declarations are kept under
--state (default EVIDENCE_HOME/collectors, else ~/.config/evidence/collectors): keep them private. The newest slice header
that the service holds is the committed offset: run again to go on there. Ctrl-C cuts and signs a last slice."""


def register_run(group: Verbs) -> None:
    """`stream run` is in the table."""
    say = group.say
    run = group.add(
        "run", REMOTE, _run, "采集：来源 → 分片 → 存证", "collect: source, slices, preserved", more=(_RUN_ZH, _RUN_EN)
    )
    run.add_argument(
        "--stream",
        metavar="ID",
        required=True,
        help=say("流的编号；多个分区时为 ID-0、ID-1……", "the id of the stream; of several partitions ID-0, ID-1 …"),
    )
    run.add_argument("--source", metavar="kafka://…|file:PATH|-", required=True, help=say("来源，见上", "where from, see above"))
    run.add_argument("--keywords", metavar="FILE", help=say("关键字文件，首次运行时给出", "the keyword file, at the first run"))
    run.add_argument("--slice-lines", type=positive, metavar="N", help=say("满 N 行即切片", "a slice has N lines at most"))
    run.add_argument("--slice-bytes", type=positive, metavar="N", help=say("满 N 字节即切片", "a slice has N bytes at most"))
    run.add_argument("--slice-seconds", type=seconds, metavar="S", help=say("满 S 秒即切片", "a slice ends after S seconds"))
    run.add_argument("--slice-key", action="store_true", help=say("按消息键切片", "a slice ends where the message key changes"))
    run.add_argument("--slice-rule", metavar="RULE", help=say("按规则取值切片", "a slice ends where the rule's value changes"))
    run.add_argument("--slice", choices=["merkle", "hash"], help=say("分片的存证算法", "how a slice is hashed"))
    run.add_argument("--index", choices=["merkle", "hash"], help=say("索引的存证算法", "how the index is hashed"))
    run.add_argument("--public-slice", action="store_true", help=say("分片不属隐私（表 C.1）", "slices are not private"))
    run.add_argument("--public-index", action="store_true", help=say("索引不属隐私（表 C.1）", "the index is not private"))
    run.add_argument("--case", choices=["exact", "ascii"], help=say("区分大小写，或不区分", "ascii: letter case is ignored"))
    run.add_argument("--boundary", choices=["none", "word"], help=say("word：只计整词", "word: whole words only"))
    run.add_argument("--charset", metavar="NAME", help=say("关键字的字符集，如 gbk", "charset of the keywords"))
    run.add_argument(
        "--max-silence", type=positive, metavar="S", help=say("至多 S 秒无分片", "S seconds without a slice at most")
    )
    run.add_argument(
        "--slice-proof", type=positive, metavar="S", help=say("分片后至多 S 秒上链", "on the chain within S seconds")
    )
    run.add_argument("--once", action="store_true", help=say("读到当前末尾即止", "read to the present end and stop"))
    run.add_argument("--state", metavar="DIR", help=say("采集方的私钥与声明", "keys and declarations"))


def register_end(group: Verbs) -> None:
    """`stream end` is in the table."""
    say = group.say
    end = group.add("end", REMOTE, _end, "结束一个流：签名的最后一片", "end a stream: its signed last slice")
    end.add_argument(
        "--reason",
        default="ended by its owner",
        metavar="TEXT",
        help=say("写入最后一片的原因", "the reason, in its last slice"),
    )
    end.add_argument("id", metavar="ID", help=say("流的编号", "the id of the stream"))
    end.add_argument("--state", metavar="DIR", help=say("采集方的私钥与声明", "keys and declarations"))


# --- collecting -----------------------------------------------------------------------------------------------------


def _folder(args: argparse.Namespace, console: Console) -> Path:
    if args.state:
        return Path(args.state)
    home = home_of(console)
    if home.is_dir():
        return home
    configured = console.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "evidence"


def _client(args: argparse.Namespace, console: Console) -> AsyncClient:
    from evidence.client import AsyncClient

    return AsyncClient(url_of(args, console), token=token_of(console), request_id=console.request_id)


def _wish(args: argparse.Namespace) -> Wish:
    from evidence.collector import Wish
    from models.keywords import MAX_FILE_BYTES, parse_keyword_file

    encoding = "kafka" if args.source.startswith("kafka:") else "line"
    keywords: tuple[bytes, ...] | None = None
    rules: tuple[Rule, ...] = ()
    if args.keywords:
        text = read(args.keywords, "keyword file", limit=MAX_FILE_BYTES + 1)
        keywords, rules = parse_keyword_file(text, case=args.case or "exact", encoding=encoding, charset=args.charset or "utf-8")
    options = {
        "boundary": args.boundary,
        "case": args.case,
        "charset": args.charset or ("utf-8" if args.keywords else None),
        "max_silence_s": args.max_silence,
        "slice_proof_s": args.slice_proof,
        "slice_algorithm": args.slice,
        "index_algorithm": args.index,
        "slice_private": not args.public_slice,
        "index_private": not args.public_index,
    }
    return Wish(args.stream, args.source, encoding, keywords, rules, options)


def _cut_rule(args: argparse.Namespace, wish: Wish, state: CollectorState) -> CutRule:
    from streaming.slicer import CutRule, FieldValue, MessageKey

    given = {
        name: value
        for name, value in (("lines", args.slice_lines), ("bytes", args.slice_bytes), ("seconds", args.slice_seconds))
        if value is not None
    }
    if args.slice_key and args.slice_rule is not None:
        raise Usage("--slice-key and --slice-rule both name an attribute: choose one")
    if args.slice_key and wish.encoding != "kafka":
        raise Usage("--slice-key needs a source of messages: lines have no key", hint="--slice-rule cuts by a value in the line")
    if args.slice_rule is not None:
        rules = wish.rules_after(state)
        rule = next((rule for rule in rules if rule.name == args.slice_rule), None)
        if rule is None:
            known = ", ".join(rule.name for rule in rules) or "none"
            raise Usage("--slice-rule is none of the stream's rules", hint=f"rules of the keyword file: {known}")
        return CutRule(**given, attribute=FieldValue(rule))
    return CutRule(**given, attribute=MessageKey() if args.slice_key else None)


def _run(args: argparse.Namespace, console: Console) -> Exit:
    import asyncio

    ran = asyncio.run(_collect(args, console, _wish(args)))
    document = _document(args.stream, ran, console)
    console.document(document, listing(document) if len(ran) == 1 else _text(ran, console))
    return Exit.REFUSED if any(each.error for each in ran) else Exit.DONE


async def _collect(args: argparse.Namespace, console: Console, wish: Wish) -> list[Collector]:
    """Every stream of the source when it has come to its end. Raises: what all of them were refused for."""
    import asyncio

    from evidence.bootstrap import utc_now
    from evidence.collectors import Collectors

    async with _client(args, console) as client:
        run = Collectors(
            client, _folder(args, console), wish, cut=partial(_cut_rule, args), follow=not args.once, clock=utc_now,
            randomness=os.urandom,
        )  # fmt: skip
        telling = asyncio.ensure_future(_tell(run, console))
        try:
            await run.begin()
            _stop_on_signals(run)
            await run.collect()
        except EvidenceError as error:
            raise _told(error) from error
        finally:
            telling.cancel()
    if run.reason is not None:
        raise _told(run.reason) from run.reason
    return run.all


def _told(error: EvidenceError) -> BaseException:
    """The error as every verb has it: what a source or the service's refusal means for the exit code."""
    from evidence.errors import Forbidden
    from evidence.exchange import Unreachable
    from streaming.port import SourceRefused, SourceUnavailable
    from streaming.sink import SinkRefused, SinkUnavailable

    if isinstance(error, SourceUnavailable | SinkUnavailable):
        return Unreachable(error.message, hint=error.hint)
    if isinstance(error, SourceRefused):
        return Forbidden(error.message, hint=error.hint)
    if isinstance(error, SinkRefused):
        return error.__cause__ or Forbidden(error.message, hint=error.hint)
    return error


def _stop_on_signals(run: Collectors) -> None:
    import asyncio
    import contextlib
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not in a thread, and not on every platform: there Ctrl-C ends the verb as any other.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, run.stop)


async def _tell(run: Collectors, console: Console) -> None:
    """A line on stderr whenever a slice was preserved, a stream was added, or something is in the way."""
    import asyncio

    said: dict[str | None, tuple[object, ...]] = {}
    while True:
        await asyncio.sleep(1)
        now: tuple[object, ...] = (run.in_the_way,)
        if run.in_the_way is not None and said.get(None) != now:
            why = console.say("将继续询问其分区", "asked again until it says which partitions it has")
            console.note(f"{run.in_the_way}; {why}")
        said[None] = now
        for each in run.all:
            now = (each.progress.number, each.progress.error, each.error)
            if each.is_added and each.stream_id not in said:
                new = console.say("分区 {} 为新增，自偏移量 0 采集", "partition {} is new: collected from its offset 0")
                console.note(f"{each.stream_id} " + new.format(each.partition))
            if said.get(each.stream_id) != now:
                _tell_one(each, run, console)
            said[each.stream_id] = now


def _tell_one(each: Collector, run: Collectors, console: Console) -> None:
    """How far a stream is, or that it has ended while others go on; what ends all of them is said once, at the end."""
    if each.error is not None and len(run.all) > 1:
        if run.reason is None:
            console.warn(f"evidence: {each.stream_id}: {each.error.message}")
    elif each.pipeline is not None:
        console.note(_line(each))


def _line(each: Collector) -> str:
    progress, behind = each.progress, None if each.pipeline is None else each.pipeline.behind()
    what = f"{progress.stream_id} {progress.state} slice {progress.number} position {progress.position}"
    return f"{what} lines {progress.lines} behind {behind}" + (f": {progress.error}" if progress.error else "")


def _document(stream_id: str, ran: list[Collector], console: Console) -> dict[str, JSONValue]:
    """One stream as it always was; of several their sums, and each with its partition and what ended it."""
    if len(ran) == 1:
        return _one(ran[0])
    streams = [_one(each) | _of_several(each, console) for each in ran]
    failed = any(each.error for each in ran)
    document: dict[str, JSONValue] = {"stream_id": stream_id, "state": "failed" if failed else "stopped"}
    document |= {
        name: sum(getattr(each.progress, field) for each in ran)
        for name, field in (("slices", "slices"), ("lines", "lines"), ("bytes", "payload_bytes"))
    }
    return {**document, "streams": [*streams]}


def _one(each: Collector) -> dict[str, JSONValue]:
    progress = each.progress
    promise = None if each.sink is None else each.sink.last_promise
    return {
        "stream_id": progress.stream_id,
        "state": str(progress.state),
        "newest": progress.number,
        "position": None if progress.position is None else str(progress.position),
        "slices": progress.slices,
        "lines": progress.lines,
        "bytes": progress.payload_bytes,
        "evidence_id": None if promise is None else str(promise.evidence_id),
    }


def _of_several(each: Collector, console: Console) -> dict[str, JSONValue]:
    found: dict[str, JSONValue] = {"partition": each.partition, "added": each.is_added}
    if each.error is not None:
        told = _told(each.error)
        found |= {"state": "failed"}
        found["error"] = error_document(told if isinstance(told, EvidenceError) else each.error, console.request_id)
    return found


def _text(ran: list[Collector], console: Console) -> str:
    head = console.say("流 分区 状态 分片 记录 位置", "stream partition state slices lines position").split()
    rows = []
    for each in ran:
        state = console.say("失败", "failed") if each.error else console.say("已停止", "stopped")
        if each.is_added:
            state += console.say("（新增）", " (added)")
        progress = each.progress
        counted = (
            each.partition,
            state,
            progress.slices,
            progress.lines,
            "–" if progress.position is None else progress.position,
        )
        rows.append([each.stream_id, *map(str, counted)])
    lines = [f"{each.stream_id}: {each.error.message}" for each in ran if each.error is not None]
    return "\n".join([table(head, rows), *lines])


# --- ending ---------------------------------------------------------------------------------------------------------


def _end(args: argparse.Namespace, console: Console) -> Exit:
    import asyncio

    from evidence.collector import CollectorState, state_path
    from models.declaration import check_stream_id

    with connect(args, console) as client:
        if client.stream(args.id).get("pushed"):
            found = client.end_stream(args.id, {"reason": args.reason})
            console.document(found, listing(found))
            return Exit.DONE
    path = state_path(_folder(args, console), check_stream_id(args.id))
    if not path.exists():
        raise Usage("collector of this stream is not kept here: expected its file", hint=f"see --state; looked for {path}")
    state = CollectorState.open(path, args.id)
    held = state.hold()
    try:
        document = asyncio.run(_sign_end(args, console, state))
    finally:
        os.close(held)
    console.document(document, listing(document))
    return Exit.DONE


async def _sign_end(args: argparse.Namespace, console: Console, state: CollectorState) -> dict[str, JSONValue]:
    from evidence.bootstrap import utc_now
    from evidence.collector import end

    async with _client(args, console) as client:
        promise = await end(client, state, reason=args.reason, clock=utc_now, randomness=os.urandom)
    return {
        "stream_id": args.id,
        "ended": True,
        "slice_id": promise.evidence.statement.client_key,
        "evidence_id": promise.evidence_id,
    }
