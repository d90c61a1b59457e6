"""What an examination stands on: the home's files, keys and databases, opened without trusting any of them.

A service refuses to start on a home that is damaged; an examination has to go on, and name it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from chain_gateway.port import node_key_path
from evidence.errors import HomeRefused, Unready
from evidence.examination.damage import Findings, How, Unit
from evidence.home import CLOCK_MARGIN, HOME_FILE, KEY_YEARS, MARK_FILE, HeadMark, HomeFacts
from evidence.keys import FindKey, HomeKeys, WrappingKeys
from evidence.keystore import KeyStore
from evidence.schema import check_version
from evidence.settings import SANDBOX_PREFIX, Environment, Settings
from evidence.store import Store
from models import libcrypto
from models.checkpoint import COSIGNATURE_TYPE, VerifierKey, vkey
from models.digest import Algorithm
from models.errors import EvidenceError
from models.names import twin_origin
from models.signature import SM2Signer

LOG_KEYS = {Algorithm.SM3: "log", Algorithm.SHA256: "twin"}
_OTHERS = 0o077
_INTEGRITY_ROWS = 16


@dataclass(slots=True)
class Ground:
    """The parts of a home that could be opened; what could not is None, and named in `findings`."""

    settings: Settings
    findings: Findings
    clock: Callable[[], datetime]
    store: Store
    wrapping: WrappingKeys
    facts: HomeFacts | None = None
    secrets: KeyStore | None = None
    find_key: FindKey | None = None
    origin: str = ""
    log_keys: dict[Algorithm, VerifierKey] = field(default_factory=dict)

    def close(self) -> None:
        """Every connection is closed."""
        if self.secrets is not None:
            self.secrets.close()
        self.store.close()

    @contextmanager
    def reading_part(self, where: str, *, leaves: tuple[int, int] | None = None) -> Iterator[None]:
        """A database that cannot give what is asked for within is named, and the examination goes on."""
        try:
            yield
        except (DBAPIError, Unready) as error:
            what = type(error.orig).__name__ if isinstance(error, DBAPIError) else error.message
            detail = f"the database cannot be read here: {what}"
            self.findings.add(Unit.DATABASE, where, How.UNREADABLE, detail, leaves=leaves)
            if leaves is not None:
                self.findings.lose_proof(*leaves)

    def use_origin(self, origin: str) -> None:
        """The log's keys go by the name `origin`."""
        self.origin = origin
        for algorithm, name in LOG_KEYS.items():
            public = _public_key(self.settings.home / "keys" / f"{name}.pem", self.findings, f"keys/{name}.pem")
            if public is not None:
                named = origin if algorithm is Algorithm.SM3 else twin_origin(origin)
                self.log_keys[algorithm] = vkey(named, public, COSIGNATURE_TYPE)


def open_ground(settings: Settings, findings: Findings, *, clock: Callable[[], datetime]) -> Ground | None:
    """The home, as far as it can be opened; None if there is no database to examine.

    Raises: HomeRefused if there is no home at all, or its schema is of another version.
    """
    if settings.libcrypto is not None:
        libcrypto.load(settings.libcrypto)
    facts = _facts(settings, findings)
    path = _sqlite_path(settings.database_url)
    if path is not None and not path.is_file():
        if facts is None:
            raise HomeRefused("there is no home here: expected one made by `evidence init`", hint="run evidence init")
        findings.add(Unit.DATABASE, path.name, How.MISSING, "the main database is absent")
        return None
    keys = HomeKeys(settings.home, clock=clock)
    ground = Ground(settings, findings, clock, Store(settings.database_url), keys.wrapping, facts)
    try:
        check_version(ground.store)
    except DBAPIError:
        findings.add(Unit.DATABASE, path.name if path else "main", How.UNREADABLE, "the main database cannot be opened")
        ground.store.close()
        return None
    except BaseException:  # whatever it is, nobody else closes the store
        ground.store.close()
        raise
    _open_secrets(ground)
    _open_keys(ground, keys)
    return ground


def _sqlite_path(url: str) -> Path | None:
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _facts(settings: Settings, findings: Findings) -> HomeFacts | None:
    """What home.json says."""
    try:
        facts = HomeFacts.parse((settings.home / HOME_FILE).read_bytes())
    except FileNotFoundError:
        if (settings.home / "keys").is_dir():
            findings.add(Unit.HOME, HOME_FILE, How.MISSING, "the file that fixes what the home was made with is absent")
        return None
    except (OSError, EvidenceError, ValueError) as error:
        what = error.message if isinstance(error, EvidenceError) else type(error).__name__
        findings.add(Unit.HOME, HOME_FILE, How.UNREADABLE, what)
        return None
    return facts


def check_names(ground: Ground, origin: str) -> None:
    """Settings and home.json name the log `origin`, and the environment that its name stands for."""
    environment = Environment.SANDBOX.value if origin.startswith(SANDBOX_PREFIX) else Environment.PRODUCTION.value
    settings, findings = ground.settings, ground.findings
    for name, expected, found in (
        ("EVIDENCE_ORIGIN", origin, settings.origin),
        ("EVIDENCE_ENVIRONMENT", environment, settings.environment.value),
    ):
        if expected != found:
            detail = "the setting differs from what the home was made with"
            findings.add(Unit.SETTING, name, How.ALTERED, detail, expected=expected, found=found)
    facts = ground.facts
    if facts is None:
        return
    for name, expected, found in (("origin", origin, facts.origin), ("environment", environment, facts.environment)):
        if expected != found:
            detail = "home.json differs from what the log was made with"
            findings.add(Unit.HOME, f"{HOME_FILE} {name}", How.ALTERED, detail, expected=expected, found=found)


def check_windows(facts: HomeFacts, findings: Findings) -> None:
    """The keys' times in home.json are those that were given when it was made; for a log whose keys were never changed."""
    for name, window in sorted(facts.windows.items()):
        if (window.start, window.until) != (facts.created_at - CLOCK_MARGIN, facts.created_at + KEY_YEARS):
            detail = "validity of a key is not the one given when the home was made"
            findings.add(Unit.HOME, f"{HOME_FILE} key {name}", How.ALTERED, detail)


def _open_secrets(ground: Ground) -> None:
    findings, url = ground.findings, ground.settings.secrets_url
    path = _sqlite_path(url)
    if path is not None and not path.is_file():
        findings.add(Unit.DATABASE, path.name, How.MISSING, "the store of secrets is absent: no content can be opened")
        return
    if path is not None and path.stat().st_mode & _OTHERS:
        detail = "the store of secrets is open to others: expected mode 0600"
        findings.add(Unit.KEY, path.name, How.ALTERED, detail, found=_mode(path))
    try:
        ground.secrets = KeyStore(url, wrapping=ground.wrapping)
    except (DBAPIError, EvidenceError):
        findings.add(Unit.DATABASE, path.name if path else "secrets", How.UNREADABLE, "the store of secrets cannot be opened")


def _open_keys(ground: Ground, keys: HomeKeys) -> None:
    settings, findings = ground.settings, ground.findings
    private(settings.home / "keys" / "find.key", findings, "keys/find.key")
    try:
        ground.find_key = keys.find_key()
    except EvidenceError as error:
        findings.add(Unit.KEY, "keys/find.key", How.UNREADABLE, error.message)
    for url in settings.chains:
        path = node_key_path(url, home=settings.home)
        if path is not None:
            name = f"{path.parent.name}/{path.name}"
            _public_key(path, findings, name)
    token = settings.home / "token"
    if token.exists():
        private(token, findings, "token")


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def private(path: Path, findings: Findings, where: str) -> bytes | None:
    """The bytes of a file that must be there for its owner only; what is wrong with it is named."""
    try:
        data = path.read_bytes()
        if path.stat().st_mode & _OTHERS:
            detail = "the file is open to others: expected mode 0600"
            findings.add(Unit.KEY, where, How.ALTERED, detail, expected="0600", found=_mode(path))
    except FileNotFoundError:
        findings.add(Unit.KEY, where, How.MISSING, "the file is absent")
        return None
    except OSError as error:
        findings.add(Unit.KEY, where, How.UNREADABLE, f"the file cannot be read: {(error.strerror or '').lower()}")
        return None
    return data


def _public_key(path: Path, findings: Findings, where: str) -> bytes | None:
    pem = private(path, findings, where)
    if pem is None:
        return None
    try:
        return SM2Signer.from_pem(pem).public_key
    except EvidenceError:
        findings.add(Unit.KEY, where, How.UNREADABLE, "the file is no SM2 key: expected PKCS#8 PEM")
        return None


def check_database(ground: Ground) -> None:
    """The pages and indexes of the SQLite file agree with each other: what no row shows is still read."""
    if not ground.store.is_sqlite:
        return
    name = Path(str(make_url(ground.settings.database_url).database)).name
    with ground.reading_part(name), ground.store.reading() as connection:
        for (said,) in connection.exec_driver_sql(f"PRAGMA integrity_check({_INTEGRITY_ROWS})").all():
            if said != "ok":
                ground.findings.add(Unit.DATABASE, f"{name}: {said[:100]}", How.ALTERED, "pages or indexes contradict each other")


def kept_heads(ground: Ground) -> dict[str, tuple[int, bytes]]:
    """The heads that are kept outside the log's database and were certainly committed: size and SM3 root (formats §3.4)."""
    found: dict[str, tuple[int, bytes]] = {}
    mark = _mark(ground.settings.home)
    if mark is not None:
        found["head file"] = mark
    lock = None if ground.secrets is None else ground.secrets.head()
    if lock is not None:
        found["head_lock"] = lock.old_size, lock.old_root
        if mark is not None and mark[0] >= lock.new_size:
            found["head_lock new"] = lock.new_size, lock.new_root
    return found


def _mark(home: Path) -> tuple[int, bytes] | None:
    if not (home / MARK_FILE).is_file():
        return None
    mark = HeadMark(home)
    try:
        return mark.read()
    finally:
        mark.close()
