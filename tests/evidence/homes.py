"""Services over temporary homes, on SQLite and on a real PostgreSQL, with a clock that the test moves."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from clock import ManualClock
from evidence.access import Caller, Role
from evidence.bootstrap import Service, initialise, open_service
from evidence.preservation import Preserved
from evidence.settings import AnchorMode, Settings, load_settings
from evidence.steps import StepFunction, no_step
from models.digest import pair
from models.errors import EvidenceError

_numbers = itertools.count()
FUND = "tsac004.fund-order@1"


def settings_of(home: Path, database_url: str | None = None, **overrides: Any) -> Settings:
    """Settings for a test: anchors at once unless told otherwise."""
    given = {"database_url": database_url, "anchor_mode": AnchorMode.ASYNC, **overrides}
    return load_settings({"EVIDENCE_HOME": str(home)}, **given)


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, clock: Callable[[], Any] | None = None, *, step: StepFunction = no_step, make: bool = True
) -> AsyncIterator[Service]:
    """A started service; stopped gracefully at the end."""
    clock = clock or ManualClock()
    if make:
        initialise(settings, clock=clock)
    service = await open_service(settings, clock=clock, step=step)
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


def business(service: Service, account: str = "acct-1") -> Caller:
    """A caller who preserves for the home's subject."""
    return Caller(account, frozenset({Role.BUSINESS}), *service.home.facts.subject)


def file_submission(client_key: str | None = None, *, source: str = "测试", **more: Any) -> dict[str, Any]:
    """A valid `file@1` submission with a fresh client key unless one is given."""
    key = client_key or f"key-{next(_numbers)}"
    data = f"content of {key}".encode()
    digests = pair(data)
    file = {"digest": f"sm3:{digests.sm3.hex()}", "twin": f"sha256:{digests.sha256.hex()}", "name": "合同.txt", "size": len(data)}
    fields = {
        "file_name": "合同.txt",
        "file_size": len(data),
        "media_type": "text/plain",
        "object": file,
        "source": source,
        "collected_at": "2026-01-01T08:00:00+08:00",
    }
    return {"template": "file@1", "client_key": key, "stages": {"文件": fields}, **more}


async def preserve(service: Service, *bodies: Mapping[str, Any], caller: Caller | None = None) -> list[Preserved | EvidenceError]:
    """What the service answers for each body."""
    return await service.preservation.preserve(list(bodies), caller or business(service), request_id="test")


async def preserved(service: Service, body: Mapping[str, Any], *, caller: Caller | None = None) -> Preserved:
    """The one item preserved; its refusal raised."""
    (answer,) = await preserve(service, body, caller=caller)
    if isinstance(answer, EvidenceError):
        raise answer
    return answer
