"""`evidence seal`: commit and sign here, send only the sealed form."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from evidence.cli.collect import account_of, collect, local_key, signer_of, signing_options, submission_of
from evidence.cli.console import Console
from evidence.cli.exits import Exit, Usage
from evidence.cli.files import read, read_json, write
from evidence.cli.verbs import LOCAL, Verbs
from models.canonical import JSONValue
from models.errors import Malformed

_MORE_ZH = """\
密封提交 {"template", "client_key", "sealed": {"statement"}, "signature"} 只含声明与签名，不含任何字段值；
用 preserve -f X.sealed.json 发送。opening 含内容与密钥，须像原件一样保管；出证时以 issue --opening 合入。
声明写明日志、账号与主体：用 --account 给出 whoami --json 的输出，或逐项给出。"""
_MORE_EN = """\
The sealed form {"template", "client_key", "sealed": {"statement"}, "signature"} holds the statement and its
signature and no field value; send it with preserve -f X.sealed.json. The opening holds contents and secret: keep
it like the original, and join it with issue --opening. The statement names log, account and subject: --account
takes what whoami --json printed, or name them one by one."""
_MAX_PROBE = 1 << 20


def register(verbs: Verbs) -> None:
    """`seal` is in the table."""
    zh = verbs.lang == "zh"
    seal = verbs.add(
        "seal",
        LOCAL,
        _seal,
        "在本机承诺并签名，只发送密封形式",
        "commit and sign here; only the sealed form is sent",
        more=(_MORE_ZH, _MORE_EN),
    )
    seal.add_argument(
        "input",
        metavar="SUBMISSION|FILE",
        help=verbs.say("一份提交，或按 file@1 密封的文件", "a submission, or a file to seal as file@1"),
    )
    seal.add_argument(
        "-o",
        "--output",
        metavar="X.sealed.json",
        required=True,
        help=verbs.say("密封提交写到何处", "where the sealed submission goes"),
    )
    seal.add_argument(
        "--opening",
        metavar="X.opening.json",
        required=True,
        help=verbs.say("内容与密钥写到何处，须保密", "where contents and secret go: to be kept like the original"),
    )
    signing_options(seal, zh, required=True)
    seal.add_argument("--account", metavar="FILE", help=verbs.say("whoami --json 的输出", "what whoami --json printed"))
    seal.add_argument("--log", metavar="ORIGIN", help=verbs.say("日志名称", "the origin of the log"))
    seal.add_argument("--submitter", metavar="ACCOUNT", help=verbs.say("提交的账号", "the account that submits"))
    seal.add_argument("--subject-id", metavar="ID", help=verbs.say("主体标识", "the id of the subject"))
    seal.add_argument("--subject-name", metavar="NAME", help=verbs.say("主体名称", "the name of the subject"))


def _account(args: argparse.Namespace) -> dict[str, JSONValue]:
    if args.account:
        found = read_json(args.account, "account")
        if not isinstance(found, dict):
            raise Malformed("account has wrong form: expected what whoami --json printed")
        return found
    if not (args.log and args.submitter and args.subject_id and args.subject_name):
        raise Usage("statement needs its account: expected --account, or --log, --submitter, --subject-id and --subject-name")
    return {"log": args.log, "account": args.submitter, "subject": {"id": args.subject_id, "name": args.subject_name}}


def _is_submission(path: str) -> bool:
    """Whether a file is a submission, told by its content: JSON with a template and stages."""
    from models.canonical import parse

    if path == "-":
        return True
    try:
        value = parse(read(path, "submission or file", limit=_MAX_PROBE))
    except Malformed:
        return False
    return isinstance(value, dict) and {"template", "stages"} <= set(value)


def _seal(args: argparse.Namespace, console: Console) -> Exit:
    from evidence.sealing import seal
    from models.canonical import canonical
    from models.commitment import SECRET_BYTES
    from models.template import builtin

    account = account_of(_account(args))
    signer, certificate = signer_of(args)
    if _is_submission(args.input):
        submission = submission_of(args.input)
    else:
        submission = collect(Path(args.input), local_key(console), held=False).submission
    unknown = set(submission) - {"template", "client_key", "stages", "link", "occurred_at"}
    if unknown:
        raise Malformed(f"submission has a member that cannot be sealed: {min(unknown)[:64]}")
    template = builtin(str(submission.get("template")))
    secret = secrets.token_bytes(SECRET_BYTES)
    sealed, opening = seal(submission, template, account=account, secret=secret, signer=signer, certificate=certificate)
    # The opening first: a sealed form whose opening was lost proves nothing to anyone.
    write(console, args.opening, opening.to_bytes(), private=True, fresh=True)
    write(console, args.output, canonical(sealed))
    if args.output != "-":
        console.document(
            {"evidence_id": opening.evidence_id, "sealed": args.output, "opening": args.opening},
            console.say(
                f"{opening.evidence_id}\n密封 {args.output}\n开启 {args.opening}（请妥善保管）",
                f"{opening.evidence_id}\nsealed {args.output}\nopening {args.opening} (keep it safe)",
            ),
        )
    return Exit.DONE
