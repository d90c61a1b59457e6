"""`evidence stream`: list and show streams, ask one with proof, recount it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from evidence.cli import plain, stream_run
from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage
from evidence.cli.files import write
from evidence.cli.find import listing
from evidence.cli.remote import connect
from evidence.cli.verbs import REMOTE, Verbs
from models.canonical import JSONValue, b64

_COLUMNS = ("stream_id", "slices", "lines", "position", "lag_s", "behind", "next_by")


def register(verbs: Verbs) -> None:
    """`stream run`, `list`, `show`, `query`, `recount` and `end` are in the table."""
    say = verbs.say
    group = verbs.group("stream", REMOTE, "流式数据存证", "streams of records")
    stream_run.register_run(group)
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
    stream_run.register_end(group)
    for parser in (query, recount):
        parser.add_argument("--from", metavar="TIME", dest="start", help=say("采集时间，含", "collected from, included"))
        parser.add_argument("--to", metavar="TIME", dest="end", help=say("采集时间，不含", "collected to, not included"))
    for parser in (show, query, recount):
        parser.add_argument(
            "--submitter",
            metavar="ACCOUNT",
            help=say("该流所属账号；同名时需要", "whose stream, where several have the id"),
        )
    for parser in (show, query, recount):
        # --keyword takes all words that follow it: where the id is the last of them, `_query` takes it back.
        parser.add_argument(
            "id", metavar="ID", nargs="?" if parser is query else None, help=say("流的编号", "the id of the stream")
        )


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


# --- recounting -----------------------------------------------------------------------------------------------------


def _recount(args: argparse.Namespace, console: Console) -> Exit:
    given = {"from": args.start, "to": args.end, "submitter": args.submitter}
    with connect(args, console) as client:
        found = client.recount_stream(args.id, {name: value for name, value in given.items() if value is not None})
    console.document(found, listing({name: value for name, value in found.items() if name != "notes"}))
    if found.get("failed"):
        return Exit.REFUSED
    return Exit.DONE if found.get("complete") else Exit.UNDECIDED
