"""Laws of the examination of what was done: each injury of trail, issuances and access is named, and nothing else is."""

import re
import shutil
from pathlib import Path

import pytest
from api_service import running, settings_for
from databases import KINDS, empty_database
from examined import World
from homes import file_submission
from injuries_acts import INJURIES, injured
from sqlalchemy import delete, select, update
from stream_service import Stream

from evidence import tables
from evidence.bootstrap import utc_now
from evidence.examination.acts import ACTS
from evidence.examination.damage import DamageMap, How, Unit
from evidence.examine import examine
from evidence.store import Store


def examined(home: Path, **settings: str) -> DamageMap:
    return examine(settings_for(home, **settings), clock=utc_now)


def busy(folder: Path, **settings: str) -> None:
    """A stopped home in which something of everything was done: items, issuances, readings, questions to a stream."""
    with running(folder / "home", **settings) as service:
        with service.client() as client:
            made = [client.post("/v1/evidence?wait=final", json=file_submission(f"item-{number}")).json() for number in range(3)]
            ids = [each["evidence_id"] for each in made]
            issued = client.post("/v1/issuances", json={"ids": ids[:2], "matter": "示例事由", "disclose": ["file_name"]}).json()
            failed = client.post("/v1/issuances", json={"ids": ids[2:], "disclose": ["no such field"]}).json()
            for each, state in ((issued, "done"), (failed, "failed")):
                while (shown := client.get(f"/v1/issuances/{each['id']}").json())["state"] == "running":
                    pass
                assert shown["state"] == state
        with service.client("court") as client:
            assert client.get(f"/v1/evidence/{ids[0]}").status_code == 200
        stream = Stream(service, folder, "app")
        stream.write("one ERROR", "two")
        stream.collect()
        with stream.client() as client:
            client.stream_answer("app", {"keywords": ["ERROR"]})
            client.recount_stream("app", {})


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("acts")
    busy(folder)
    return World(folder / "home")


def test_healthy_home_raises_no_alarm(healthy: World) -> None:
    damage = examined(healthy.home)
    assert [(each.unit, each.where, each.detail) for each in damage.damages] == []
    counted = {name: damage.examined[name] for name in ("issuances", "audit rows", "account rows", "token rows")}
    assert counted["issuances"] == 2
    assert counted["audit rows"] == healthy.one("SELECT count(*) FROM audit")
    assert min(counted.values()) > 0
    assert damage.examined["certificate rows"] > 0
    assert damage.examined["submitter_key rows"] == 1


@pytest.mark.parametrize("name", sorted(INJURIES))
def test_injury_is_named_and_nothing_else(healthy: World, tmp_path: Path, name: str) -> None:
    found = injured(name, healthy, tmp_path / "home")
    damage = examined(found.home)
    assert found.expected
    assert {(each.unit, each.how, each.where) for each in damage.damages} == found.expected


def test_home_set_back_in_every_table_but_the_trail_is_found_out_by_the_trail(healthy: World, tmp_path: Path) -> None:
    world = healthy.copy(tmp_path / "home")
    last = world.one("SELECT max(number) FROM audit WHERE act = 'preserve'")
    world.run("UPDATE audit SET object = ? WHERE number = ?", "ev_" + "cd" * 32, last)
    (damage,) = examined(world.home).damages
    assert (damage.unit, damage.how, damage.where) == (Unit.AUDIT, How.ADDED, f"audit {last}")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_database(request, tmp_path / "main.db")


def test_what_was_done_is_examined_on_both_databases(url: str, tmp_path: Path) -> None:
    busy(tmp_path, database_url=url)
    assert examined(tmp_path / "home", database_url=url).is_clean
    store = Store(url)
    with store.writing() as connection:
        name = connection.execute(select(tables.issuance.c.name).where(tables.issuance.c.number == 1)).scalar_one()
        connection.execute(update(tables.issuance).where(tables.issuance.c.number == 1).values(account="court", result=b"[]"))
        connection.execute(update(tables.audit).where(tables.audit.c.number == 2).values(at_ms=7))
        connection.execute(delete(tables.audit).where(tables.audit.c.number == 1))
    found = {(each.unit, each.how, each.where) for each in examined(tmp_path / "home", database_url=url).damages}
    hole = {(Unit.AUDIT, How.MISSING, "audit 1")} if store.is_sqlite else set()
    store.close()
    assert found == hole | {
        (Unit.AUDIT, How.MISSING, "leaf 0"),
        (Unit.AUDIT, How.ALTERED, "audit 2 at_ms"),
        *((Unit.ISSUANCE, How.ALTERED, f"issuance {name[:11]}… {column}") for column in ("account", "result", "done")),
    }


def test_map_names_no_account(healthy: World, tmp_path: Path) -> None:
    for name in (
        "token_of_nobody",
        "preserving_ascribed_to_another",
        "matter_of_an_issuance",
        "unrecorded_issuance_of_a_stranger",
    ):
        found = injured(name, healthy, tmp_path / name)
        text = str(examined(found.home).to_json())
        assert not any(word in text for word in ("nobody", "business", "事由", "'court'"))
        shutil.rmtree(found.home)


def test_every_act_that_the_service_records_is_known() -> None:
    sources = [path.read_text("utf-8") for path in (Path(__file__).parents[2] / "evidence").rglob("*.py")]
    recorded = {act for text in sources for act in re.findall(r'record\((?:service, )?caller, "([a-z-]+)"', text)}
    assert recorded == set(ACTS)
