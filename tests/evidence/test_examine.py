"""Laws of the examination: every injury is found and named at its smallest unit, and a healthy home raises no alarm."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from databases import KINDS, empty_database
from examined import ORIGINALS, World, examined, make_world, original_submission, settings_for, settled, upload
from homes import business, file_submission, preserve, serving
from injuries import Found, groups
from injuries_around import INJURIES

from clock import ManualClock
from evidence.access import Role
from evidence.cli.app import run
from evidence.cli.console import Console
from evidence.cli.examine import map_text
from evidence.errors import HomeRefused
from evidence.examination.damage import Damage, DamageMap, How, Leaves, Unit
from evidence.examine import examine
from evidence.store import Store

CLEAN_COUNTS = {"items": 702, "anchors": 6, "checkpoints": 19, "tiles": 4, "objects": 7, "conflict rows": 1, "link rows": 16}


class Ward:
    """The healthy home, and each group of injuries on a copy of it, examined once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.healthy = asyncio.run(make_world(folder / "healthy"))
        self.injured = cache(self._injure)

    def copy(self, name: str) -> World:
        return self.healthy.copy(self.folder / name)

    def _injure(self, group: str) -> tuple[DamageMap, dict[str, list[Found]]]:
        world = self.copy(group)
        expected = {name: INJURIES[name][1](world) for name in groups()[group]}
        return examined(world.home), expected


@pytest.fixture(scope="session")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return Ward(tmp_path_factory.mktemp("examined"))


def found(damage: DamageMap) -> set[Found]:
    return {(each.unit, each.how, each.where) for each in damage.damages}


def without(damage: DamageMap, *leaves: int) -> bool:
    return not any(start <= leaf < stop for leaf in leaves for start, stop in damage.provable)


# --- injuries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for group in groups().values() for name in group])
def test_injury_is_named_at_its_smallest_unit(ward: Ward, name: str) -> None:
    damage, expected = ward.injured(INJURIES[name][0])
    assert expected[name]
    assert set(expected[name]) <= found(damage)
    assert not damage.is_clean


@pytest.mark.parametrize("group", sorted(groups()))
def test_nothing_is_named_but_what_was_injured(ward: Ward, group: str) -> None:
    damage, expected = ward.injured(group)
    assert found(damage) == {each for injury in expected.values() for each in injury}


def test_there_are_thirty_kinds_of_injury() -> None:
    assert len(INJURIES) >= 30


def test_map_tells_what_was_committed_what_was_found_and_what_stays_provable(ward: Ward) -> None:
    damage, _ = ward.injured("rows")
    by_name = {(each.unit, each.where): each for each in damage.damages}
    bit = by_name[Unit.EVIDENCE, "leaf 300"]
    assert bit.leaves == (300, 301)
    assert bit.expected != bit.found
    assert bit.expected is not None
    assert len(bit.expected) == 8
    lost = (300, 302, 320, 330, 331, 333, 335, 600, 610)
    assert without(damage, *lost)
    # An entry or a column is made anew from E: the item remains provable.
    for kept in (0, 299, 301, 340, 620, 701):
        assert any(start <= kept < stop for start, stop in damage.provable)
    beside, _ = ward.injured("beside")
    assert beside.provable == ((0, 702),)
    assert beside.undisclosable == ((340, 344), (345, 350))


def test_map_holds_no_value_of_an_item(ward: Ward) -> None:
    for group in ("rows", "beside", "tree", "anchors"):
        damage, _ = ward.injured(group)
        text = json.dumps(damage.to_json(), ensure_ascii=False)
        for personal in ("合同", "测试", "acct-1", "file-0", "另一主体", "o.bin"):
            assert personal not in text


# --- health -------------------------------------------------------------------------------------------------------


def test_healthy_home_raises_no_alarm_and_is_not_changed(ward: Ward) -> None:
    told: list[tuple[int, int, str]] = []
    home = ward.healthy.home
    before = _contents(home)
    damage = examine(settings_for(home), clock=ManualClock(), progress=lambda *each: told.append(each))
    assert _contents(home) == before
    assert found(damage) == set()
    assert damage.is_clean
    assert damage.is_whole
    assert damage.provable == ((0, 702),)
    assert (damage.unprovable, damage.undisclosable, damage.unanchored, damage.more) == ((), (), (), 0)
    assert {name: damage.examined[name] for name in CLEAN_COUNTS} == CLEAN_COUNTS
    assert damage.examined["original bytes"] > 6_000_000
    assert damage.examined["records"] == 56
    assert (702, 702, "items") in told


def _contents(home: Path) -> dict[str, bytes]:
    # SQLite makes its two files beside a database for readers too.
    files = (path for path in sorted(home.rglob("*")) if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


def test_empty_home_raises_no_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def make() -> None:
        async with serving(settings_for(tmp_path / "home")):
            pass

    asyncio.run(make())
    assert run(["examine", "--json"], environ={"EVIDENCE_HOME": str(tmp_path / "home")}) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["clean"], value["size"], value["damages"], value["provable"]) == (True, 0, [], [])


def test_items_whose_anchor_is_not_final_yet_are_no_damage(tmp_path: Path) -> None:
    async def make() -> None:
        async with serving(settings_for(tmp_path / "home", anchor_interval_s=80_000)) as service:
            await preserve(service, *[file_submission(f"key-{n}") for n in range(3)])

    asyncio.run(make())
    damage = examined(tmp_path / "home")
    assert found(damage) == set()
    assert (damage.unanchored, damage.provable) == (((0, 3),), ())


def test_streams_raise_no_alarm_and_an_altered_header_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def make() -> None:
        async with serving(settings_for(home)) as service:
            caller = business(service)
            subject = caller.subject_id, caller.subject_name
            service.access.add(caller.account, roles=[Role.BUSINESS], subject=subject, expires_at=None)
            await service.pushing.declare({"stream_id": "s1", "keywords": ["buy", "sell"]}, caller, request_id="test")
            await service.pushing.push("s1", {"first": 0, "records": ["buy AAA", "sell BBB"]}, caller, request_id="test")

    asyncio.run(make())
    assert found(examined(home)) == set()
    world = World(home)
    leaf = world.one("SELECT max(leaf_index) FROM stream_slice")
    world.flip("stream_slice", "header", "leaf_index = ?", leaf)
    assert found(examined(home)) == {(Unit.STREAM, How.ALTERED, f"leaf {leaf} slice")}


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_database(request, tmp_path / "main.db")


def test_both_databases_are_examined(url: str, tmp_path: Path) -> None:
    settings = {"database_url": url}

    async def make() -> None:
        clock = ManualClock()
        async with serving(settings_for(tmp_path / "home", **settings), clock) as service:
            await preserve(service, *[file_submission(f"key-{n}") for n in range(260)])
            await settled(service, clock)
            await preserve(service, *[file_submission(f"more-{n}") for n in range(5)])

    asyncio.run(make())
    assert found(examined(tmp_path / "home", **settings)) == set()

    store = Store(url)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE evidence SET subject = 'x' WHERE leaf_index = 7")
        connection.exec_driver_sql("DELETE FROM tile WHERE tree = 0")
        connection.exec_driver_sql("DELETE FROM blind WHERE leaf_index = 11")
        connection.exec_driver_sql("UPDATE idempotency SET leaf_index = 3 WHERE leaf_index = 4")
    store.close()
    damage = examined(tmp_path / "home", **settings)
    units = [unit for unit, _, _ in found(damage)]
    assert {(Unit.COLUMN, How.ALTERED, "leaf 7 subject"), (Unit.TILE, How.MISSING, "sm3 tile 0/0")} <= found(damage)
    assert set(units) == {Unit.COLUMN, Unit.TILE, Unit.BLIND, Unit.IDEMPOTENCY}


# --- settings, homes that are none --------------------------------------------------------------------------------


def test_chain_that_lies_elsewhere_is_compared_there(ward: Ward) -> None:
    elsewhere = ward.folder / "elsewhere"
    world = ward.copy("chain dropped")
    (world.home / "chain").rename(elsewhere)
    damage = examined(world.home, chains=(f"embedded:{elsewhere}",))
    assert found(damage) == set()


def test_refuses_a_folder_that_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(HomeRefused, match="there is no home here"):
        examined(tmp_path)


def test_absent_or_unreadable_database_is_named(ward: Ward) -> None:
    world = ward.copy("no database")
    (world.home / "evidence.db").write_bytes(b"not a database at all, but long enough to be looked at")
    assert [(each.unit, each.how) for each in examined(world.home).damages] == [(Unit.DATABASE, How.UNREADABLE)]
    (world.home / "evidence.db").unlink()
    assert found(examined(world.home)) == {(Unit.DATABASE, How.MISSING, "evidence.db")}


def test_page_of_the_database_that_cannot_be_read_is_named_and_the_rest_examined(ward: Ward) -> None:
    world = ward.copy("bad page")
    with world.sql() as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'evidence_by_id'").fetchone()
    with (world.home / "evidence.db").open("r+b") as file:
        file.seek((root - 1) * page)
        file.write(os.urandom(page))
    damage = examined(world.home)
    assert Unit.DATABASE in {each.unit for each in damage.damages}
    assert damage.examined["items"] == 702


# --- beside a service ---------------------------------------------------------------------------------------------


def test_no_false_alarm_while_a_service_writes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    clock = ManualClock()

    async def scenario() -> list[DamageMap]:
        settings = settings_for(home, anchor_interval_s=0.01)
        async with serving(settings, clock) as service:
            await preserve(service, *[file_submission(f"first-{n}") for n in range(300)])
            done = False

            async def write() -> None:
                number = 0
                while not done:
                    number += 1
                    data = ORIGINALS["small"] + str(number).encode()
                    await upload(service, data)
                    bodies = [file_submission(f"w-{number}-{n}") for n in range(7)]
                    await preserve(service, original_submission(f"o-{number}", data), *bodies)
                    clock.advance(0.5)
                    service.anchoring._wake()

            writing = asyncio.create_task(write())
            maps = [await asyncio.to_thread(examined, home) for _ in range(3)]
            done = True
            await writing
            return maps

    maps = asyncio.run(scenario())
    assert [found(damage) for damage in maps] == [set()] * 3
    assert [damage.out_of_reach for damage in maps] == [()] * 3
    assert maps[0].size < maps[-1].size


# --- the verb -----------------------------------------------------------------------------------------------------


def test_verb_ends_with_1_and_a_damage_map(ward: Ward, capsys: pytest.CaptureFixture[str]) -> None:
    ward.injured("rows")
    assert run(["examine"], environ={"EVIDENCE_HOME": str(ward.folder / "rows")}) == 1
    text = capsys.readouterr().out
    assert text.startswith("发现 ")
    assert "存证体 E" in text
    assert "leaf 300" in text
    assert "不可再出证: 300" in text


def test_map_is_readable_in_both_languages(ward: Ward) -> None:
    damage, _ = ward.injured("beside")
    console = Console(environ={}, request_id="test")
    assert "密文内容" in map_text(damage, console)
    console.lang = "en"
    assert "damaged units" in map_text(damage, console)
    assert map_text(replace(damage, damages=()), console).startswith("whole: no damage found\n")


# --- ranges -------------------------------------------------------------------------------------------------------


def test_ranges_of_leaves_merge_where_they_touch() -> None:
    leaves = Leaves()
    for start, stop in ((5, 6), (1, 2), (6, 8), (2, 3), (20, 20), (7, 9)):
        leaves.add(start, stop)
    assert leaves.ranges() == ((1, 3), (5, 9))
    assert leaves.rest(12) == ((0, 1), (3, 5), (9, 12))
    assert leaves.rest(7) == ((0, 1), (3, 5))


def test_damage_as_json_has_every_member() -> None:
    damage = Damage(Unit.TILE, "sm3 tile 0/0", How.ALTERED, "a detail", "00000000", "11111111", (0, 256))
    assert damage.to_json() == {
        "unit": "tile",
        "where": "sm3 tile 0/0",
        "how": "altered",
        "detail": "a detail",
        "expected": "00000000",
        "found": "11111111",
        "leaves": [0, 256],
    }
