"""`evidence key`: a submitter's own signing key, made where it is used."""

from __future__ import annotations

import argparse

from evidence.cli.collect import MAX_KEY_FILE_BYTES
from evidence.cli.console import Console
from evidence.cli.exits import Exit, Usage
from evidence.cli.files import read, write
from evidence.cli.verbs import LOCAL, Verbs
from models.canonical import JSONValue

_MORE_ZH = "私钥只写入文件（0600），从不输出。登记：access register ACCOUNT --vkey …"
_MORE_EN = "The private key goes into the file (0600) and nowhere else. Register it with access register ACCOUNT --vkey …"


def register(verbs: Verbs) -> None:
    """`key new` and `key show` are in the table."""
    group = verbs.group("key", LOCAL, "提交方签名密钥", "the signing key of a submitter")
    new = group.add("new", LOCAL, _new, "生成 SM2 私钥", "make an SM2 key", more=(_MORE_ZH, _MORE_EN))
    new.add_argument(
        "-o", "--output", metavar="K.pem", required=True, help=verbs.say("私钥写到何处", "where the private key goes")
    )
    show = group.add("show", LOCAL, _show, "由私钥显示公钥与 vkey", "the public key and vkey of a private key")
    show.add_argument("file", metavar="K.pem", help=verbs.say("私钥文件", "the private key"))
    for parser in (new, show):
        parser.add_argument(
            "--account", metavar="NAME", required=True, help=verbs.say("以此密钥签名的账号", "the account that signs with it")
        )


def _document(path: str, pem: bytes, account: str) -> tuple[dict[str, JSONValue], str]:
    from models.checkpoint import STATEMENT_TYPE, vkey
    from models.signature import SM2Signer

    key = vkey(account, SM2Signer.from_pem(pem).public_key, STATEMENT_TYPE)
    value: dict[str, JSONValue] = {"file": path, "account": account, "key_id": key.key_id.hex(), "vkey": str(key)}
    return value, f"{account} {key.key_id.hex()}\n{key}"


def _new(args: argparse.Namespace, console: Console) -> Exit:
    from models.signature import SM2Signer

    if args.output == "-":
        raise Usage("private key is never printed: expected the name of a file")
    pem = SM2Signer.generate().to_pem()
    document, text = _document(args.output, pem, args.account)
    write(console, args.output, pem, private=True, fresh=True)
    console.document(document, text)
    return Exit.DONE


def _show(args: argparse.Namespace, console: Console) -> Exit:
    console.document(*_document(args.file, read(args.file, "private key", limit=MAX_KEY_FILE_BYTES), args.account))
    return Exit.DONE
