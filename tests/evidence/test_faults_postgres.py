"""A COMMIT of unknown outcome, and a PostgreSQL that dies under load: no false answer, nothing doubled, no hand."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from fault_check import check_running
from fault_process import calls_of, upload
from homes import file_submission, preserve, preserved, serving, settings_of

from clock import ManualClock
from evidence.bootstrap import Service
from evidence.errors import HomeRefused, OutcomeOpen, Unready
from evidence.preservation import Preserved
from evidence.settings import AnchorMode
from evidence.steps import Step, no_step
from evidence.store import Store
from models.digest import sm3
from models.errors import EvidenceError
from postgres import Database
from postgres_relay import Loss, Relay


def held_of(body: dict[str, Any], answer: Preserved) -> dict[str, Any]:
    return {"client_key": body["client_key"], **answer.to_json()}


class LossAt:
    """A step function that has the very next COMMIT lost when the service comes to a step."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._armed: tuple[Step, Loss] | None = None

    def arm(self, step: Step, loss: Loss) -> None:
        self._armed = (step, loss)

    def __call__(self, reached: Step) -> None:
        if self._armed is not None and reached is self._armed[0]:
            self._relay.lose(self._armed[1])
            self._armed = None


@pytest.mark.parametrize("loss", Loss)
async def test_lost_commit_is_answered_by_what_really_happened(
    tmp_path: Path, postgres: Database, postgres_relay: Relay, loss: Loss
) -> None:
    settings = settings_of(
        tmp_path / "home", postgres.url_at(postgres_relay.port), anchor_mode=AnchorMode.BATCH, anchor_interval_s=3600
    )
    clock, bodies, lost = ManualClock(), [file_submission() for _ in range(6)], LossAt(postgres_relay)
    async with serving(settings, clock, step=lost) as service:
        held = [held_of(bodies[0], await preserved(service, bodies[0]))]
        lost.arm(Step.COMMIT_BEFORE, loss)
        try:
            answers = await preserve(service, *bodies[1:4])
        except Unready:
            assert loss is Loss.REQUEST, "what the database holds is not reported as a failure"
            assert service.log.state.size == 1
        else:
            assert loss is Loss.RESPONSE
            held += [
                held_of(body, answer) for body, answer in zip(bodies[1:4], answers, strict=True) if isinstance(answer, Preserved)
            ]
            assert len(held) == 4
        assert postgres_relay.lost == 1
        again = await preserve(service, *bodies[1:4])
        assert [isinstance(answer, Preserved) and answer.created for answer in again] == [loss is Loss.REQUEST] * 3
        held += [held_of(body, await preserved(service, body)) for body in bodies[4:]]
        clock.advance(3600)
        next(iter(service.anchoring.chains.values())).wake.set()
        await check_running(service, bodies, held)


async def test_commit_of_unknown_outcome_is_reported_as_unknown(tmp_path: Path, postgres: Database) -> None:
    """The server dies with the COMMIT and is not back: nobody can tell, so nobody is told that it failed."""

    def die(reached: Step) -> None:
        if reached is Step.COMMIT_BEFORE:
            postgres.kill()

    settings, bodies = settings_of(tmp_path / "home", postgres.url, anchor_mode=AnchorMode.ASYNC), [file_submission()]
    async with serving(settings, step=die) as service:
        with pytest.raises(OutcomeOpen, match="did not say whether"):
            await preserve(service, *bodies)
        postgres.start()
        service.log._step = no_step
        held = [held_of(bodies[0], await until_preserved(service, bodies[0]))]
        for chain in service.anchoring.chains.values():
            chain.wake.set()
        await check_running(service, bodies, held)


ANCHOR_COMMITS = (Step.COMMIT_BEFORE, Step.INTENT_BEFORE, Step.SUBMIT_AFTER, Step.FINAL_BEFORE)


async def test_lost_commit_of_each_step_of_an_anchor_gives_one_anchor(
    tmp_path: Path, postgres: Database, postgres_relay: Relay
) -> None:
    """The item's commit, the intent's, the transaction's and the receipt's, each lost both ways, one after the other."""
    settings = settings_of(tmp_path / "home", postgres.url_at(postgres_relay.port), anchor_mode=AnchorMode.ASYNC)
    bodies: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    lost = LossAt(postgres_relay)
    async with serving(settings, step=lost) as service:
        for loss, step in itertools.product(Loss, ANCHOR_COMMITS):
            bodies.append(file_submission())
            lost.arm(step, loss)
            held.append(held_of(bodies[-1], await until_preserved(service, bodies[-1])))
            chain = next(iter(service.anchoring.chains.values()))
            async with asyncio.timeout(30):
                while await service.anchoring.wait_final(service.log.state.size - 1, 0.05) != "final":
                    chain.wake.set()
        assert postgres_relay.lost == 8
        await check_running(service, bodies, held)


async def until_preserved(service: Service, body: dict[str, Any]) -> Preserved:
    """As a client does it: the same body again while the answer is 503."""
    async with asyncio.timeout(60):
        while True:
            try:
                (answer,) = await preserve(service, body)
            except HomeRefused:
                raise
            except EvidenceError:
                await asyncio.sleep(0.05)
                continue
            if isinstance(answer, Preserved):
                return answer
            assert isinstance(answer, Unready), answer


@pytest.mark.long
async def test_server_killed_under_load_loses_nothing_acknowledged(tmp_path: Path, postgres: Database) -> None:
    settings = settings_of(tmp_path / "home", postgres.url, anchor_mode=AnchorMode.ASYNC, unit_limit_bytes=1024)
    rounds = 6
    async with serving(settings) as service:
        for number in range(rounds):
            await upload(service, number)
        bodies = [
            body
            for number in range(rounds)
            for call in calls_of(number)
            for body in call
            if not body["client_key"].startswith("refused")
        ]
        held: list[dict[str, Any]] = []

        async def client(mine: list[dict[str, Any]]) -> None:
            for body in mine:
                answer = await until_preserved(service, body)
                held.append(held_of(body, answer))
                if len(held) in kills:
                    kills[len(held)].set()

        kills = {8: asyncio.Event(), 20: asyncio.Event()}
        load = [asyncio.create_task(client(bodies[place::6])) for place in range(6)]
        for acknowledged in kills.values():
            await acknowledged.wait()
            postgres.kill()
            postgres.start()  # not in a thread: with the thread that started it the server would end
        await asyncio.gather(*load)
        for chain in service.anchoring.chains.values():
            chain.wake.set()
        await check_running(service, bodies, held)


async def test_lock_that_died_with_the_server_is_taken_again(tmp_path: Path, postgres: Database) -> None:
    settings = settings_of(tmp_path / "home", postgres.url)
    async with serving(settings) as service:
        await preserved(service, file_submission())
        postgres.kill()
        postgres.start()
        await until_preserved(service, file_submission())
        with pytest.raises(HomeRefused, match="sequencer"):
            async with serving(settings_of(tmp_path / "other", postgres.url)):
                pass


async def test_lock_that_another_took_meanwhile_stops_the_writer(tmp_path: Path, postgres: Database) -> None:
    settings = settings_of(tmp_path / "home", postgres.url)
    async with serving(settings) as service:
        await preserved(service, file_submission())
        postgres.kill()
        postgres.start()
        other = Store(settings.database_url)
        other.hold_sequencer_lock(int.from_bytes(sm3(service.origin.encode())[:7]))
        try:
            with pytest.raises(HomeRefused, match="another process"):
                await until_preserved(service, file_submission())
        finally:
            other.close()
        await until_preserved(service, file_submission())


async def test_lock_lost_during_a_commit_leaves_its_outcome_open(tmp_path: Path, postgres: Database) -> None:
    settings, body = settings_of(tmp_path / "home", postgres.url), file_submission()
    other, number = Store(settings.database_url), 0

    def rob(reached: Step) -> None:
        """Our connections end, and another process takes the lock before we can."""
        if reached is not Step.COMMIT_BEFORE:
            return
        with other.writing() as connection:
            ours = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {ours}")
        other.hold_sequencer_lock(number)

    async with serving(settings) as service:
        number = int.from_bytes(sm3(service.origin.encode())[:7])
        service.log._step = rob
        try:
            with pytest.raises(OutcomeOpen, match="did not say whether"):
                await preserve(service, body)
        finally:
            other.close()
        service.log._step = no_step
        assert (await until_preserved(service, body)).leaf_index == 0
        assert service.log.state.size == 1
