"""Laws of accounts and tokens, on SQLite and on PostgreSQL."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from databases import KINDS, empty_database
from sqlalchemy import Engine

from clock import ManualClock
from evidence.access import Access, Caller, Role, make_token, token_digest
from evidence.errors import Conflict, Forbidden, NotFound, Unauthorised
from evidence.store import make_engine
from evidence.tables import METADATA
from models.errors import Malformed

SUBJECT = ("s1", "示例证券")
DAY = timedelta(days=1)


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = empty_database(request, tmp_path / "main.db")
    engine = make_engine(url, readers=0)
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


class Stopwatch:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


Open = Callable[[], Access]


@pytest.fixture
def opened(engine: Engine, clock: ManualClock, watch: Stopwatch) -> Open:
    return lambda: Access(engine, clock=clock, now_s=watch)


def test_token_names_its_account_roles_and_subject(opened: Open) -> None:
    access = opened()
    token = access.add("desk-1", roles=[Role.BUSINESS, Role.OPERATOR], subject=SUBJECT, expires_at=None)
    expected = Caller("desk-1", frozenset({Role.BUSINESS, Role.OPERATOR}), "s1", "示例证券")
    assert access.authenticate(token) == expected
    assert opened().authenticate(token) == expected
    assert opened().authenticate(opened().add("auditor", roles=[Role.AUDITOR], subject=None, expires_at=None)).subject_id == ""


def test_token_is_stored_only_as_its_digest(tmp_path: Path, clock: ManualClock) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/main.db", readers=0)
    METADATA.create_all(engine)
    token = Access(engine, clock=clock).add("desk-1", roles=[Role.COURT], subject=None, expires_at=None)
    engine.dispose()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token_digest(token) in stored
    assert token.encode() not in stored
    assert token[3:20].encode() not in stored


@pytest.mark.parametrize("wrong", ["", "x", "Bearer cz_" + "a" * 47, "cz_" + "a" * 46, "cz_" + "é" * 47, "cz_" + "a" * 47 + "\n"])
def test_refuses_what_has_not_the_form_of_a_token(opened: Open, wrong: str) -> None:
    with pytest.raises(Unauthorised, match="wrong form"):
        opened().authenticate(wrong)


def test_refuses_a_mistyped_token_and_an_unknown_one(opened: Open) -> None:
    access = opened()
    token = access.add("desk-1", roles=[Role.COURT], subject=None, expires_at=None)
    typo = token[:10] + ("A" if token[10] != "A" else "B") + token[11:]
    with pytest.raises(Unauthorised, match="mistyped"):
        access.authenticate(typo)
    with pytest.raises(Unauthorised, match="unknown"):
        access.authenticate(make_token(os.urandom))


def test_token_ends_at_its_time_even_while_remembered(opened: Open, clock: ManualClock) -> None:
    access = opened()
    token = access.add("desk-1", roles=[Role.COURT], subject=None, expires_at=clock() + DAY)
    clock.advance(86_399.999)
    access.authenticate(token)
    clock.advance(0.001)
    with pytest.raises(Unauthorised, match="expired"):
        access.authenticate(token)
    assert [row.state for row in access.list()] == ["expired"]


def test_revoked_token_stops_at_once_here_and_within_a_second_elsewhere(opened: Open, watch: Stopwatch) -> None:
    here, elsewhere = opened(), opened()
    token = here.add("desk-1", roles=[Role.COURT], subject=None, expires_at=None)
    other = here.add("desk-2", roles=[Role.COURT], subject=None, expires_at=None)
    here.authenticate(token)
    elsewhere.authenticate(token)
    here.revoke("desk-1")
    here.revoke("desk-1")
    with pytest.raises(Unauthorised, match="revoked"):
        here.authenticate(token)
    elsewhere.authenticate(token)
    watch.s += 1
    with pytest.raises(Unauthorised, match="revoked"):
        elsewhere.authenticate(token)
    assert here.authenticate(other).account == "desk-2"
    assert [row.state for row in here.list()] == ["revoked", "active"]


def test_rotation_gives_a_new_token_and_ends_the_old(opened: Open, clock: ManualClock) -> None:
    access = opened()
    end = clock() + DAY
    old = access.add("desk-1", roles=[Role.BUSINESS], subject=SUBJECT, expires_at=end)
    access.authenticate(old)
    new = access.rotate("desk-1")
    assert new != old
    assert access.authenticate(new).subject_id == "s1"
    with pytest.raises(Unauthorised):
        access.authenticate(old)
    (row,) = access.list()
    assert (row.state, row.tokens, row.expires_at) == ("active", 1, end)
    clock.advance(2 * 86_400)
    with pytest.raises(Malformed, match="past"):
        access.rotate("desk-1")
    late = access.rotate("desk-1", expires_at=clock() + DAY)
    access.authenticate(late)


def test_refuses_to_add_an_account_twice_and_keeps_the_first(opened: Open) -> None:
    access = opened()
    token = access.add("desk-1", roles=[Role.COURT], subject=None, expires_at=None)
    with pytest.raises(Conflict, match="account exists"):
        access.add("desk-1", roles=[Role.OPERATOR], subject=None, expires_at=None)
    assert access.authenticate(token).roles == {Role.COURT}
    assert len(access.list()) == 1


@pytest.mark.parametrize(
    ("account", "roles", "subject", "days", "said"),
    [
        ("", ["court"], None, 1, "account has wrong form"),
        ("a\nb", ["court"], None, 1, "control character"),
        ("a" * 129, ["court"], None, 1, "account has wrong form"),
        ("a", [], None, 1, "no role"),
        ("a", ["king"], None, 1, "role is unknown"),
        ("a", ["business"], None, 1, "no subject"),
        ("a", ["business"], ("", "name"), 1, "subject id"),
        ("a", ["business"], ("s", ""), 1, "subject name"),
        ("a", ["court"], None, 0, "past"),
    ],
)
def test_refuses_malformed_accounts_and_stores_nothing(
    opened: Open, clock: ManualClock, account: str, roles: list[Role], subject: tuple[str, str] | None, days: int, said: str
) -> None:
    access = opened()
    with pytest.raises(Malformed, match=said):
        access.add(account, roles=roles, subject=subject, expires_at=clock() + days * DAY)
    assert access.list() == ()


def test_refuses_to_revoke_or_rotate_an_unknown_account(opened: Open) -> None:
    for act in (opened().revoke, opened().rotate):
        with pytest.raises(NotFound, match="account is unknown"):
            act("nobody")


def test_caller_passes_only_with_a_role_that_allows_it() -> None:
    caller = Caller("a", frozenset({Role.AUDITOR}), "", "")
    caller.require(Role.COURT, Role.AUDITOR)
    with pytest.raises(Forbidden, match="expected court or operator, got auditor"):
        caller.require(Role.COURT, Role.OPERATOR)


def test_list_is_json_without_any_token(opened: Open) -> None:
    access = opened()
    token = access.add("desk-1", roles=[Role.BUSINESS], subject=SUBJECT, expires_at=None)
    (row,) = access.list()
    shown = row.to_json()
    assert shown["subject"] == {"id": "s1", "name": "示例证券"}
    assert (shown["roles"], shown["state"], shown["expires_at"], shown["tokens"]) == (["business"], "active", None, 1)
    assert token not in str(shown)


def test_remembered_token_asks_no_database(tmp_path: Path, clock: ManualClock) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/main.db", readers=0)
    METADATA.create_all(engine)
    access = Access(engine, clock=clock, now_s=Stopwatch())
    token = access.add("desk-1", roles=[Role.COURT], subject=None, expires_at=None)
    access.authenticate(token)
    engine.dispose()
    (tmp_path / "main.db").unlink()
    start = time.perf_counter()
    for _ in range(1000):
        access.authenticate(token)
    assert time.perf_counter() - start < 1
