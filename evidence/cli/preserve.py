"""`evidence preserve`: files or submissions become evidence; each promise is checked before it is printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evidence.cli.collect import (
    Collected,
    account_of,
    collect,
    files_under,
    local_key,
    own_secret,
    signer_of,
    signing_options,
    submission_of,
)
from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage, error_document, exit_code
from evidence.cli.files import read, write
from evidence.cli.remote import connect
from evidence.cli.verbs import REMOTE, Verbs, seconds
from evidence.errors import NotFinal
from models.canonical import JSONValue
from models.digest import Algorithm, Digest
from models.errors import EvidenceError

if TYPE_CHECKING:
    from evidence.client import Client
    from evidence.promise import Promise
    from models.checkpoint import VerifierKey

_SUFFIX = ".promise.json"
_BATCH = 100
_SEVERITY = (Exit.INTERNAL, Exit.UNREACHABLE, Exit.REFUSED, Exit.MALFORMED, Exit.UNDECIDED)

_MORE_ZH = """\
文件按 file@1 存证；--originals keep 只发送摘要。--save 把承诺存为 FILE.promise.json：其中的密钥可开启该项，须保密。
-f 发送一份提交（可为 templates example 的输出，或 seal 的密封形式）。"""
_MORE_EN = """\
Files are preserved as file@1; --originals keep sends digests only. --save keeps the promise in FILE.promise.json:
the secret in it opens the item, so keep it private. -f sends one submission, such as templates example prints or
the sealed form of seal."""


@dataclass(slots=True)
class _Item:
    """One thing to be preserved and what came of it."""

    name: str
    submission: dict[str, JSONValue]
    save_as: Path | None
    collected: Collected | None = None
    promise: Promise | None = None
    error: EvidenceError | None = None
    state: str = field(default="")


def register(verbs: Verbs) -> None:
    """`preserve` is in the table."""
    zh = verbs.lang == "zh"
    preserve = verbs.add(
        "preserve", REMOTE, _preserve, "存证：文件或一份提交", "preserve files, or one submission", more=(_MORE_ZH, _MORE_EN)
    )
    preserve.add_argument("files", metavar="FILE", nargs="*", help=verbs.say("要存证的文件", "files to preserve"))
    preserve.add_argument(
        "-f",
        "--submission",
        metavar="SUBMISSION|-",
        help=verbs.say("发送这份提交；- 为标准输入", "send this submission; - is standard input"),
    )
    preserve.add_argument("-r", "--recursive", action="store_true", help=verbs.say("文件夹内的所有文件", "all files in a folder"))
    preserve.add_argument(
        "--originals",
        choices=["upload", "keep"],
        default="upload",
        help=verbs.say("upload（默认）上传原件；keep 只发送摘要", "upload (by default) or keep them and send digests only"),
    )
    preserve.add_argument(
        "--save",
        nargs="?",
        const="",
        metavar="FILE.promise.json",
        help=verbs.say("保存承诺；不给文件名则存于原文件旁", "keep the promise; beside the file if no name is given"),
    )
    preserve.add_argument("--wait", choices=["final"], help=verbs.say("等到最终确认才返回", "return when it is final"))
    preserve.add_argument(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="S",
        help=verbs.say("至多等待多少秒，默认 60", "seconds to wait at most, 60 by default"),
    )
    preserve.add_argument(
        "--trust",
        metavar="trust.toml",
        help=verbs.say("按此信任文件中的日志公钥检查承诺", "check promises under the log's keys in this trust file"),
    )
    signing_options(preserve, zh, required=False)


def _inputs(args: argparse.Namespace) -> list[str]:
    """The files named. A word after --save that is no promise's name is a file, because --save needs none."""
    files = list(args.files)
    if args.save and not args.save.endswith(_SUFFIX):
        files.insert(0, args.save)
        args.save = ""
    if bool(files) == (args.submission is not None):
        raise Usage("expected either FILE… or -f SUBMISSION")
    return files


def _items(args: argparse.Namespace, console: Console) -> list[_Item]:
    files = _inputs(args)
    if args.submission is not None:
        name = args.submission
        saved = (
            Path(args.save or (f"{name}{_SUFFIX}" if name != "-" else f"submission{_SUFFIX}")) if args.save is not None else None
        )
        return [_Item(name, submission_of(name), saved)]
    key = local_key(console)
    paths = list(files_under(files, deep=args.recursive))
    if args.save and len(paths) != 1:
        raise Usage("--save names one file, but there are several to preserve: use --save alone")
    items = []
    for path in paths:
        found = collect(path, key, held=args.originals == "upload")
        saved = Path(args.save or f"{path}{_SUFFIX}") if args.save is not None else None
        items.append(_Item(str(path), found.submission, saved, found))
    if not items:
        raise Usage("there is no file to preserve in what was named")
    return items


def _sign(items: Sequence[_Item], args: argparse.Namespace, client: Client, console: Console) -> None:
    from evidence.sealing import signed
    from models.template import builtin

    signer, certificate = signer_of(args)
    account = account_of(client.account())
    key = local_key(console)
    for item in items:
        template = builtin(str(item.submission.get("template")))
        secret = own_secret(key, account, item.submission)
        item.submission = signed(
            item.submission, template, account=account, secret=secret, signer=signer, certificate=certificate
        )


def _attempt(item: _Item, act: Callable[[], object]) -> None:
    try:
        act()
    except EvidenceError as error:
        item.error = error


def _send(items: Sequence[_Item], client: Client, console: Console) -> None:
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        for item in batch:
            collected = item.collected
            if collected is not None and "originals" in item.submission:
                digest = Digest(Algorithm.SM3, collected.digests.sm3)
                _attempt(item, lambda path=collected.path, digest=digest: client.upload_original(path, digest))  # type: ignore[misc]
        ready = [item for item in batch if item.error is None]
        if len(ready) == 1:
            only = ready[0]
            try:
                only.promise = client.preserve(only.submission)
            except EvidenceError as error:
                only.error = error
        elif ready:
            for item, result in zip(ready, client.preserve_many([each.submission for each in ready]), strict=True):
                if isinstance(result, EvidenceError):
                    item.error = result
                else:
                    item.promise = result
        console.progress(min(start + _BATCH, len(items)), len(items), console.say("已受理", "accepted"))


def _save(items: Sequence[_Item], console: Console) -> None:
    for item in items:
        if item.promise is not None and item.save_as is not None:
            said = {name: value for name, value in item.submission.items() if name != "secret"}
            document = item.promise.to_json() | {"submission": said}
            write(console, str(item.save_as), json.dumps(document, ensure_ascii=False, indent=2).encode(), private=True)


def _wait(items: Sequence[_Item], client: Client, console: Console, timeout_s: float) -> None:
    """Wait until all are final. The last leaf is waited for first: the head that holds it holds all before it."""
    kept = sorted(
        (item for item in items if item.promise is not None), key=lambda item: -(item.promise.leaf_index if item.promise else 0)
    )
    for done, item in enumerate(kept, 1):
        if item.promise is None:
            continue
        try:
            item.state = str(client.wait(item.promise.evidence_id, timeout_s=timeout_s).get("state"))
        except NotFinal as error:
            item.error = error
        console.progress(done, len(kept), console.say("已最终确认", "final"))


def _document(item: _Item, request_id: str) -> dict[str, JSONValue]:
    value: dict[str, JSONValue] = {"file": item.name}
    if item.promise is not None:
        promise = item.promise.to_json()
        value |= {name: promise[name] for name in ("evidence_id", "leaf_index", "state", "package_hash")}
        value |= {"on_chain_by": promise["promise"]["on_chain_by"], "created": item.promise.created}
        if item.state:
            value["state"] = item.state
        if item.save_as is not None:
            value["promise_file"] = str(item.save_as)
    if item.error is not None:
        value["problem"] = error_document(item.error, request_id)
    return value


def _known_keys(args: argparse.Namespace) -> list[VerifierKey]:
    """The log's keys in the trust file of --trust; without it those that the service shows are believed for this run."""
    from models.trust import MAX_TRUST_BYTES, TrustRoots

    if args.trust is None:
        return []
    return [each.key for log in TrustRoots.parse(read(args.trust, "trust file", limit=MAX_TRUST_BYTES)).logs for each in log.keys]


def _preserve(args: argparse.Namespace, console: Console) -> Exit:
    items = _items(args, console)
    with connect(args, console, keys=_known_keys(args)) as client:
        if args.sign_key:
            _sign(items, args, client, console)
        _send(items, client, console)
        _save(items, console)
        if args.wait:
            _wait(items, client, console, args.timeout)
    if len(items) == 1 and items[0].promise is None and items[0].error is not None:
        raise items[0].error
    documents = [_document(item, console.request_id) for item in items]
    head = console.say("文件 存证编号 序号 状态 上链期限", "file id leaf state on-chain-by").split()
    rows = [
        [str(each["file"]), *(str(each.get(name, "–")) for name in ("evidence_id", "leaf_index", "state", "on_chain_by"))]
        for each in documents
    ]
    several = {"items": documents, "total": len(documents), "failed": sum(item.error is not None for item in items)}
    console.document(documents[0] if len(documents) == 1 else several, table(head, rows, widest=67))
    for item in items:
        if item.error is not None:
            console.warn(f"{item.name}: {item.error.message}")
    codes = {exit_code(item.error) for item in items if item.error is not None}
    return next((code for code in _SEVERITY if code in codes), Exit.DONE)
