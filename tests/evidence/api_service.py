"""A real service behind a real socket, in a thread or a process of its own: embedded ledger, temporary home."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from evidence.access import Role
from evidence.api.server import listen, make_server
from evidence.bootstrap import Service, initialise, open_service, utc_now
from evidence.settings import Settings, load_settings
from processes import die_with_parent

START_S = 60

ACCOUNTS: Mapping[str, tuple[Role, tuple[str, str] | None]] = {
    "business": (Role.BUSINESS, ("subject-1", "示例证券")),
    "other": (Role.BUSINESS, ("subject-2", "另一证券")),
    "auditor": (Role.AUDITOR, None),
    "court": (Role.COURT, None),
    "operator": (Role.OPERATOR, None),
}


@dataclass(frozen=True, slots=True)
class Running:
    """The service, its address, and one token for each account of `ACCOUNTS`."""

    service: Service
    url: str
    tokens: Mapping[str, str]

    def client(self, account: str | None = "business", **more: Any) -> httpx.Client:
        """A client that calls as `account`, or without a token."""
        headers = {} if account is None else {"authorization": f"Bearer {self.tokens[account]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **more)

    @property
    def size(self) -> int:
        """How many entries the log holds."""
        return self.service.log.state.size


def settings_for(home: Path, **overrides: Any) -> Settings:
    return load_settings({"EVIDENCE_HOME": str(home)}, **{"anchor_interval_s": 0.05, **overrides})


@contextlib.contextmanager
def running(home: Path, **overrides: Any) -> Iterator[Running]:
    """A fresh service that answers; ended gracefully."""
    settings = settings_for(home, **overrides)
    initialise(settings, clock=utc_now)
    started = threading.Event()
    found: dict[str, Any] = {}

    def answers(url: str) -> None:
        found["url"] = url
        started.set()

    async def live() -> None:
        service = await open_service(settings, clock=utc_now)
        with listen("127.0.0.1", 0) as address:
            server = make_server(service, listening=answers)
            found.update(service=service, server=server)
            await server.serve(sockets=[address])

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            found["error"] = error
            raise
        finally:
            started.set()

    thread = threading.Thread(target=run, name="service-under-test", daemon=True)
    thread.start()
    if not started.wait(START_S) or "url" not in found:
        raise RuntimeError("service did not start") from found.get("error")
    service = found["service"]
    tokens = {
        name: service.access.add(name, roles=[role], subject=subject, expires_at=None)
        for name, (role, subject) in ACCOUNTS.items()
    }
    try:
        yield Running(service, found["url"], tokens)
    finally:
        found["server"].should_exit = True
        thread.join(START_S)


PROGRAM = """
import sys
from pathlib import Path
from evidence.api.server import serve
from evidence.settings import load_settings
settings = load_settings({"EVIDENCE_HOME": sys.argv[1]}, anchor_interval_s=0.05, port=0)
serve(settings, listening=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Process:
    """A service in a process of its own, its address, and the token of its local user."""

    process: subprocess.Popen[str]
    url: str
    token: str

    def client(self, **more: Any) -> httpx.Client:
        """A client that calls as the local user."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.token}"}, timeout=30, **more)


@contextlib.contextmanager
def process(home: Path) -> Iterator[Process]:
    """A service in a process of its own that answers; killed at the end if it still runs."""
    report = initialise(settings_for(home), clock=utc_now)
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread runs yet
    )
    try:
        assert started.stdout is not None
        url = started.stdout.readline().strip()
        assert url.startswith("http://"), "service did not start"
        yield Process(started, url, report.token_file.read_text())
    finally:
        started.kill()
        started.wait()
