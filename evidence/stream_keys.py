"""The keys that streams need of a home: one that signs recounts, and one for each account whose records are pushed here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from evidence.home import CLOCK_MARGIN, KEY_YEARS, HomeFacts
from evidence.keys import HomeKeys, TimedSigner
from models.checkpoint import NOTE_TYPE, vkey
from models.digest import sm3
from models.trust import Recounter

RECOUNT_KEY = "recount"


def _window(facts: HomeFacts) -> dict[str, datetime]:
    window = facts.windows["log"]
    start = window.start or facts.created_at - CLOCK_MARGIN
    return {"not_before": start, "not_after": window.until or facts.created_at + KEY_YEARS}


def recounter_name(origin: str) -> str:
    """The name under which this service signs recounts."""
    return f"{origin}/recount"


def recount_signer(home: Path, facts: HomeFacts, *, clock: Callable[[], datetime]) -> TimedSigner:
    """The key that signs recounts; made at first use. Raises: SigningUnavailable, HomeRefused, StorageFull."""
    keys = HomeKeys(home, clock=clock)
    keys.create_signer(RECOUNT_KEY)
    return keys.signer(RECOUNT_KEY, **_window(facts))


def recounters(home: Path, facts: HomeFacts, *, clock: Callable[[], datetime]) -> tuple[Recounter, ...]:
    """The recounters of this service, as a trust file names them: itself, once it has the key."""
    keys = HomeKeys(home, clock=clock)
    if RECOUNT_KEY not in keys.names():
        return ()
    name = recounter_name(facts.origin)
    return (Recounter(name, vkey(name, keys.signer(RECOUNT_KEY, **_window(facts)).public_key, NOTE_TYPE)),)


def push_signer(home: Path, facts: HomeFacts, account: str, *, clock: Callable[[], datetime]) -> TimedSigner:
    """The service's collector key for an account whose records are pushed here; made at first use.

    Raises: SigningUnavailable, HomeRefused, StorageFull.
    """
    keys = HomeKeys(home, clock=clock)
    name = f"push-{sm3(account.encode()).hex()[:32]}"
    keys.create_signer(name)
    return keys.signer(name, **_window(facts))
