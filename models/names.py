"""The forms of names that stand in more than one format: chain ids, origins, accounts, format markers."""

from __future__ import annotations

import re

from models.canonical import JSONValue
from models.errors import Malformed, Unknown

TWIN_SUFFIX = "/sha256"
MAX_NAME = 128

_CHAIN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_ORIGIN = re.compile(r"[a-z0-9.-]+(?:/[a-z0-9.-]+)+", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_name(value: JSONValue, what: str) -> str:
    """`value` as an account, client_key, link code or subject id: 1–128 characters, no control characters.

    Raises: Malformed otherwise.
    Source: formats §11 (JSON).
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise Malformed(f"{what} has wrong form: expected 1 to {MAX_NAME} characters")
    if _CONTROL.search(value):
        raise Malformed(f"{what} holds a control character")
    return value


def check_chain_id(chain: JSONValue) -> str:
    """`chain`, which has the form of a chain id.

    Raises: Malformed if it has not.
    Source: formats §11 (JSON: chain id).
    """
    if not isinstance(chain, str) or not _CHAIN_ID.fullmatch(chain):
        raise Malformed("chain id has wrong form: expected 1 to 64 of a-z 0-9 . _ - beginning with a letter or digit")
    return chain


def check_origin(origin: JSONValue) -> str:
    """`origin`, which is host/path of at most 128 characters of `[a-z0-9./-]`, a twin's suffix not counted.

    Raises: Malformed if it is anything else.
    Source: formats §3.2, §11 (JSON).
    """
    if not isinstance(origin, str) or len(origin.removesuffix(TWIN_SUFFIX)) > MAX_NAME or not _ORIGIN.fullmatch(origin):
        raise Malformed(f"log origin has wrong form: expected host/path of a-z 0-9 . / -, at most {MAX_NAME} characters")
    return origin


def twin_origin(origin: str) -> str:
    """The origin of the SHA-256 tree that stands beside the log `origin` (formats §3.2)."""
    return origin + TWIN_SUFFIX


def check_format(value: JSONValue, kind: str, version: int = 1) -> None:
    """The member `format` of `value` names `kind` in `version`.

    Raises: Unknown for another version of the kind; Malformed for anything else.
    Source: formats §11 (Check 2).
    """
    found = value.get("format") if isinstance(value, dict) else None
    if found == f"{kind}/{version}":
        return
    if isinstance(found, str) and re.fullmatch(re.escape(kind) + r"/[1-9][0-9]{0,8}", found, re.ASCII):
        raise Unknown(f"{kind} has an unknown version: expected {version}")
    raise Malformed(f"object names no format it may have: expected {kind}/{version}")
