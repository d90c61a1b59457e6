"""Every setting of the service, typed, with its unit; the only reader of the environment.

The environment wins over `EVIDENCE_HOME/evidence.toml`. A wrong setting stops the start with one
sentence that names it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from evidence.errors import SettingWrong
from models.errors import Malformed
from models.names import check_origin

SETTINGS_FILE = "evidence.toml"
SANDBOX_PREFIX = "sandbox."


class AnchorMode(StrEnum):
    """When a checkpoint goes onto the chain. Source: T/SAC 004—2024 6.4.4-b."""

    REALTIME = "REALTIME"
    ASYNC = "ASYNC"
    BATCH = "BATCH"


class Environment(StrEnum):
    """Whether what the log holds may pass for evidence (formats §3.2)."""

    SANDBOX = "sandbox"
    PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a service is told before it starts. Times in seconds, sizes in bytes."""

    home: Path
    database_url: str
    secrets_url: str
    chains: tuple[str, ...] = ("embedded:",)
    quorum: int = 1
    anchor_mode: AnchorMode = AnchorMode.BATCH
    anchor_interval_s: float = 1.0
    anchor_max_items: int = 10_000
    promise_s: int = 86_400
    host: str = "127.0.0.1"
    port: int = 8000
    environment: Environment = Environment.SANDBOX
    origin: str = "sandbox.localhost/log/1"
    unit_limit_bytes: int = 256 << 20
    subject_id: str = "local"
    subject_name: str = "本机存证主体"
    organisation: str = "local"
    ca_folder: Path | None = None
    libcrypto: str | None = None

    def check(self) -> None:
        """Return if these settings go together. Raises: SettingWrong."""
        if self.quorum > len(self.chains):
            raise SettingWrong(f"EVIDENCE_QUORUM is larger than the number of chains: expected at most {len(self.chains)}")
        if self.environment is Environment.SANDBOX and not self.origin.startswith(SANDBOX_PREFIX):
            raise SettingWrong("EVIDENCE_ORIGIN of a sandbox must begin with sandbox.: a trial must never pass for evidence")
        if self.environment is Environment.PRODUCTION:
            if self.origin.startswith(SANDBOX_PREFIX):
                raise SettingWrong("EVIDENCE_ORIGIN of production must not begin with sandbox.")
            if all(url.startswith("embedded:") for url in self.chains):
                raise SettingWrong("EVIDENCE_CHAINS has embedded: as its only chain, which production refuses")


def _text(text: str) -> str:
    if not text:
        raise ValueError("a text that is not empty")
    return text


def _number(low: float, high: float, unit: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"a number of {unit} from {low:g} to {high:g}")
        return float(text)

    return read


def _whole(low: int, high: int, unit: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number of {unit} from {low} to {high}")
        return int(text)

    return read


def _choice(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def read(text: str) -> StrEnum:
        for member in kind:
            if text.lower() == member.value.lower():
                return member
        raise ValueError("one of " + ", ".join(member.value for member in kind))

    return read


def _list(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found or any(":" not in part for part in found) or len(set(found)) != len(found):
        raise ValueError("engine urls separated by commas, for example embedded:")
    return found


def _origin(text: str) -> str:
    try:
        return check_origin(text)
    except Malformed as error:
        raise ValueError("host/path of a-z 0-9 . / -, at most 128 characters") from error


def _url(text: str) -> str:
    if not text.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError("sqlite:///… or postgresql+psycopg://…")
    return text


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "EVIDENCE_DATABASE_URL": ("database_url", _url),
    "EVIDENCE_SECRETS_URL": ("secrets_url", _url),
    "EVIDENCE_CHAINS": ("chains", _list),
    "EVIDENCE_QUORUM": ("quorum", _whole(1, 16, "chains")),
    "EVIDENCE_ANCHOR_MODE": ("anchor_mode", _choice(AnchorMode)),
    "EVIDENCE_ANCHOR_INTERVAL_S": ("anchor_interval_s", _number(0.01, 86_400, "seconds")),
    "EVIDENCE_ANCHOR_MAX_ITEMS": ("anchor_max_items", _whole(1, 1_000_000, "items")),
    "EVIDENCE_PROMISE_S": ("promise_s", _whole(1, 604_800, "seconds")),
    "EVIDENCE_HOST": ("host", _text),
    "EVIDENCE_PORT": ("port", _whole(0, 65_535, "a port")),
    "EVIDENCE_ENVIRONMENT": ("environment", _choice(Environment)),
    "EVIDENCE_ORIGIN": ("origin", _origin),
    "EVIDENCE_UNIT_LIMIT_BYTES": ("unit_limit_bytes", _whole(1024, 1 << 40, "bytes")),
    "EVIDENCE_SUBJECT_ID": ("subject_id", _text),
    "EVIDENCE_SUBJECT_NAME": ("subject_name", _text),
    "EVIDENCE_ORGANISATION": ("organisation", _text),
    "EVIDENCE_CA_FOLDER": ("ca_folder", Path),
    "EVIDENCE_LIBCRYPTO": ("libcrypto", _text),
}
# Read by the client or by the command line itself; known here so that a misspelt name is told from them.
CLIENT_NAMES = frozenset(
    {"EVIDENCE_HOME", "EVIDENCE_URL", "EVIDENCE_TOKEN", "EVIDENCE_TOKEN_FILE", "EVIDENCE_DEBUG", "EVIDENCE_LANG"}
)


def environment() -> Mapping[str, str]:
    """The process's environment: the one place where it is read."""
    return dict(os.environ)


def load_settings(environ: Mapping[str, str], **overrides: object) -> Settings:
    """The settings that `evidence.toml`, the environment and the caller's `overrides` give; the later wins.

    Raises: SettingWrong with one sentence naming the setting.
    """
    home = Path(environ.get("EVIDENCE_HOME") or "./var").absolute()
    unknown = sorted(
        name for name in environ if name.startswith("EVIDENCE_") and name not in _READERS and name not in CLIENT_NAMES
    )
    if unknown:
        raise SettingWrong(f"{unknown[0]} is no setting: expected one of {', '.join(sorted(_READERS))}")
    raw = _file(home / SETTINGS_FILE)
    raw.update({name: environ[name] for name in _READERS if environ.get(name)})
    found: dict[str, Any] = {}
    for name, text in raw.items():
        member, read = _READERS[name]
        try:
            found[member] = read(text)
        except ValueError as error:
            raise SettingWrong(f"{name} has a wrong value: expected {error}") from error
    found.update({name: value for name, value in overrides.items() if value is not None})
    found.setdefault("database_url", f"sqlite:///{home / 'evidence.db'}")
    found.setdefault("secrets_url", f"sqlite:///{home / 'secrets.db'}")
    settings = Settings(home=home, **found)
    settings.check()
    return settings


def _file(path: Path) -> dict[str, str]:
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingWrong(f"{SETTINGS_FILE} cannot be read: expected TOML of setting names and values") from error
    found: dict[str, str] = {}
    for name, given in value.items():
        key = name if name.startswith("EVIDENCE_") else f"EVIDENCE_{name.upper()}"
        if key not in _READERS:
            raise SettingWrong(f"{name[:64]} in {SETTINGS_FILE} is no setting: expected one of {', '.join(sorted(_READERS))}")
        found[key] = ",".join(map(str, given)) if isinstance(given, list) else str(given)
    return found


def described(settings: Settings) -> dict[str, str]:
    """Every setting as text, for `evidence init` and the operator; database passwords left out."""
    shown = {}
    for member in fields(settings):
        value = str(getattr(settings, member.name))
        shown[member.name] = re.sub(r"//([^:/@]*):[^@]*@", r"//\1:…@", value)
    return shown
