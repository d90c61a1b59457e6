"""`evidence verify`: a bundle against a trust file, asking nobody. Needs no home and no network."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from evidence.cli.console import Console
from evidence.cli.exits import Exit, Usage
from evidence.cli.files import read
from evidence.cli.verbs import LOCAL, Verbs
from models.canonical import JSONValue

if TYPE_CHECKING:
    from evidence.checks.content import OriginalDigest
    from models.report import Report

_MORE_ZH = """\
只认内容，不认文件名；不需要 EVIDENCE_HOME，不访问网络。信任文件须经其他途径取得，先核对指纹（trust fingerprint）。
--explain 为每一步写出字节与可重复执行的 openssl 命令。多个证据包时：任一 INVALID 退出 1，否则任一不合格式退出 3，
否则任一 INDETERMINATE 退出 2。"""
_MORE_EN = """\
By content, not by name; needs no EVIDENCE_HOME and no network. The trust file comes by another way than the bundle:
compare its fingerprint first (trust fingerprint). --explain writes, per step, the bytes and the exact openssl command
that anyone can repeat. Of several bundles: any INVALID exits 1, else any malformed 3, else any INDETERMINATE 2."""
_BY_SEVERITY = (Exit.REFUSED, Exit.MALFORMED, Exit.UNDECIDED)


def register(verbs: Verbs) -> None:
    """`verify` is in the table."""
    verify = verbs.add("verify", LOCAL, _verify, "离线验证证据包", "verify bundles offline", more=(_MORE_ZH, _MORE_EN))
    verify.add_argument("bundles", metavar="X.cz", nargs="+", help=verbs.say("证据包", "bundles"))
    verify.add_argument("--trust", metavar="trust.toml", required=True, help=verbs.say("信任文件", "the trust file"))
    verify.add_argument(
        "--original",
        metavar="FILE",
        action="append",
        default=[],
        help=verbs.say("一并核对的原件（可重复）", "an original to compare with what is disclosed (repeatable)"),
    )
    verify.add_argument(
        "--explain",
        metavar="DIR",
        help=verbs.say("把每一步的字节与 openssl 命令写到此文件夹", "the folder for the bytes and openssl commands of each step"),
    )
    answer = verbs.say("流式答案的问题须为此（可重复）", "the question of an answer must be this (repeatable)")
    verify.add_argument("--keyword", metavar="K", action="append", default=[], help=answer)
    verify.add_argument(
        "--from", metavar="TIME", dest="start", help=verbs.say("问题的起始时间须为此", "its range must begin here")
    )
    verify.add_argument("--to", metavar="TIME", dest="end", help=verbs.say("问题的截止时间须为此", "its range must end here"))


def _original(name: str) -> OriginalDigest:
    from evidence.checks.content import OriginalDigest
    from models.digest import pair_of_chunks

    try:
        with Path(name).open("rb") as stream:
            return OriginalDigest(*pair_of_chunks(iter(lambda: stream.read(1 << 20), b"")))
    except OSError as error:
        raise Usage(f"original cannot be read: {(error.strerror or '').lower()} ({name})") from error


def _text(name: str, report: Report, console: Console) -> str:
    from evidence.render import render

    return f"{name}\n{render(report, 'zh' if console.lang == 'zh' else 'en')}"


def _explain(bundle: bytes, trust: bytes, folder: Path) -> None:
    from evidence.explain import explain

    try:
        if folder.exists() and any(folder.iterdir()):
            raise Usage(f"folder of --explain is not empty: expected a new or an empty one ({folder})")
        explain(bundle, trust, folder)
    except OSError as error:
        raise Usage(f"explanation cannot be written: {(error.strerror or '').lower()} ({folder})") from error


def _differs(args: argparse.Namespace, report: Report) -> list[str]:
    """What of the question in an answer is not what the reader says was asked (formats §6.2).

    Raises: Usage if something was to be compared and the bundle is no answer; Malformed for a time of wrong form.
    """
    from evidence.times import range_end
    from models.canonical import b64u, format_time

    if not (args.keyword or args.start or args.end):
        return []
    question = report.question
    if not isinstance(question, dict):
        raise Usage("question cannot be compared: the bundle is no answer", hint="leave out --keyword, --from and --to")
    asked: dict[str, JSONValue] = {}
    if args.keyword:
        asked["keywords"] = [b64u(keyword) for keyword in sorted(os.fsencode(keyword) for keyword in args.keyword)]
    for name, text in (("from", args.start), ("to", args.end)):
        if text:
            asked[name] = format_time(range_end(text, name=name, is_last=name == "to"))
    return [name for name, value in asked.items() if question.get(name) != value]


def _verify(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.verifier import verify
    from models.trust import MAX_TRUST_BYTES, TrustRoots

    trust = read(args.trust, "trust file", limit=MAX_TRUST_BYTES)
    roots = TrustRoots.parse(trust)
    originals = [_original(name) for name in args.original]
    documents: list[JSONValue] = []
    texts: list[str] = []
    codes: set[int] = set()
    for place, name in enumerate(args.bundles):
        bundle = read(name, "bundle")
        report = verify(bundle, roots, originals)
        documents.append(report.to_json())
        texts.append("" if console.json else _text(name, report, console))
        codes.add(report.exit_code)
        if report.verdict is None and b"cz-plain/" in bundle:
            said = console.say("这是其他系统的 C.5 证明，请用", "this is a C.5 proof of another system: use")
            console.note(f"{said} evidence stream plain {name}")
        if report.verdict is not None and (differs := _differs(args, report)):
            codes.add(Exit.REFUSED)
            said = console.say("答案回答的不是所给的问题", "the answer is to another question than was given")
            documents[-1] = {**report.to_json(), "question_differs": list(differs)}
            texts[-1] = f"{said}: {', '.join(differs)}\n{texts[-1]}"
        if args.explain and report.verdict is not None:
            _explain(bundle, trust, Path(args.explain) / (str(place) if len(args.bundles) > 1 else ""))
    if len(documents) == 1:
        console.document(documents[0], texts[0])
    else:
        items = [{"file": name, "report": each} for name, each in zip(args.bundles, documents, strict=True)]
        console.document({"items": items, "total": len(items)}, "\n\n".join(texts))
    return next((code for code in _BY_SEVERITY if code in codes), Exit.DONE)
