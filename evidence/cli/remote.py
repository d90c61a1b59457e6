"""The client behind every remote verb: which service, and with which token."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evidence.cli.console import Console
from evidence.cli.exits import Usage
from models.errors import Malformed

if TYPE_CHECKING:
    from evidence.client import Client
    from models.checkpoint import VerifierKey

DEFAULT_URL = "http://127.0.0.1:8000"
_DEFAULT_HOME = "var"
_MAX_TOKEN_BYTES = 4096


def home_of(console: Console) -> Path:
    """The home that EVIDENCE_HOME names, or ./var; it need not exist."""
    return Path(console.environ.get("EVIDENCE_HOME") or _DEFAULT_HOME)


def url_of(args: argparse.Namespace, console: Console) -> str:
    """The service that --url or EVIDENCE_URL names, else the local one."""
    return str(getattr(args, "url", None) or console.environ.get("EVIDENCE_URL") or DEFAULT_URL)


def token_of(console: Console) -> str | None:
    """The token of EVIDENCE_TOKEN, EVIDENCE_TOKEN_FILE or EVIDENCE_HOME/token, in this order.

    Raises: Usage if a file that was named cannot be read.
    """
    token = console.environ.get("EVIDENCE_TOKEN")
    if token:
        return token.strip()
    named = console.environ.get("EVIDENCE_TOKEN_FILE")
    path = Path(named) if named else home_of(console) / "token"
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_TOKEN_BYTES)
    except OSError as error:
        if named:
            why = (error.strerror or "").lower()
            raise Usage(f"token file cannot be read: {why} (EVIDENCE_TOKEN_FILE)") from error
        return None
    return data.decode("utf-8", "replace").strip() or None


def connect(args: argparse.Namespace, console: Console, *, keys: Sequence[VerifierKey] = ()) -> Client:
    """A client of the service that the command line and the environment name; `keys` of its log, if known from elsewhere.

    Raises: Usage if address or token have a wrong form.
    """
    from evidence.client import Client

    try:
        return Client(url_of(args, console), token=token_of(console), keys=keys, request_id=console.request_id)
    except Malformed as error:
        raise Usage(error.message, hint="see --url, EVIDENCE_URL, EVIDENCE_TOKEN") from error
