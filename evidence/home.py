"""A home: the folder that holds all data of one service, made once by `evidence init`.

What was decided at its making (origin, keys and their validity, subject) stands in `home.json` and
in the keys; it is read, never guessed. Everything here works beside a running service.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from chain_gateway.port import create_chain, node_key_path
from evidence.access import Access
from evidence.errors import HomeRefused, SettingWrong
from evidence.keys import HomeKeys, TimedSigner, make_folder, read_private, write_once
from evidence.sandbox_ca import SandboxAuthority
from evidence.settings import Environment, Settings
from evidence.store import HeadRow, Store, create_head, read_head
from models.canonical import JSONValue, canonical, format_time, members, parse_canonical, parse_time
from models.checkpoint import COSIGNATURE_TYPE, VerifierKey, vkey
from models.digest import Algorithm, sm3
from models.errors import EvidenceError
from models.merkle import empty_root
from models.names import twin_origin
from models.signature import SM2Signer
from models.trust import ChainTrust, Epoch, LogKey, LogTrust, Validator, Window

HOME_FILE = "home.json"
LOCK_FILE = "lock"
MARK_FILE = "head"
KEY_YEARS = timedelta(days=730)
CLOCK_MARGIN = timedelta(hours=2)
_KEYS = ("log", "twin", "node")


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """What was decided when the home was made."""

    created_at: datetime
    environment: str
    origin: str
    subject: tuple[str, str]
    windows: Mapping[str, Window]

    def to_bytes(self) -> bytes:
        """The bytes of `home.json`."""
        return canonical(
            {
                "created_at": format_time(self.created_at),
                "environment": self.environment,
                "format": "cz-home/1",
                "keys": [
                    {"from": _text(window.start), "name": name, "until": _text(window.until)}
                    for name, window in sorted(self.windows.items())
                ],
                "origin": self.origin,
                "subject": {"id": self.subject[0], "name": self.subject[1]},
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> HomeFacts:
        """The facts that `home.json` states. Raises: Malformed."""
        value = parse_canonical(data, what=HOME_FILE)
        created, environment, _, keys, origin, subject = members(
            value, "created_at environment format keys origin subject", HOME_FILE
        )
        windows = {}
        for entry in keys:
            start, name, until = members(entry, "from name until", f"key of {HOME_FILE}")
            windows[name] = Window(parse_time(start), parse_time(until))
        return cls(parse_time(created), environment, origin, tuple(members(subject, "id name", "subject")), windows)


def _text(moment: datetime | None) -> JSONValue:
    return None if moment is None else format_time(moment)


def read_facts(settings: Settings) -> HomeFacts:
    """The facts of the home that `settings` names.

    Raises: HomeRefused if there is none or it cannot be read; SettingWrong if a setting contradicts it.
    """
    try:
        facts = HomeFacts.parse((settings.home / HOME_FILE).read_bytes())
    except FileNotFoundError as error:
        raise HomeRefused("there is no home here: expected one made by `evidence init`", hint="run evidence init") from error
    except (OSError, EvidenceError) as error:
        raise HomeRefused(f"{HOME_FILE} cannot be read: the home is damaged") from error
    for name, setting, fact in (
        ("EVIDENCE_ORIGIN", settings.origin, facts.origin),
        ("EVIDENCE_ENVIRONMENT", settings.environment.value, facts.environment),
    ):
        if setting != fact:
            raise SettingWrong(f"{name} differs from what the home was made with: expected {fact}, got {setting}")
    return facts


class HeadMark:
    """The newest head known to be committed, in a file beside the database.

    Written after each commit without a flush: it need not outlive the machine, only this process,
    so that a database set back behind an answered commit is told from one we died just before.
    """

    def __init__(self, home: Path) -> None:
        self._file = os.open(home / MARK_FILE, os.O_RDWR | os.O_CREAT, 0o600)

    def write(self, size: int, root: bytes) -> None:
        """The head of `size` with SM3 `root` is committed."""
        body = size.to_bytes(8) + root
        os.pwrite(self._file, body + sm3(body)[:8], 0)

    def read(self) -> tuple[int, bytes] | None:
        """The head last written, or None: never written, or torn."""
        data = os.pread(self._file, 48, 0)
        if len(data) != 48 or sm3(data[:40])[:8] != data[40:]:
            return None
        return int.from_bytes(data[:8]), data[8:40]

    def close(self) -> None:
        """The mark is on the disk and its file closed."""
        os.fsync(self._file)
        os.close(self._file)


class HomeLock:
    """The one process that may write this home (SQLite: the file lock; PostgreSQL: besides the advisory lock)."""

    def __init__(self, home: Path) -> None:
        self._file = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise HomeRefused(
                "another process runs on this home: expected to be the only one", hint="stop it, or set another EVIDENCE_HOME"
            ) from error
        self.mark = HeadMark(home)

    def release(self) -> None:
        """Give the home back."""
        self.mark.close()
        os.close(self._file)


def make_home(settings: Settings, store: Store, *, clock: Callable[[], datetime], randomness: Callable[[int], bytes]) -> bool:
    """Keys, facts, log head and embedded ledgers exist; True if the home is new. Idempotent, no key is ever overwritten.

    Raises: HomeRefused, SettingWrong, StorageFull, SigningUnavailable.
    """
    make_folder(settings.home)
    keys = HomeKeys(settings.home, clock=clock, randomness=randomness)
    path = settings.home / HOME_FILE
    is_new = not path.exists()
    for name in _KEYS[:2]:
        keys.create_signer(name)
    keys.create_find_key()
    if is_new:
        now = clock()
        # A little earlier than now: a clock that is set right soon after must not find the keys not yet valid.
        window = Window(now - CLOCK_MARGIN, now + KEY_YEARS)
        subject = (settings.subject_id, settings.subject_name)
        facts = HomeFacts(now, settings.environment.value, settings.origin, subject, dict.fromkeys(_KEYS, window))
        write_once(path, facts.to_bytes(), randomness=randomness)
    facts = read_facts(settings)
    with store.writing() as connection:
        head = read_head(connection)
        if head is None:
            empty = (empty_root(Algorithm.SM3), empty_root(Algorithm.SHA256))
            create_head(connection, HeadRow(facts.origin, 0, 0, *empty, 0, 0))
    first = 0 if head is None else head.size
    for url in settings.chains:
        chain_id = f"{url.partition(':')[0]}-{randomness(6).hex()}"
        if not (node_key := node_key_path(url, home=settings.home)) or not node_key.exists():
            create_chain(url, home=settings.home, chain_id=chain_id, clock=clock, organisation=settings.organisation, first=first)
    return is_new


def authority_folder(settings: Settings) -> Path | None:
    """Where the certificates of accepted CAs lie: as set, or the sandbox's own."""
    if settings.ca_folder is None and settings.environment is Environment.SANDBOX:
        return settings.home / "certs"
    return settings.ca_folder


@dataclass(frozen=True, slots=True)
class Signers:
    """The log's two keys and the subject's node keys, each within its time of validity."""

    log: TimedSigner
    twin: TimedSigner
    nodes: Mapping[str, TimedSigner]


def open_signers(settings: Settings, facts: HomeFacts, *, clock: Callable[[], datetime]) -> Signers:
    """The signers of the home. Raises: SigningUnavailable, HomeRefused."""
    keys = HomeKeys(settings.home, clock=clock)

    def window(name: str) -> dict[str, datetime]:
        found = facts.windows[name]
        start, until = found.start or facts.created_at, found.until or facts.created_at + KEY_YEARS
        return {"not_before": start, "not_after": until}

    nodes = {}
    for url in settings.chains:
        path = node_key_path(url, home=settings.home)
        if path is not None:
            nodes[url] = TimedSigner(SM2Signer.from_pem(read_private(path)), name="node", clock=clock, **window("node"))
    return Signers(keys.signer("log", **window("log")), keys.signer("twin", **window("twin")), nodes)


def certify_nodes(
    settings: Settings,
    facts: HomeFacts,
    signers: Signers,
    access: Access,
    *,
    clock: Callable[[], datetime],
    randomness: Callable[[int], bytes],
) -> None:
    """Every node key of a sandbox has a certificate of the sandbox's own CA, and both are published. Idempotent.

    Source: T/SAC 004—2024 6.4.3-a (公钥及证书信息公开).
    """
    authority = SandboxAuthority(settings.home, clock=clock, randomness=randomness)
    authority.create()
    window = facts.windows["node"]
    for number, signer in enumerate(signers.nodes.values()):
        certificate = authority.certify(
            f"node-{number}",
            f"CN=node {number} of {facts.subject[0]}",
            signer.public_key,
            not_before=window.start or facts.created_at,
            not_after=window.until or facts.created_at + KEY_YEARS,
        )
        access.register_certificate(None, certificate.der)
    access.register_certificate(None, authority.certificate.der)


def log_vkeys(facts: HomeFacts, signers: Signers) -> dict[Algorithm, VerifierKey]:
    """The verifier keys of both trees."""
    return {
        Algorithm.SM3: vkey(facts.origin, signers.log.public_key, COSIGNATURE_TYPE),
        Algorithm.SHA256: vkey(twin_origin(facts.origin), signers.twin.public_key, COSIGNATURE_TYPE),
    }


def log_trusts(facts: HomeFacts, signers: Signers, organisation: str) -> tuple[LogTrust, LogTrust]:
    """What a trust file says of this log and its twin."""
    keys = log_vkeys(facts, signers)
    first = LogKey(keys[Algorithm.SM3], organisation, facts.windows["log"])
    second = LogKey(keys[Algorithm.SHA256], organisation, facts.windows["twin"])
    return (
        LogTrust(facts.origin, Algorithm.SM3, (first,)),
        LogTrust(twin_origin(facts.origin), Algorithm.SHA256, (second,), facts.origin),
    )


def chain_trust(value: Mapping[str, JSONValue], *, first: int) -> ChainTrust:
    """What a gateway says of its chain, as the verifier takes it; `first` is where our list of anchors begins there."""
    epochs = tuple(
        Epoch(
            epoch["from_height"],
            tuple(Validator(node["key"], node["organisation"]) for node in epoch["validators"]),
            epoch["quorum"],
        )
        for epoch in value["epochs"]
    )
    senders: Sequence[str] = value.get("senders", ())
    return ChainTrust(
        value["id"],
        value["engine"],
        first,
        value.get("time_error_s", 0),
        value.get("not_before", False),
        tuple(senders),
        value.get("params", {}),
        epochs,
    )
