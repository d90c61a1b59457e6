"""Requests that arrive together are prepared together, and none of them notices it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from homes import business, file_submission, preserved, serving, settings_of

from evidence import preparation
from evidence.assembly import AT_ONCE
from evidence.bootstrap import Service
from evidence.content import seal_content
from evidence.errors import Overloaded
from evidence.log import Log
from evidence.preparation import Asked, Preparation, Prepared
from evidence.preservation import Preserved
from evidence.steps import Step
from evidence.submission import Submission, content_of
from models.commitment import Contents, StageCommitment, commit_each
from models.errors import EvidenceError, Invalid

REQUEST = "0" * 32


def asked(service: Service, *bodies: Any) -> asyncio.Task[list[Preserved | EvidenceError]]:
    """A request of its own."""
    return asyncio.ensure_future(service.preservation.preserve(list(bodies), business(service), request_id=REQUEST))


def sealed(answers: Sequence[Preserved | EvidenceError]) -> list[Preserved]:
    assert all(isinstance(answer, Preserved) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Preserved)]


async def test_what_comes_together_shares_a_commit_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        bodies = [file_submission() for _ in range(2 * AT_ONCE + 3)]
        wrong = {**file_submission(), "template": "none@1"}
        requests = [asked(service, *bodies[:5]), *(asked(service, body) for body in bodies[5:]), asked(service, wrong, bodies[0])]
        *good, [refused, again] = await asyncio.gather(*requests)
        made = sealed([answer for answers in good for answer in answers])
        keys = [answer.evidence_id for answer in made]
        assert isinstance(refused, Invalid)
        assert isinstance(again, Preserved)
        assert (again.evidence_id, again.leaf_index, again.created) == (keys[0], made[0].leaf_index, False)
        assert sorted(answer.leaf_index for answer in made) == list(range(len(bodies)))
        assert len({answer.checkpoint for answer in made}) == 1
        for body, key in zip(bodies, keys, strict=True):
            assert (await preserved(service, body)).evidence_id == key


async def test_a_fault_of_ours_in_a_step_for_all_is_not_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        bodies = [file_submission() for _ in range(AT_ONCE)]

        def broken(items: Sequence[Contents]) -> list[tuple[StageCommitment, ...]]:
            if any(item.client_key == bodies[5]["client_key"] for item in items):
                raise ZeroDivisionError
            return commit_each(items)

        monkeypatch.setattr(preparation, "commit_each", broken)
        answers = await asyncio.gather(*(asked(service, body) for body in bodies), return_exceptions=True)
        assert [place for place, answer in enumerate(answers) if isinstance(answer, ZeroDivisionError)] == [5]
        assert len(sealed([answer for each in answers if isinstance(each, list) for answer in each])) == AT_ONCE - 1
        size = service.log.state.size
        with pytest.raises(ZeroDivisionError):
            await asked(service, *(file_submission() for _ in range(2 * AT_ONCE)), bodies[5])
        later = await preserved(service, file_submission())
        assert later.leaf_index == size, "a request that ends in a fault of ours has left something"


async def test_a_fault_of_ours_with_one_item_is_not_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        bodies = [file_submission() for _ in range(AT_ONCE)]
        fatal = bodies[3]["client_key"]
        marked: list[bytes] = []

        def content(submission: Submission) -> bytes:
            made = content_of(submission)
            if submission.client_key == fatal:
                marked.append(made)
            return made

        def broken(secret: bytes, identity: str, plaintext: bytes, **more: Any) -> bytes:
            if plaintext in marked:
                raise ZeroDivisionError
            return seal_content(secret, identity, plaintext, **more)

        monkeypatch.setattr(preparation, "content_of", content)
        monkeypatch.setattr(preparation, "seal_content", broken)
        answers = await asyncio.gather(*(asked(service, body) for body in bodies), return_exceptions=True)
        assert [place for place, answer in enumerate(answers) if isinstance(answer, ZeroDivisionError)] == [3]
        assert len(sealed([answer for each in answers if isinstance(each, list) for answer in each])) == AT_ONCE - 1


async def test_a_long_request_does_not_hold_up_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all items of the long one still lie in one commit."""
    turns: list[list[str]] = []
    prepare_each = Preparation.prepare_each

    def watched(self: Preparation, given: Sequence[Asked]) -> list[Prepared | Exception]:
        turns.append([each.body["client_key"] for each in given])
        return prepare_each(self, given)

    async with serving(settings_of(tmp_path / "home")) as service:
        monkeypatch.setattr(Preparation, "prepare_each", watched)
        long, short = [file_submission() for _ in range(20 * AT_ONCE)], file_submission()
        first, second = await asyncio.gather(asked(service, *long), asked(service, short))
        place = next(at for at, turn in enumerate(turns) if short["client_key"] in turn)
        assert place <= 1
        assert max(map(len, turns)) == AT_ONCE
        assert [key for turn in turns for key in turn if key != short["client_key"]] == [body["client_key"] for body in long]
        assert len({answer.checkpoint for answer in sealed(first)}) == 1
        assert len(sealed(second)) == 1


async def test_who_leaves_before_the_commit_leaves_nothing_and_takes_nobody_along(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        gone, stays = file_submission(), file_submission()
        left, kept = asked(service, gone), asked(service, stays)
        await asyncio.sleep(0)
        left.cancel()
        assert len(sealed(await kept)) == 1
        with pytest.raises(asyncio.CancelledError):
            await left
        assert service.log.state.size == 1
        assert (await preserved(service, gone)).created


async def test_who_leaves_during_the_commit_takes_nothing_back(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def step(step: Step) -> None:
        if step is Step.COMMIT_BEFORE:
            begun.set()
            go_on.wait(30)

    async with serving(settings_of(tmp_path / "home"), step=step) as service:
        gone = file_submission()
        left = asked(service, gone)
        await asyncio.to_thread(begun.wait, 30)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        go_on.set()
        assert not (await preserved(service, gone)).created


async def test_a_log_that_takes_no_more_refuses_what_was_prepared_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        monkeypatch.setattr("evidence.log.MAX_WAITING", 3)
        wrong = {**file_submission(), "template": "none@1"}
        many, refused = asked(service, *(file_submission() for _ in range(4))), asked(service, wrong)
        with pytest.raises(Overloaded):
            await many
        assert [type(answer) for answer in await refused] == [Invalid]
        assert (await preserved(service, file_submission())).created


async def test_a_source_of_randomness_that_fails_fails_one_request_and_not_those_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        left = [OSError("no randomness"), OSError("no randomness")]

        def failing(size: int) -> bytes:
            if left:
                raise left.pop()
            return os.urandom(size)

        monkeypatch.setattr(service.preservation._preparation, "_randomness", failing)
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*(asked(service, file_submission()) for _ in range(3)), return_exceptions=True)
            assert [type(answer) for answer in answers] == [OSError, list, list]
            assert (await preserved(service, file_submission())).created


async def test_a_step_for_all_that_fails_answers_those_it_was_taken_for_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        for place, name in ((Preparation, "prepare_each"), (Log, "submit")):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, _no_memory)
                async with asyncio.timeout(20):
                    with pytest.raises(MemoryError):
                        await preserved(service, file_submission())
            async with asyncio.timeout(20):
                assert (await preserved(service, file_submission())).created


def _no_memory(*_: object) -> None:
    raise MemoryError


async def test_a_loop_that_ends_with_a_request_on_its_way_holds_up_no_other_loop(tmp_path: Path) -> None:
    """It ends as it stands: nobody cancels its tasks, and its futures can be answered no more."""
    async with serving(settings_of(tmp_path / "home")) as service:

        async def leaving() -> None:
            for _ in range(3):
                asked(service, *(file_submission() for _ in range(2 * AT_ONCE)))
            for _ in range(4):
                await asyncio.sleep(0)

        def run() -> None:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(leaving())
            loop.close()

        await asyncio.to_thread(run)
        async with asyncio.timeout(20):
            assert (await preserved(service, file_submission())).leaf_index == 0


async def test_no_more_is_prepared_for_who_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[int] = []
    begun = asyncio.Event()
    prepare_each = Preparation.prepare_each

    def watched(self: Preparation, given: Sequence[Asked]) -> list[Prepared | Exception]:
        prepared.append(len(given))
        begun.set()
        return prepare_each(self, given)

    async with serving(settings_of(tmp_path / "home")) as service:
        monkeypatch.setattr(Preparation, "prepare_each", watched)
        gone = asked(service, *(file_submission() for _ in range(40 * AT_ONCE)))
        await begun.wait()
        gone.cancel()
        assert (await preserved(service, file_submission())).leaf_index == 0
        assert sum(prepared) <= 3 * AT_ONCE
