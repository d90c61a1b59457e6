"""Injuries to what was done: issuances, the audit trail, accounts, tokens, keys, certificates; each with all that is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examined import World

from evidence.examination.damage import How, Unit

Found = tuple[Unit, How, str]
Act = Callable[[World], list[Found]]
INJURIES: dict[str, Act] = {}


def injury(act: Act) -> Act:
    INJURIES[act.__name__] = act
    return act


def issuance(world: World, more: str = "", how: How = How.ALTERED) -> Found:
    name = world.one("SELECT name FROM issuance WHERE number = 1")
    return Unit.ISSUANCE, how, f"issuance {name[:11]}…{more}"


def edit(world: World, column: str, change: Callable[[Any], None]) -> None:
    """A JSON column of the issuance says something else, in the form in which it is written."""
    value = json.loads(world.one(f"SELECT {column} FROM issuance WHERE number = 1"))
    change(value)
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    world.run(f"UPDATE issuance SET {column} = ? WHERE number = 1", data)


def row_of(world: World, act: str) -> int:
    number: int = world.one("SELECT min(number) FROM audit WHERE act = ?", act)
    return number


# --- issuances --------------------------------------------------------------------------------------------------------


@injury
def row_of_an_issuance_deleted(world: World) -> list[Found]:
    found = issuance(world, how=How.MISSING)
    world.run("DELETE FROM issuance WHERE number = 1")
    return [found]


@injury
def receiver_of_an_issuance(world: World) -> list[Found]:
    world.run("UPDATE issuance SET account = 'court' WHERE number = 1")
    return [issuance(world, " account")]


@injury
def matter_of_an_issuance(world: World) -> list[Found]:
    edit(world, "request", lambda value: value.update(matter="另一事由"))
    return [issuance(world, " request")]


@injury
def fraction_in_a_request(world: World) -> list[Found]:
    edit(world, "request", lambda value: value.update(disclose=1.5))
    return [issuance(world, " request")]


@injury
def request_of_nothing_but_brackets(world: World) -> list[Found]:
    world.run("UPDATE issuance SET request = ? WHERE number = 1", b"[" * 100_000)
    return [issuance(world, " request")]


@injury
def items_asked_for(world: World) -> list[Found]:
    edit(world, "request", lambda value: value["ids"].reverse())
    return [issuance(world, " request")]


@injury
def digest_of_a_bundle(world: World) -> list[Found]:
    edit(world, "result", lambda value: value[0]["bundle"].update(sm3="00" * 32))
    return [issuance(world, " result")]


@injury
def package_hash_of_an_issued_item(world: World) -> list[Found]:
    edit(world, "result", lambda value: value[1].update(package_hash="00" * 32))
    return [issuance(world, " result")]


@injury
def issued_item_called_refused(world: World) -> list[Found]:
    edit(world, "result", lambda value: value[0].update(state="refused"))
    return [issuance(world, " result")]


@injury
def record_of_an_issuance_forgotten(world: World) -> list[Found]:
    world.run("UPDATE issuance SET leaf_index = NULL WHERE number = 1")
    return [issuance(world, " leaf_index"), issuance(world, " state")]


@injury
def record_of_an_issuance_redirected(world: World) -> list[Found]:
    world.run("UPDATE issuance SET leaf_index = 0 WHERE number = 1")
    return [issuance(world, " leaf_index")]


@injury
def progress_of_an_issuance(world: World) -> list[Found]:
    world.run("UPDATE issuance SET done = 1, total = 7 WHERE number = 1")
    return [issuance(world, " done"), issuance(world, " total")]


@injury
def time_of_an_issuance(world: World) -> list[Found]:
    world.run("UPDATE issuance SET created_ms = created_ms + 3600000 WHERE number = 1")
    return [issuance(world, " created_ms")]


@injury
def unrecorded_issuance_of_a_stranger(world: World) -> list[Found]:
    """One that failed has no record; its row must still be coherent in itself."""
    assert world.one("SELECT state FROM issuance WHERE number = 2") == "failed"
    world.run("UPDATE issuance SET account = 'nobody', done = 4 WHERE number = 2")
    name = world.one("SELECT name FROM issuance WHERE number = 2")
    where = f"issuance {name[:11]}…"
    return [(Unit.ISSUANCE, How.ALTERED, f"{where} account"), (Unit.ISSUANCE, How.ALTERED, f"{where} done")]


@injury
def bytes_that_are_no_request(world: World) -> list[Found]:
    world.run("UPDATE issuance SET request = x'7b' WHERE number = 1")
    return [issuance(world, " request")]


@injury
def texts_where_bytes_and_numbers_belong(world: World) -> list[Found]:
    world.run("UPDATE issuance SET result = 'none', created_ms = 'late', done = 'all' WHERE number = 1")
    return [issuance(world, " result"), issuance(world, " created_ms")]


# --- the trail --------------------------------------------------------------------------------------------------------


@injury
def reading_deleted_from_the_trail(world: World) -> list[Found]:
    number = row_of(world, "read")
    world.run("DELETE FROM audit WHERE number = ?", number)
    return [(Unit.AUDIT, How.MISSING, f"audit {number}")]


@injury
def preserving_deleted_from_the_trail(world: World) -> list[Found]:
    world.run("DELETE FROM audit WHERE number IN (1, 2)")
    leaves = [(Unit.AUDIT, How.MISSING, f"leaf {leaf}") for leaf in (0, 1)]
    return [(Unit.AUDIT, How.MISSING, "audit 1 to 2"), *leaves]


@injury
def preserving_ascribed_to_another(world: World) -> list[Found]:
    world.run("UPDATE audit SET account = 'court' WHERE number = 1")
    return [(Unit.AUDIT, How.ALTERED, "audit 1 account")]


@injury
def preserving_dated_back(world: World) -> list[Found]:
    world.run("UPDATE audit SET at_ms = at_ms - 60000 WHERE number = 2")
    return [(Unit.AUDIT, How.ALTERED, "audit 2 at_ms")]


@injury
def preserving_of_an_item_that_is_none(world: World) -> list[Found]:
    world.run("UPDATE audit SET object = ? WHERE number = 2", "ev_" + "ab" * 32)
    return [(Unit.AUDIT, How.ALTERED, "audit 2 object")]


@injury
def preserving_told_twice(world: World) -> list[Found]:
    world.run("INSERT INTO audit (at_ms, account, act, object, request_id) SELECT at_ms, account, act, object, '' FROM audit"
              " WHERE number = 1")  # fmt: skip
    return [(Unit.AUDIT, How.ADDED, f"audit {world.one('SELECT max(number) FROM audit')}")]


@injury
def reading_of_an_item_that_is_none(world: World) -> list[Found]:
    number = row_of(world, "read")
    world.run("UPDATE audit SET object = ? WHERE number = ?", "ev_" + "ab" * 32, number)
    return [(Unit.AUDIT, How.ALTERED, f"audit {number} object")]


@injury
def question_to_a_stream_that_is_none(world: World) -> list[Found]:
    number = row_of(world, "stream-query")
    world.run("UPDATE audit SET object = 'another' WHERE number = ?", number)
    return [(Unit.AUDIT, How.ALTERED, f"audit {number} object")]


@injury
def act_that_is_none(world: World) -> list[Found]:
    number = row_of(world, "recount")
    world.run("UPDATE audit SET act = 'looked', account = 'nobody' WHERE number = ?", number)
    return [(Unit.AUDIT, How.ALTERED, f"audit {number} {column}") for column in ("act", "account")]


# --- accounts, tokens, keys -------------------------------------------------------------------------------------------


def _access(where: str) -> Found:
    return Unit.ACCESS, How.ALTERED, where


@injury
def role_that_is_none(world: World) -> list[Found]:
    number = world.one("SELECT number FROM account WHERE account = 'court'")
    world.run("UPDATE account SET roles = 'court king' WHERE number = ?", number)
    return [_access(f"account {number}")]


@injury
def business_account_without_a_subject(world: World) -> list[Found]:
    number = world.one("SELECT number FROM account WHERE account = 'business'")
    world.run("UPDATE account SET subject_id = '', subject_name = '' WHERE number = ?", number)
    return [_access(f"account {number}")]


@injury
def token_of_nobody(world: World) -> list[Found]:
    number = world.one("SELECT number FROM token WHERE account = 'auditor'")
    world.run("UPDATE token SET account = 'nobody' WHERE number = ?", number)
    return [_access(f"token {number} account")]


@injury
def token_cut_short(world: World) -> list[Found]:
    number = world.one("SELECT number FROM token WHERE account = 'auditor'")
    world.run("UPDATE token SET digest = x'00' WHERE number = ?", number)
    return [_access(f"token {number}")]


@injury
def token_that_ended_before_it_began(world: World) -> list[Found]:
    number = world.one("SELECT number FROM token WHERE account = 'auditor'")
    world.run("UPDATE token SET expires_ms = created_ms WHERE number = ?", number)
    return [_access(f"token {number}")]


@injury
def digest_of_the_local_token(world: World) -> list[Found]:
    world.flip("token", "digest", "account = ?", "local", at=3)
    return [(Unit.KEY, How.ALTERED, "token")]


@injury
def key_of_a_submitter(world: World) -> list[Found]:
    world.flip("submitter_key", "public_key", "number = ?", 1)
    return [_access("submitter_key 1 public_key")]


@injury
def bit_of_a_certificate(world: World) -> list[Found]:
    world.flip("certificate", "der", "number = ?", 1, at=90)
    return [_access("certificate 1 digest")]


@dataclass(frozen=True)
class Injured:
    """A copy of a home, injured, and what must be named."""

    home: Path
    expected: set[Found]


def injured(name: str, healthy: World, to: Path) -> Injured:
    world = healthy.copy(to)
    return Injured(world.home, set(INJURIES[name](world)))
