"""Which checkpoint goes onto the chain, when, and what is said meanwhile (6.4.4): three modes, cut ranges, outages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fault_check import check_running
from fault_process import PAPERS
from homes import business, file_submission, preserve, preserved, serving, settings_of

from chain_gateway.port import ChainGateway, ChainUnavailable, open_gateway
from chain_gateway.relay import Fault, GatewayRelay
from clock import ManualClock
from evidence import anchoring, anchors
from evidence.anchoring import PROMISE_SHARE, due
from evidence.bootstrap import Service
from evidence.chain import Chain
from evidence.errors import NotFinal, Overloaded, TooLarge, Unready
from evidence.payloads import RANGE_MARGIN_BYTES
from evidence.settings import AnchorMode
from models.anchor import Payload, item_record
from models.canonical import canonical
from models.example import example
from models.template import builtin

START = ManualClock().now


def the_chain(service: Service) -> Chain:
    (chain,) = service.anchoring.chains.values()
    return chain


def ledger_of(service: Service) -> Any:
    """The embedded ledger itself, whose nodes a test may kill."""
    gateway: Any = the_chain(service).gateway
    return gateway.ledger


def listed(service: Service) -> list[anchors.AnchorRow]:
    with service.store.reading() as connection:
        return anchors.page(connection, the_chain(service).id, start=0, limit=1000)


async def promised(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    return {"client_key": body["client_key"], **(await preserved(service, body)).to_json()}


async def eventually(holds: Callable[[], bool]) -> None:
    """Return once it holds; other tasks run meanwhile."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for is another task's act, of which nothing tells
            await asyncio.sleep(0.005)


# --- due ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "pending", "age_s", "expected"),
    [
        (AnchorMode.REALTIME, 0, None, False),
        (AnchorMode.REALTIME, 1, 0.0, True),
        (AnchorMode.ASYNC, 0, None, False),
        (AnchorMode.ASYNC, 1, 0.0, True),
        (AnchorMode.BATCH, 0, None, False),
        (AnchorMode.BATCH, 1, 0.0, False),
        (AnchorMode.BATCH, 1, 0.999, False),
        (AnchorMode.BATCH, 1, 1.0, True),
        (AnchorMode.BATCH, 9, 0.5, False),
        (AnchorMode.BATCH, 10, 0.0, True),
        (AnchorMode.BATCH, 11, 0.0, True),
        (AnchorMode.BATCH, 1, -3600.0, False),
    ],
)
def test_anchor_is_due_as_its_mode_says(mode: AnchorMode, pending: int, age_s: float | None, expected: bool) -> None:  # noqa: FBT001
    oldest = None if age_s is None else START - timedelta(seconds=age_s)
    assert due(START, mode=mode, pending=pending, oldest=oldest, interval_s=1.0, max_items=10) is expected


@pytest.mark.parametrize("mode", [AnchorMode.REALTIME, AnchorMode.ASYNC])
async def test_item_goes_onto_the_chain_at_once_while_the_clock_stands_still(tmp_path: Path, mode: AnchorMode) -> None:
    async with serving(settings_of(tmp_path / "home", anchor_mode=mode, anchor_interval_s=3600)) as service:
        answer = await preserved(service, file_submission())
        assert await service.anchoring.wait_final(answer.leaf_index, 30) == "final"


async def test_batch_waits_for_its_interval_or_its_number_of_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchoring, "_HEAD_POLL_S", 3600.0)  # so that only the number of items can wake the chain
    settings = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=60, anchor_max_items=4)
    clock = ManualClock()
    async with serving(settings, clock) as service:
        await preserved(service, file_submission())
        assert await service.anchoring.wait_final(0, 0.2) == "promised"
        clock.advance(60)
        the_chain(service).wake.set()
        assert await service.anchoring.wait_final(0, 30) == "final"
        await preserve(service, *(file_submission() for _ in range(3)))
        assert await service.anchoring.wait_final(3, 0.2) == "promised"
        await preserved(service, file_submission())
        assert await service.anchoring.wait_final(4, 30) == "final"
        assert [(row.start, row.end) for row in listed(service)] == [(0, 1), (1, 5)]


# --- ranges ---------------------------------------------------------------------------------------------------


def papers(number: int) -> dict[str, Any]:
    """A submission of a template whose items have records of their own on the chain."""
    return example(builtin(PAPERS), seed=b"papers %d" % number, client_key=f"papers-{number}")


def limited(service: Service, limit: int) -> GatewayRelay:
    """The service's chain, taking payloads of at most `limit` bytes."""
    chain = the_chain(service)
    relay = GatewayRelay(chain.gateway)
    relay.max_payload_bytes = limit
    chain.gateway = relay
    return relay


async def test_range_is_cut_at_the_payload_limit_and_no_item_is(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=60), ManualClock()
    bodies = [body for number in range(6) for body in (papers(number), file_submission())]
    async with serving(settings, clock) as service:
        held = [await promised(service, body) for body in bodies]
        payloads, state, chain = service.anchoring._payloads, service.log.state, the_chain(service).id
        whole, bare = (
            len(payloads.build(state, chain=chain, start=start, limit=60_000, seen=()).data) for start in (0, len(bodies) - 1)
        )
        limit = bare + (whole - bare) // 3 + RANGE_MARGIN_BYTES
        relay = limited(service, limit)
        clock.advance(60)
        the_chain(service).wake.set()
        assert await service.anchoring.wait_final(len(bodies) - 1, 30) == "final"
        relay.max_payload_bytes = 60_000
        await check_running(service, bodies, held)
        rows = listed(service)
        assert len(rows) > 2
        records = 0
        for row in rows:
            assert len(row.payload) <= limit
            payload = Payload.parse(row.payload)
            assert (payload.start, payload.end) == (row.start, row.end)
            hashed = sum(body["template"] == PAPERS for body in bodies[row.start : row.end])
            assert len(payload.records) == 1 + hashed
            records += hashed
        assert records == 6


async def test_item_whose_record_no_transaction_takes_is_refused_before_it_is_sealed(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home", anchor_mode=AnchorMode.ASYNC)) as service:
        limited(service, 4600)
        refused, accepted = await preserve(service, papers(0), file_submission())
        stages = [(name, "ab" * 32, None) for name in papers(0)["stages"]]
        of, now = builtin(PAPERS), datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC)
        record = item_record(biz_name=of.biz_name, stages=stages, created_at=now, package_hash=b"x" * 32, upload_time=now)
        assert isinstance(refused, TooLarge)
        assert refused.message.endswith(f"expected at most {4600 - 4096} bytes, got {len(canonical(record))}")
        assert not isinstance(accepted, Exception)
        assert service.log.state.size == 1


# --- a chain out of reach -------------------------------------------------------------------------------------


async def test_outage_leaves_promises_open_then_pauses_intake_and_the_backlog_drains_in_order(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home", anchor_mode=AnchorMode.ASYNC, promise_s=1000)
    clock = ManualClock()
    bodies = [papers(number) for number in range(3)] + [file_submission() for _ in range(5)]
    async with serving(settings, clock) as service:
        limited(service, 6000)
        held = [await promised(service, bodies[0])]
        assert await service.anchoring.wait_final(0, 30) == "final"
        gateway: Any = the_chain(service).gateway
        ledger = gateway._inner.ledger
        for number in (1, 2):
            await asyncio.to_thread(ledger.kill, number)
        for body in bodies[1:-1]:
            held.append(await promised(service, body))
            clock.advance(10)
        for promise in held[1:]:
            assert service.anchoring.state_of(promise["leaf_index"]) != "final"
            with pytest.raises(NotFinal):
                await service.issuance.bundle(promise["evidence_id"], business(service))
        assert listed(service)[-1].receipt is None
        service.check_ready()
        clock.advance(PROMISE_SHARE * 1000 - 61)
        service.check_ready()
        clock.advance(1)
        with pytest.raises(Overloaded) as paused:
            await preserve(service, bodies[-1])
        assert paused.value.retry_after_s > 0
        assert service.log.state.size == len(held)
        for number in (1, 2):
            await asyncio.to_thread(ledger.start, number)
        the_chain(service).wake.set()
        assert await service.anchoring.wait_final(len(held) - 1, 30) == "final"
        service.check_ready()
        await check_running(service, bodies, held)
        finals = [row.final_ms for row in listed(service)]
        assert finals == sorted(finals, key=lambda at: at or 0)
        assert [row.number for row in listed(service)] == sorted(row.number for row in listed(service))


@pytest.mark.parametrize("fault", Fault)
async def test_submission_that_was_lost_or_doubled_gives_one_anchor(tmp_path: Path, fault: Fault) -> None:
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=60), ManualClock()
    bodies = [file_submission() for _ in range(2)]
    async with serving(settings, clock) as service:
        held = [await promised(service, body) for body in bodies]
        limited(service, 60_000).arm(fault)
        clock.advance(60)
        the_chain(service).wake.set()
        await check_running(service, bodies, held)
        assert len(listed(service)) == 1


async def test_rejected_anchor_is_made_anew_once_the_chain_takes_it(tmp_path: Path) -> None:
    """The chain says no to a gateway of another node's key; the reason is kept, the next payload goes under the same key."""
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=60), ManualClock()
    (url,) = settings.chains
    bodies = [file_submission() for _ in range(3)]
    async with serving(settings, clock) as service:
        chain = the_chain(service)
        held = [await promised(service, body) for body in bodies[:2]]
        right = chain.gateway
        wrong: ChainGateway = await open_gateway(
            url, node=1, home=settings.home, clock=clock, node_signer=service.home.signers.nodes[url]
        )
        chain.gateway = wrong
        clock.advance(60)
        chain.wake.set()
        await eventually(lambda: chain.failures > 0)
        assert "key" in chain.last_error
        assert service.anchoring.state_of(0) == "promised"
        held.append(await promised(service, bodies[2]))
        chain.gateway = right
        chain.wake.set()
        await check_running(service, bodies, held)
        await wrong.aclose()


async def test_closed_chain_never_gives_a_receipt(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home", anchor_mode=AnchorMode.ASYNC)) as service:
        ledger = ledger_of(service)
        for number in range(4):
            await asyncio.to_thread(ledger.kill, number)
        answer = await preserved(service, file_submission())
        await eventually(lambda: the_chain(service).failures > 0)
        assert await service.anchoring.wait_final(answer.leaf_index, 0.1) != "final"
        assert all(row.receipt is None for row in listed(service))
        with pytest.raises(ChainUnavailable):
            await the_chain(service).gateway.head()


# --- the clock ------------------------------------------------------------------------------------------------


async def test_clock_that_jumped_ahead_and_came_back_anchors_nothing_older_than_its_head(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.BATCH, anchor_interval_s=60), ManualClock()
    bodies = [file_submission() for _ in range(3)]
    async with serving(settings, clock) as service:
        held = [await promised(service, bodies[0])]
        clock.advance(60)
        the_chain(service).wake.set()
        assert await service.anchoring.wait_final(0, 30) == "final"
        clock.advance(3600)
        held.append(await promised(service, bodies[1]))
        clock.advance(-3540)
        the_chain(service).wake.set()
        with pytest.raises(Unready, match="clock went back"):
            await preserve(service, bodies[2])
        assert await service.anchoring.wait_final(1, 0.2) == "promised"
        clock.advance(3600)
        held.append(await promised(service, bodies[2]))
        clock.advance(60)
        the_chain(service).wake.set()
        await check_running(service, bodies, held)
        for promise in held:
            await service.issuance.bundle(promise["evidence_id"], business(service))


@pytest.mark.parametrize(("ahead_s", "is_refused"), [(299, False), (301, True), (3600, True)])
async def test_chain_more_than_five_minutes_ahead_pauses_the_sealing(tmp_path: Path, ahead_s: int, is_refused: bool) -> None:  # noqa: FBT001
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.ASYNC), ManualClock()
    async with serving(settings, clock) as service:
        head = await the_chain(service).gateway.head()
        assert head.time is not None
        the_chain(service).head = type(head)(head.chain, head.height, head.hash, clock.now + timedelta(seconds=ahead_s))
        if is_refused:
            with pytest.raises(Unready, match="5 minutes behind the chain"):
                await preserve(service, file_submission())
            clock.advance(ahead_s)
        await preserved(service, file_submission())


async def test_frozen_clock_gives_equal_times_and_one_history(tmp_path: Path) -> None:
    bodies = [file_submission() for _ in range(5)]
    async with serving(settings_of(tmp_path / "home", anchor_mode=AnchorMode.ASYNC), ManualClock()) as service:
        held = [await promised(service, body) for body in bodies]
        await check_running(service, bodies, held)


async def test_every_jump_of_the_clock_leaves_times_that_never_fall(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path / "home", anchor_mode=AnchorMode.ASYNC), ManualClock()
    bodies = [file_submission() for _ in range(6)]
    held = []
    async with serving(settings, clock) as service:
        for body, jump in zip(bodies, (0, 3600, -1, -1, 0.5, 7200), strict=True):
            clock.advance(jump)
            held.append(await promised(service, body))
        clock.advance(10)
        the_chain(service).wake.set()
        await check_running(service, bodies, held)
