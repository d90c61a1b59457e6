"""`evidence stream`: collect a stream, ask it with proof, recount it, end it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evidence.cli import plain
from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage
from evidence.cli.files import read, write
from evidence.cli.find import listing
from evidence.cli.remote import connect, home_of, token_of, url_of
from evidence.cli.verbs import REMOTE, Verbs, positive, seconds
from models.canonical import JSONValue, b64
from models.errors import EvidenceError

if TYPE_CHECKING:
    from evidence.client import AsyncClient
    from evidence.collector import CollectorState, Wish
    from models.extraction import Rule
    from streaming.pipeline import Pipeline, Progress
    from streaming.slicer import CutRule

_COLUMNS = ("stream_id", "slices", "lines", "position", "lag_s", "behind", "next_by")
_RUN_ZH = """\
来源：file:PATH（跟随增长与轮转）、kafka://HOST:PORT/TOPIC、-（标准输入）。
关键字文件每行一个，或 TOML（keywords = […]、[[rule]]）。
首次运行时声明流；采集方私钥与声明保存在 --state（默认 EVIDENCE_HOME/collectors 或 ~/.config/evidence/collectors），须保密。
服务端最新的分片头就是已提交的偏移量：中断后再次运行即从该处继续，不丢不重。Ctrl-C 截出并签名最后一片。"""
_RUN_EN = """\
Sources: file:PATH (followed while it grows and rotates), kafka://HOST:PORT/TOPIC, - (standard input). One keyword a line,
or TOML (keywords = […], [[rule]]). The first run declares the stream; the collector's key and declarations are kept under
--state (default EVIDENCE_HOME/collectors, else ~/.config/evidence/collectors): keep them private. The newest slice header
that the service holds is the committed offset: run again to go on there. Ctrl-C cuts and signs a last slice."""


def register(verbs: Verbs) -> None:
    """`stream run`, `list`, `show`, `query`, `recount` and `end` are in the table."""
    say = verbs.say
    group = verbs.group("stream", REMOTE, "流式数据存证", "streams of records")
    _register_run(group)
    group.add("list", REMOTE, _list, "各流的进度、滞后、来源未读量与下一期限", "how far, how late, how far behind, next deadline")
    show = group.add("show", REMOTE, _show, "查看一个流及其分片", "one stream and its newest slices")
    query = group.add(
        "query",
        REMOTE,
        _query,
        "按关键字或取值查询，答案附完整性证明",
        "ask for keywords or a value: the answer proves it is complete",
    )
    query.add_argument(
        "--keyword", metavar="K", nargs="+", action="extend", default=[], help=say("声明过的关键字", "declared keywords")
    )
    query.add_argument("--all", action="store_true", help=say("同时含全部关键字的行", "lines that hold all the keywords"))
    query.add_argument("--value", metavar="RULE=V", help=say("提取规则的一个取值", "a value of an extraction rule"))
    query.add_argument("-o", "--output", metavar="answer.cz", help=say("写出可离线验证的答案包", "the answer as a bundle"))
    query.add_argument(
        "--scan", action="store_true", help=say("另行扫描全部存档行（无证明）", "count every archived line too (no proof)")
    )
    query.add_argument(
        "--whole",
        action="store_true",
        help=say("答案包含整个分片，任何人可自行复核", "show slices whole: anyone can recount"),
    )
    recount = group.add("recount", REMOTE, _recount, "由存档重算分片与索引并签名", "derive slices and index again, and attest it")
    plain.register(group)
    end = group.add("end", REMOTE, _end, "结束一个流：签名的最后一片", "end a stream: its signed last slice")
    end.add_argument(
        "--reason",
        default="ended by its owner",
        metavar="TEXT",
        help=say("写入最后一片的原因", "the reason, in its last slice"),
    )
    for parser in (query, recount):
        parser.add_argument("--from", metavar="TIME", dest="start", help=say("采集时间，含", "collected from, included"))
        parser.add_argument("--to", metavar="TIME", dest="end", help=say("采集时间，不含", "collected to, not included"))
    for parser in (show, query, recount):
        parser.add_argument(
            "--submitter",
            metavar="ACCOUNT",
            help=say("该流所属账号；同名时需要", "whose stream, where several have the id"),
        )
    for parser in (show, query, recount, end):
        # --keyword takes all words that follow it: where the id is the last of them, `_query` takes it back.
        parser.add_argument(
            "id", metavar="ID", nargs="?" if parser is query else None, help=say("流的编号", "the id of the stream")
        )
    end.add_argument("--state", metavar="DIR", help=say("采集方的私钥与声明", "keys and declarations"))


def _register_run(group: Verbs) -> None:
    say = group.say
    run = group.add(
        "run", REMOTE, _run, "采集：来源 → 分片 → 存证", "collect: source, slices, preserved", more=(_RUN_ZH, _RUN_EN)
    )
    run.add_argument("--stream", metavar="ID", required=True, help=say("流的编号", "the id of the stream"))
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


# --- collecting -----------------------------------------------------------------------------------------------------


def _folder(args: argparse.Namespace, console: Console) -> Path:
    if args.state:
        return Path(args.state)
    home = home_of(console)
    if home.is_dir():
        return home
    configured = console.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "evidence"


def _state(args: argparse.Namespace, console: Console, stream_id: str, *, fresh: bool) -> CollectorState:
    from evidence.collector import CollectorState, state_path
    from models.declaration import check_stream_id

    path = state_path(_folder(args, console), check_stream_id(stream_id))
    if not fresh and not path.exists():
        raise Usage("collector of this stream is not kept here: expected its file", hint=f"see --state; looked for {path}")
    return CollectorState.open(path, stream_id)


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

    wish = _wish(args)
    state = _state(args, console, args.stream, fresh=True)
    cut = _cut_rule(args, wish, state)
    held = state.hold()
    try:
        document = asyncio.run(_collect(args, console, state, wish, cut))
    finally:
        os.close(held)
    console.document(document, listing(document))
    return Exit.DONE


async def _collect(
    args: argparse.Namespace, console: Console, state: CollectorState, wish: Wish, cut: CutRule
) -> dict[str, JSONValue]:
    import asyncio

    from evidence.bootstrap import utc_now
    from evidence.collector import ServiceSink, declare, keep_saying_behind, origin_of, pipeline_of, say_behind

    await _try_source(args, wish, state)
    async with _client(args, console) as client:
        await declare(client, state, wish, randomness=os.urandom)
        sink = ServiceSink(client, state, await origin_of(client))
        pipeline = pipeline_of(state, sink, url=args.source, cut=cut, follow=not args.once, clock=utc_now, randomness=os.urandom)
        telling = [asyncio.ensure_future(each) for each in (_tell(pipeline, console), keep_saying_behind(client, pipeline))]
        _stop_on_signals(pipeline)
        try:
            progress = await pipeline.run()
            if progress.error is None:
                await say_behind(client, pipeline)
        except (BaseExceptionGroup, EvidenceError) as error:
            raise _told(_first(error)) from error
        finally:
            for task in telling:
                task.cancel()
    return _document(progress, None if sink.last_promise is None else str(sink.last_promise.evidence_id))


async def _try_source(args: argparse.Namespace, wish: Wish, state: CollectorState) -> None:
    """The source can be opened, before a declaration names it; one that is followed may still be on its way.

    Raises: Malformed, Unknown for an address of wrong form; Forbidden where it says no; Unreachable with --once.
    """
    from streaming.port import FINGERPRINT_KEY_BYTES, SourceUnavailable, open_source, scheme_of

    if scheme_of(args.source) == "stdin" or (state.declared and wish.is_met_by(state.declared[-1])):
        return
    try:
        source = await open_source(args.source, follow=not args.once, key=os.urandom(FINGERPRINT_KEY_BYTES))
    except SourceUnavailable as error:
        if args.once:
            raise _told(error) from error
    except EvidenceError as error:
        raise _told(error) from error
    else:
        await source.aclose()


def _told(error: BaseException) -> BaseException:
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


def _first(error: BaseException) -> BaseException:
    """The first cause in a group: tasks that run together fail together, for one reason."""
    found = error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _stop_on_signals(pipeline: Pipeline) -> None:
    import asyncio
    import contextlib
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not in a thread, and not on every platform: there Ctrl-C ends the verb as any other.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, pipeline.stop)


async def _tell(pipeline: Pipeline, console: Console) -> None:
    """A line on stderr whenever a slice was preserved or something is in the way."""
    import asyncio

    said: tuple[object, ...] = ()
    while True:
        await asyncio.sleep(1)
        progress = pipeline.progress
        now = (progress.number, progress.error)
        if now != said:
            said = now
            what = f"{progress.stream_id} {progress.state} slice {progress.number} position {progress.position}"
            console.note(
                f"{what} lines {progress.lines} behind {pipeline.behind()}" + (f": {progress.error}" if progress.error else "")
            )


def _document(progress: Progress, evidence_id: str | None) -> dict[str, JSONValue]:
    return {
        "stream_id": progress.stream_id,
        "state": str(progress.state),
        "newest": progress.number,
        "position": None if progress.position is None else str(progress.position),
        "slices": progress.slices,
        "lines": progress.lines,
        "bytes": progress.payload_bytes,
        "evidence_id": evidence_id,
    }


# --- looking --------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace, console: Console) -> Exit:
    with connect(args, console) as client:
        page = client.streams()
    items = page.get("items")
    rows = [_row(item, console) for item in (items if isinstance(items, list) else []) if isinstance(item, dict)]
    head = console.say(
        "流 分片 记录 位置 滞后(秒) 来源未读 下一期限 状态", "stream slices lines position lag_s behind next_by state"
    ).split()
    console.document(page, table(head, rows, widest=40) if rows else console.say("没有流", "no stream"))
    return Exit.DONE


def _row(item: dict[str, JSONValue], console: Console) -> list[str]:
    state = console.say("正常", "running")
    if item.get("ended"):
        state = console.say("已结束", "ended")
    elif item.get("overdue"):
        state = console.say("逾期", "OVERDUE")
    cells = {name: "–" if item.get(name) is None else str(item[name]) for name in _COLUMNS}
    return [*({**cells, "behind": _behind(item, console)}.values()), state]


def _behind(item: dict[str, JSONValue], console: Console) -> str:
    """What the collector said last, with the time of that; whoever said nothing since the service began is unknown."""
    said = item.get("behind")
    if not isinstance(said, dict):
        return console.say("未知", "unknown")
    unit = console.say("字节", "bytes") if said.get("unit") == "bytes" else console.say("条", "records")
    return f"{said.get('count')} {unit} @ {said.get('at')}"


def _show(args: argparse.Namespace, console: Console) -> Exit:
    with connect(args, console) as client:
        stream = client.stream(args.id, submitter=args.submitter)
    console.document(stream, listing({name: value for name, value in stream.items() if name != "declarations"}))
    return Exit.DONE


# --- asking ---------------------------------------------------------------------------------------------------------


def _word(text: str) -> JSONValue:
    """An argument as a keyword: its text, or its bytes where the terminal's charset is not the text's."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"b64": b64(os.fsencode(text))}
    return text


def _question(args: argparse.Namespace) -> dict[str, JSONValue]:
    question: dict[str, JSONValue] = {"from": args.start, "to": args.end, "submitter": args.submitter}
    if args.value is not None:
        name, equals, value = args.value.partition("=")
        if not equals or not name or not value or args.keyword:
            raise Usage("question has wrong form: expected --keyword K, or --value RULE=V alone")
        question["value"] = {"rule": name, "v": _word(value)}
    elif not args.keyword:
        raise Usage("question asks nothing: expected --keyword K or --value RULE=V")
    else:
        question |= {"keywords": [_word(word) for word in args.keyword], "op": "and" if args.all else "or"}
    question |= {name: True for name in ("scan", "whole") if getattr(args, name)}
    return {name: value for name, value in question.items() if value is not None}


def _query(args: argparse.Namespace, console: Console) -> Exit:
    if args.id is None:
        if len(args.keyword) <= 1:
            raise Usage("question names no stream: expected ID", hint="evidence stream query ID --keyword K…")
        args.id = args.keyword.pop()
    question = _question(args)
    with connect(args, console) as client:
        found = client.query_stream(args.id, question)
        if args.output:
            # The range that was left open is now known: both forms answer the very same question.
            pinned = {**question, "from": found["from"], "to": found["to"]}
            pinned.pop("scan", None)
            write(console, args.output, client.stream_answer(args.id, pinned))
    if args.output != "-":
        console.document(found, _answer_text(found, console))
    return {"VALID": Exit.DONE, "INVALID": Exit.REFUSED}.get(str(found.get("verdict")), Exit.UNDECIDED)


def _answer_text(found: dict[str, JSONValue], console: Console) -> str:
    parts = [_line_text(line) for line in _dicts(found.get("lines"))]
    if found.get("lines") is None:
        parts.append(console.say("（此角色不显示行）", "(lines are not shown to this role)"))
    parts.append("")
    for counted in _dicts(found.get("counts")):
        n = counted.get("n") if counted.get("indexed") else console.say("未索引", "not indexed")
        parts.append(f"n({counted.get('text', counted.get('b64'))}) = {n}")
    parts.append(f"{found.get('from')} – {found.get('to')}")
    parts.append(f"{found.get('verdict')}  {found.get('sentence')}")
    parts += [f"  {text}" for text in _texts(found.get("indeterminate"))]
    scan = found.get("scan")
    if isinstance(scan, dict):
        parts += [
            "",
            console.say("全量扫描（服务自述，无证明）：", "full scan (the service's word, no proof):") + f" {scan.get('counts')}",
        ]
        parts += [_line_text(line) for line in _dicts(scan.get("lines"))]
    elif found.get("hint"):
        parts.append(str(found["hint"]))
    return "\n".join(parts)


def _line_text(line: dict[str, JSONValue]) -> str:
    return f"{line.get('position')}  {line.get('collected_at')}  {line.get('text', line.get('b64'))}"


def _dicts(value: JSONValue) -> Sequence[dict[str, JSONValue]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _texts(value: JSONValue) -> Sequence[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


# --- recounting and ending ------------------------------------------------------------------------------------------


def _recount(args: argparse.Namespace, console: Console) -> Exit:
    given = {"from": args.start, "to": args.end, "submitter": args.submitter}
    with connect(args, console) as client:
        found = client.recount_stream(args.id, {name: value for name, value in given.items() if value is not None})
    console.document(found, listing({name: value for name, value in found.items() if name != "notes"}))
    if found.get("failed"):
        return Exit.REFUSED
    return Exit.DONE if found.get("complete") else Exit.UNDECIDED


def _end(args: argparse.Namespace, console: Console) -> Exit:
    import asyncio

    with connect(args, console) as client:
        if client.stream(args.id).get("pushed"):
            found = client.end_stream(args.id, {"reason": args.reason})
            console.document(found, listing(found))
            return Exit.DONE
    state = _state(args, console, args.id, fresh=False)
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
