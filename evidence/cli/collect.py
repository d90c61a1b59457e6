"""From files to submissions of `file@1`, and from a submission to a signed one."""

from __future__ import annotations

import argparse
import mimetypes
import os
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evidence.cli.console import Console
from evidence.cli.exits import Usage
from evidence.cli.files import read, read_json
from evidence.cli.remote import home_of
from models.canonical import JSONValue, canonical, unb64
from models.commitment import SECRET_BYTES, hmac_sm3
from models.digest import Pair

if TYPE_CHECKING:
    from evidence.cli.verbs import Parser
    from evidence.sealing import Account
    from models.signature import Signer

TEMPLATE = "file@1"
STAGE = "文件"
FIELD = "object"
_KEY_BYTES = 32
MAX_KEY_FILE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Collected:
    """A file as it was read: its submission, its digests, its size."""

    path: Path
    submission: dict[str, JSONValue]
    digests: Pair
    size: int


def local_key(console: Console) -> bytes:
    """The key of this user that makes client keys opaque: in the home if there is one, else under ~/.config; made at first use.

    Raises: Usage if it can be neither read nor made.
    """
    from evidence.errors import ServiceError
    from evidence.keys import read_private, write_once

    home = home_of(console)
    folder = home
    if not home.is_dir():
        configured = console.environ.get("XDG_CONFIG_HOME")
        folder = (Path(configured) if configured else Path.home() / ".config") / "evidence"
    path = folder / "client.key"
    try:
        write_once(path, secrets.token_bytes(_KEY_BYTES), randomness=secrets.token_bytes)
        key = read_private(path)
    except ServiceError as error:
        raise Usage(f"local key cannot be used: {error.message}", hint=error.hint or f"see {path}") from error
    if len(key) != _KEY_BYTES:
        raise Usage(f"local key has wrong length: expected {_KEY_BYTES} bytes ({path})")
    return key


def file_name(path: Path) -> str:
    """The name of a file as a field can hold it: NFC, and bytes that are no UTF-8 written as escapes."""
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)[:1024] or "-"


def collect(path: Path, key: bytes, *, held: bool) -> Collected:
    """The submission of one file, its content read once, in bounded memory; `held` says that the original is sent too.

    The client key is HMAC-SM3 under the local key over all that is said of the file, so that the same file
    gives the same item again, and the same content under another name another item and no conflict.
    Raises: Usage if it cannot be read.
    Source: formats §2.3 (client_key must be opaque).
    """
    from evidence.conversation import digests_of

    try:
        digests, size = digests_of(path)
    except OSError as error:
        raise Usage(f"file cannot be read: {(error.strerror or '').lower()} ({path})") from error
    name = file_name(path)
    media_type = mimetypes.guess_type(name, strict=True)[0] or "application/octet-stream"
    digest = f"sm3:{digests.sm3.hex()}"
    values = {
        "file_name": name,
        "file_size": size,
        "media_type": media_type,
        FIELD: {"digest": digest, "name": name, "size": size, "twin": f"sha256:{digests.sha256.hex()}"},
    }
    client_key = hmac_sm3(key, canonical(["cz-client-key/1", values])).hex()
    submission: dict[str, JSONValue] = {"template": TEMPLATE, "client_key": client_key, "stages": {STAGE: values}}
    if held:
        submission["originals"] = [{"field": FIELD, "digest": digest, "name": name, "media_type": media_type}]
    return Collected(path, submission, digests, size)


def files_under(paths: list[str], *, deep: bool) -> Iterator[Path]:
    """The regular files that the paths name, those of folders in order of name; links inside folders are not followed.

    Raises: Usage if a path is absent, or a folder without `deep`.
    """
    for text in paths:
        path = Path(text)
        if path.is_file():
            yield path
        elif path.is_dir() and deep:
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (each for name in sorted(names) if (each := Path(folder, name)).is_file() and not each.is_symlink())
        elif path.is_dir():
            raise Usage(f"path is a folder: expected a file, or -r for all files in it ({text})")
        else:
            raise Usage(f"file cannot be read: no such file ({text})")


def signing_options(parser: Parser, say_zh: bool, *, required: bool) -> None:  # noqa: FBT001 - a language, not a switch
    """The options of a submitter who signs are on the parser."""
    parser.add_argument(
        "--sign-key",
        "--key",
        metavar="K.pem",
        required=required,
        help="SM2 私钥（PKCS#8 PEM）" if say_zh else "SM2 private key, PKCS#8 PEM",
    )
    parser.add_argument(
        "--certificate",
        metavar="C.cer",
        help="签名证书；不给则按登记的公钥签名"
        if say_zh
        else "the signer's certificate; without it the key itself must be registered",
    )
    parser.add_argument(
        "--key-password-file",
        metavar="FILE",
        help="私钥口令文件" if say_zh else "file that holds the password of the private key",
    )


def signer_of(args: argparse.Namespace) -> tuple[Signer, bytes | None]:
    """The signer and the certificate (DER) that the command line names. Raises: Usage, Malformed, SigningUnavailable."""
    from models.certificate import Certificate
    from models.signature import SM2Signer

    password = read(args.key_password_file, "password file", limit=4096).rstrip(b"\r\n") if args.key_password_file else None
    signer = SM2Signer.from_pem(read(args.sign_key, "private key", limit=MAX_KEY_FILE_BYTES), password=password)
    if args.certificate is None:
        return signer, None
    certificate = Certificate.parse(read(args.certificate, "certificate", limit=MAX_KEY_FILE_BYTES))
    if certificate.public_key != signer.public_key:
        raise Usage("certificate belongs to another key than --sign-key")
    return signer, certificate.der


def account_of(value: Mapping[str, JSONValue]) -> Account:
    """The account in what GET /v1/access/self answers. Raises: Malformed."""
    from evidence.sealing import Account
    from models.errors import Malformed

    subject = value.get("subject")
    if not isinstance(subject, dict) or not isinstance(value.get("log"), str):
        raise Malformed("account has wrong form: expected what whoami --json printed")
    account = Account(str(value["log"]), str(value.get("account")), str(subject.get("id")), str(subject.get("name")))
    account.check()
    return account


def own_secret(key: bytes, account: Account, submission: Mapping[str, JSONValue]) -> bytes:
    """The secret of a signed submission: the same for the same submission, so that a repeat can still be checked.

    The service gives no secret back for what was signed; a fresh one would open nothing when the item stands already.
    """
    given = submission.get("secret")
    if isinstance(given, str):
        return unb64(given, size=SECRET_BYTES, what="secret")
    said = {name: value for name, value in submission.items() if name not in {"originals", "signature"}}
    return hmac_sm3(key, canonical(["cz-local-secret/1", account.log, account.submitter, said]))


def submission_of(path: str) -> dict[str, JSONValue]:
    """The submission in a JSON file or on standard input. Raises: Usage, Malformed."""
    from models.errors import Malformed

    value = read_json(path, "submission")
    if not isinstance(value, dict):
        raise Malformed("submission is not an object")
    return value
