"""`evidence stream plain`: what holds of a proof of C.5 that another system handed out. Needs no home and no network."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evidence.cli.console import Console
from evidence.cli.exits import Exit
from evidence.cli.files import read
from evidence.cli.verbs import LOCAL, Verbs

if TYPE_CHECKING:
    from models.plain import PlainReport

_MORE_ZH = """\
供公证、鉴定人员核对其他系统按附录 C.5 原文（不加盐、不区分叶节点与内部节点）出具的证明。PROOF.json 的成员均须写明：
  {"format": "cz-plain/1", "profile": "plain" 或 "plain-dup"（奇数末节点上移或与自身配对）, "algorithm": "sm3" 或 "sha256",
   "root": 存证值（十六进制）, "item": 条目文本或 {"b64": …}, "index": 位置（自 0 起）, "size": 条目数,
   "path": [自叶向根的相邻节点（十六进制）]}
--slice 为完整分片内容，每行（不含换行符）一个条目。
相符也只是 INDETERMINATE（退出 2），并写明原因；相互矛盾为 INVALID（退出 1）。绝不为 VALID。"""
_MORE_EN = """\
For notaries and experts who check what another system proves as C.5 prints it: no salt, leaves not told from nodes.
PROOF.json states every member:
  {"format": "cz-plain/1", "profile": "plain" or "plain-dup" (the odd last node goes up, or is paired with itself),
   "algorithm": "sm3" or "sha256", "root": H_root in hex, "item": a text or {"b64": …}, "index": its place from 0,
   "size": how many items, "path": [the nodes beside its way in hex, from the leaf upward]}
--slice is the whole content, each line without its LF an item. What agrees is INDETERMINATE all the same (exit 2), with
the reasons; what contradicts is INVALID (exit 1). It is never VALID."""


def register(group: Verbs) -> None:
    """`stream plain` is in the table."""
    plain = group.add(
        "plain",
        LOCAL,
        _plain,
        "核对其他系统按 C.5 原文出具的证明",
        "check a proof of C.5 by another system",
        more=(_MORE_ZH, _MORE_EN),
    )
    plain.add_argument("proof", metavar="PROOF.json")
    plain.add_argument("--slice", metavar="FILE", help=group.say("分片的完整内容", "the whole content of the slice"))


def _plain(args: argparse.Namespace, console: Console) -> Exit:
    from models.plain import MAX_CONTENT_BYTES, MAX_PROOF_BYTES, PlainProof
    from models.report import EXIT_CODES

    proof = PlainProof.parse(read(args.proof, "plain proof", limit=MAX_PROOF_BYTES))
    content = None if args.slice is None else read(args.slice, "content of the slice", limit=MAX_CONTENT_BYTES)
    report = proof.judge(content)
    console.document(report.to_json(), _text(report, console))
    return Exit(EXIT_CODES[report.verdict])


def _text(report: PlainReport, console: Console) -> str:
    from models.report import Verdict

    marks = {True: console.say("成立", "holds"), False: console.say("矛盾", "CONTRADICTS"), None: "–"}
    verdict = {"INVALID": "无效 (INVALID)", "INDETERMINATE": "不能判定 (INDETERMINATE)"}[report.verdict]
    lines = [f"{console.say(verdict, report.verdict)}  {console.say(*report.sentence)}"]
    lines += [
        f"  {console.say(step.name_zh, step.name)}: {marks[step.holds]}  {console.say(step.detail_zh, step.detail)}"
        for step in report.steps
    ]
    if report.verdict is Verdict.INDETERMINATE:
        lines.append(console.say("为何不能判定：", "why that decides nothing:"))
        lines += [f"  {console.say(*reason)}" for reason in report.reasons]
    return "\n".join(lines)
