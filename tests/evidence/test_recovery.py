"""Homes that were restored, copied or lost, and logs that somebody else writes: nothing is signed that would fork."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_check import check_running
from fault_process import file_item, upload
from homes import file_submission, preserve, preserved, serving, settings_of

from chain_gateway.port import ChainGateway, open_gateway
from clock import ManualClock
from evidence.bootstrap import Service, open_service
from evidence.chain import Chain
from evidence.errors import HomeRefused, SettingWrong
from evidence.settings import AnchorMode, Settings
from models.anchor import Anchor, anchor_key
from models.errors import EvidenceError


def anchored_at_once(home: Path, **more: Any) -> Settings:
    return settings_of(home, anchor_mode=AnchorMode.ASYNC, **more)


def the_chain(service: Service) -> Chain:
    (chain,) = service.anchoring.chains.values()
    return chain


async def made_final(service: Service, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    """Promises of these bodies, one commit each, once all are final."""
    held = [{"client_key": body["client_key"], **(await preserved(service, body)).to_json()} for body in bodies]
    assert await service.anchoring.wait_final(service.log.state.size - 1, 30) == "final"
    return held


async def eventually(holds: Callable[[], bool]) -> None:
    """Return once it holds; other tasks run meanwhile."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for is another task's act, of which nothing tells
            await asyncio.sleep(0.005)


def copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target, dirs_exist_ok=True))


async def test_database_set_back_signs_nothing_and_lists_what_it_lacks(tmp_path: Path) -> None:
    settings, clock = anchored_at_once(tmp_path / "home"), ManualClock()
    bodies = [file_submission() for _ in range(7)]
    async with serving(settings, clock) as service:
        held = await made_final(service, *bodies[:2])
    database = settings.home / "evidence.db"
    shutil.copy(database, tmp_path / "earlier.db")
    async with serving(settings, clock, make=False) as service:
        for body in bodies[2:]:
            held += await made_final(service, body)
    shutil.move(database, tmp_path / "newest.db")
    shutil.copy(tmp_path / "earlier.db", database)
    service = await open_service(settings, clock=clock)
    with pytest.raises(HomeRefused, match=r"head of size 7, this home only 2 entries: it lacks leaves 2…6"):
        await service.start()
    with pytest.raises(EvidenceError):
        await preserve(service, file_submission())
    assert service.log.state.size == 2
    await service.stop()
    shutil.copy(tmp_path / "newest.db", database)
    async with serving(settings, clock, make=False) as service:
        await check_running(service, bodies, held)


async def test_database_behind_what_no_chain_holds_yet_is_refused_by_the_head_kept_outside_it(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=3600), ManualClock()
    bodies = [file_submission() for _ in range(4)]
    async with serving(settings, clock) as service:
        held = [{"client_key": bodies[0]["client_key"], **(await preserved(service, bodies[0])).to_json()}]
    database = settings.home / "evidence.db"
    shutil.copy(database, tmp_path / "earlier.db")
    async with serving(settings, clock, make=False) as service:
        held += [{"client_key": body["client_key"], **(await preserved(service, body)).to_json()} for body in bodies[1:]]
    shutil.move(database, tmp_path / "newest.db")
    shutil.copy(tmp_path / "earlier.db", database)
    with pytest.raises(HomeRefused, match="behind the head kept outside it"):
        async with serving(settings, clock, make=False):
            pass
    shutil.copy(tmp_path / "newest.db", database)
    clock.advance(3600)
    async with serving(settings, clock, make=False) as service:
        await check_running(service, bodies, held)


async def test_refused_home_loses_no_secret_and_no_original(tmp_path: Path) -> None:
    """What a restored database does not know is no left-over of a crash: it is what the newest database needs."""
    settings, clock = anchored_at_once(tmp_path / "home"), ManualClock()
    async with serving(settings, clock) as service:
        await made_final(service, file_submission())
    database = settings.home / "evidence.db"
    shutil.copy(database, tmp_path / "earlier.db")
    body = file_item("with-original", b"".join(bytes([1, place]) * 8 for place in range(150)))
    digest = body["stages"]["文件"]["object"]["digest"]
    body["originals"] = [{"field": "object", "digest": digest, "name": "合同.txt", "media_type": "text/plain"}]
    async with serving(settings, clock, make=False) as service:
        await upload(service, 1)
        held = await made_final(service, body)
        assert held[0]["leaf_index"] == 1
    before = {path for path in (settings.home / "originals").rglob("*") if path.is_file()}
    shutil.move(database, tmp_path / "newest.db")
    shutil.copy(tmp_path / "earlier.db", database)
    with pytest.raises(HomeRefused):
        async with serving(settings, clock, make=False):
            pass
    assert {path for path in (settings.home / "originals").rglob("*") if path.is_file()} == before
    shutil.copy(tmp_path / "newest.db", database)
    async with serving(settings, clock, make=False) as service:
        opened = service.contents.open(1)
        assert opened.commitments()
        with service.store.reading() as connection:
            assert opened.secret is not None
            service.originals.verify_original(connection, opened.row.evidence_id, opened.secret, digest)


async def test_copied_home_is_refused_once_the_other_went_on(tmp_path: Path) -> None:
    ledger = f"embedded:{tmp_path / 'ledger'}"
    settings, clock = anchored_at_once(tmp_path / "home", chains=(ledger,)), ManualClock()
    async with serving(settings, clock) as service:
        await made_final(service, file_submission())
    copy = anchored_at_once(copied(settings.home, tmp_path / "copy"), chains=(ledger,))
    async with serving(settings, clock, make=False) as service:
        await made_final(service, file_submission(), file_submission())
    with pytest.raises(HomeRefused, match="lacks leaves 1…2"):
        async with serving(copy, clock, make=False):
            pass


async def test_copied_home_that_goes_on_is_met_by_its_own_key_and_stops(tmp_path: Path) -> None:
    """Both promised leaf 1 while the chain was out of reach of the copy; the chain lets one of them win."""
    ledger = f"embedded:{tmp_path / 'ledger'}"
    settings, clock = anchored_at_once(tmp_path / "home", chains=(ledger,)), ManualClock()
    async with serving(settings, clock) as service:
        await made_final(service, file_submission())
    copy = anchored_at_once(copied(settings.home, tmp_path / "copy"), chains=(ledger,))
    async with serving(settings, clock, make=False) as service:
        await made_final(service, file_submission())
    service = await open_service(copy, clock=clock)
    nodes = the_chain(service).gateway.ledger  # type: ignore[attr-defined]  # a real embedded ledger
    for number in range(4):
        nodes.kill(number)
    try:
        await service.start()
        await preserved(service, file_submission())
        for number in range(4):
            nodes.start(number)
        the_chain(service).wake.set()
        await eventually(lambda: the_chain(service).last_error.startswith("chain"))
        with pytest.raises(HomeRefused, match="another sm3 head of size 2"):
            await preserve(service, file_submission())
        assert service.anchoring.state_of(1) != "final"
    finally:
        await service.stop()


async def test_lost_ledger_stops_the_start_and_a_new_one_makes_nothing_final_by_itself(tmp_path: Path) -> None:
    settings, clock = anchored_at_once(tmp_path / "home"), ManualClock()
    async with serving(settings, clock) as service:
        await made_final(service, file_submission())
    shutil.rmtree(settings.home / "chain")
    (settings.home / "certs" / "node-0.cer").unlink()
    with pytest.raises(EvidenceError):
        async with serving(settings, clock, make=False):
            pass
    async with serving(settings, clock) as service:
        assert service.anchoring.state_of(0) == "promised", "the new chain holds nothing of it yet"
        await made_final(service, file_submission())
        assert service.anchoring.state_of(0) == "final", "its first checkpoint covers all before"


async def test_damaged_node_of_its_own_is_out_of_reach_and_promises_go_on(tmp_path: Path) -> None:
    settings, clock = anchored_at_once(tmp_path / "home"), ManualClock()
    async with serving(settings, clock) as service:
        await made_final(service, file_submission())
    path = settings.home / "chain" / "node-0" / "blocks.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"height":1', b'"height":7', 1))
    async with serving(settings, clock, make=False) as service:
        answer = await preserved(service, file_submission())
        assert service.anchoring.state_of(answer.leaf_index) == "promised"
    path.write_bytes(data)
    async with serving(settings, clock, make=False) as service:
        assert await service.anchoring.wait_final(answer.leaf_index, 30) == "final"


async def foreign(service: Service, settings: Settings, clock: ManualClock) -> ChainGateway:
    """Another gateway with our node key, as a thief or an earlier copy of us has it."""
    (url,) = settings.chains
    return await open_gateway(url, home=settings.home, clock=clock, node_signer=service.home.signers.nodes[url])


@pytest.mark.parametrize("is_ours", [False, True])
async def test_payload_of_somebody_else_under_our_key_stops_the_log(tmp_path: Path, is_ours: bool) -> None:  # noqa: FBT001
    """An earlier payload of our own that came late is adopted; one that no head of ours made ends the signing."""
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=60), ManualClock()
    other_settings = settings_of(tmp_path / "other", anchor_mode=AnchorMode.BATCH, anchor_interval_s=60)
    bodies = [file_submission() for _ in range(3)]
    async with serving(other_settings, clock) as other:
        await preserved(other, file_submission())
        stranger = other.anchoring._payloads.build(other.log.state, chain=the_chain(other).id, start=0, limit=60_000, seen=())
    async with serving(settings, clock) as service:
        held = [{"client_key": bodies[0]["client_key"], **(await preserved(service, bodies[0])).to_json()}]
        chain = the_chain(service)
        ours = service.anchoring._payloads.build(service.log.state, chain=chain.id, start=0, limit=60_000, seen=())
        data = ours.data if is_ours else stranger.data.replace(stranger.chain.encode(), chain.id.encode())
        gateway = await foreign(service, settings, clock)
        await gateway.submit(Anchor(chain.id, anchor_key(chain.id, service.origin, 0), data))
        await gateway.aclose()
        held.append({"client_key": bodies[1]["client_key"], **(await preserved(service, bodies[1])).to_json()})
        clock.advance(60)
        chain.wake.set()
        if is_ours:
            assert await service.anchoring.wait_final(1, 30) == "final"
            await preserved(service, bodies[2])
            clock.advance(60)
            chain.wake.set()
            await check_running(service, bodies, held)
        else:
            await eventually(lambda: "another" in chain.last_error)
            with pytest.raises(HomeRefused, match="another sm3 head of size 1"):
                await preserve(service, bodies[2])
            assert service.anchoring.state_of(0) != "final"
            assert service.log.state.size == 2


async def test_start_that_is_refused_half_way_gives_everything_back(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    async with serving(settings) as service:
        await preserved(service, file_submission())
    twice = settings_of(tmp_path / "home", chains=("embedded:", "embedded:chain"))
    with pytest.raises(SettingWrong, match="names one chain twice"):
        await open_service(twice, clock=ManualClock())
    async with serving(settings, make=False) as service:
        assert (await preserved(service, file_submission())).leaf_index == 1
