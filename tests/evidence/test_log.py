"""The log's laws, on both databases: what is acknowledged stands, once, under signed heads that never fork."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from homes import business, file_submission, preserve, preserved, serving, settings_of

from clock import ManualClock
from evidence import assembly
from evidence import store as rows
from evidence.bootstrap import open_service
from evidence.errors import Conflict, Damaged, HomeRefused, Stale, Unready
from evidence.home import MARK_FILE
from evidence.log import MAX_WAITING
from evidence.preservation import Preserved
from evidence.settings import AnchorMode, Settings
from evidence.steps import Step
from evidence.verifier import verify
from models.checkpoint import Note, verify_cosignature
from models.commitment import commit
from models.digest import Algorithm, pair, sm3
from models.errors import VerificationError
from models.evidence import Evidence, Statement
from models.merkle import leaf_hash, leaf_hashes, root, verify_consistency, verify_inclusion
from models.report import Verdict


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").url
    return settings_of(tmp_path / "home", url)


async def test_acknowledged_item_is_proven_by_the_head_it_came_with(settings: Settings) -> None:
    async with serving(settings) as service:
        answer = await preserved(service, file_submission())
        note = Note.parse(answer.checkpoint)
        verify_cosignature(note.text, note.lines[0], service.log_keys()[Algorithm.SM3])
        evidence = Evidence.parse(answer.evidence)
        assert note.checkpoint().size == answer.tree_size
        verify_inclusion(
            leaf_hash(evidence.entry), answer.leaf_index, answer.tree_size, list(answer.inclusion_proof), note.checkpoint().root
        )
        with pytest.raises(VerificationError):
            verify_inclusion(
                leaf_hash(evidence.entry[::-1]),
                answer.leaf_index,
                answer.tree_size,
                list(answer.inclusion_proof),
                note.checkpoint().root,
            )


async def test_many_at_once_are_each_at_their_own_index_and_every_head_is_one_history(settings: Settings) -> None:
    async with serving(settings) as service:
        answers = await asyncio.gather(*(preserved(service, file_submission()) for _ in range(300)))
        assert sorted(answer.leaf_index for answer in answers) == list(range(300))
        state = service.log.state
        with service.store.reading() as connection:
            entries = rows.read_entries(connection, 0, state.size)
            notes = [rows.read_checkpoint(connection, at_least=size) for size in range(1, state.size + 1)]
        for algorithm, signed in ((Algorithm.SM3, state.head.sm3_root), (Algorithm.SHA256, state.head.sha256_root)):
            leaves = leaf_hashes(entries, algorithm=algorithm)
            assert root(leaves, algorithm=algorithm) == signed
            for row in {row.size: row for row in notes if row is not None}.values():
                note = Note.parse(row.note if algorithm is Algorithm.SM3 else row.twin)
                assert note.checkpoint().root == root(leaves[: row.size], algorithm=algorithm)
                path = state.tree(algorithm).consistency_path(row.size)
                verify_consistency(row.size, state.size, path, note.checkpoint().root, signed, algorithm=algorithm)


@pytest.mark.parametrize("turns", [1, 2])
async def test_requests_that_arrive_turn_by_turn_share_one_commit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr(assembly, "MAX_GATHER_S", 60.0)  # however slow this machine is
    async with serving(settings) as service:
        asked = []
        for _ in range(20):
            asked.append(asyncio.ensure_future(preserved(service, file_submission())))
            for _ in range(turns):
                await asyncio.sleep(0)
        answers = await asyncio.gather(*asked)
        assert {answer.tree_size for answer in answers} == {20}
        assert len({answer.checkpoint for answer in answers}) == 1


async def test_a_flood_that_never_pauses_does_not_put_the_commit_off(settings: Settings) -> None:
    begun = threading.Event()
    async with serving(settings, step=lambda step: begun.set() if step is Step.INSERT_BEFORE else None) as service:
        flood: list[asyncio.Future[Preserved]] = []
        while not begun.is_set():
            flood.append(asyncio.ensure_future(preserved(service, file_submission())))
            assert len(flood) < MAX_WAITING, "no commit began while requests kept arriving"
            await asyncio.sleep(0)
        answers = await asyncio.gather(*flood)
        assert sorted(answer.leaf_index for answer in answers) == list(range(len(flood)))


async def test_tiles_survive_a_restart_and_give_the_same_proofs(settings: Settings) -> None:
    clock = ManualClock()
    async with serving(settings, clock) as service:
        for _ in range(3):
            await preserve(service, *(file_submission() for _ in range(200)))
        before = [service.log.state.sm3.inclusion_path(index) for index in (0, 255, 256, 599)]
        head = service.log.state.head
    async with serving(settings, clock, make=False) as service:
        assert [service.log.state.sm3.inclusion_path(index) for index in (0, 255, 256, 599)] == before
        assert (service.log.state.size, service.log.state.head.sm3_root) == (head.size, head.sm3_root)
        assert service.log.state.head.epoch == head.epoch + 1


async def test_same_submission_again_is_the_same_evidence(settings: Settings) -> None:
    async with serving(settings) as service:
        body = file_submission()
        first, again = await preserved(service, body), await preserved(service, body)
        assert (first.created, again.created) == (True, False)
        assert again.evidence == first.evidence
        assert again.secret == first.secret
        assert service.log.state.size == 1
        other = await preserved(service, file_submission(body["client_key"]), caller=business(service, "acct-2"))
        assert other.created, "a client key belongs to its account"


async def test_one_key_sent_many_times_at_once_is_sealed_once(settings: Settings) -> None:
    async with serving(settings) as service:
        body = file_submission()
        answers = await asyncio.gather(*(preserved(service, body) for _ in range(40)))
        assert len({answer.evidence_id for answer in answers}) == 1
        assert sum(answer.created for answer in answers) == 1
        assert service.log.state.size == 1


async def test_other_content_under_a_taken_key_is_a_preserved_conflict(settings: Settings) -> None:
    async with serving(settings) as service:
        body = file_submission()
        first = await preserved(service, body)
        changed = file_submission(body["client_key"], source="另一来源")
        (conflict,) = await preserve(service, changed)
        (same,) = await preserve(service, changed)
        assert isinstance(conflict, Conflict)
        assert isinstance(same, Conflict)
        assert conflict.record_id == same.record_id
        assert conflict.record_id is not None
        leaf_index = service.query.find(conflict.record_id, business(service))
        opened = service.contents.open(leaf_index)
        assert opened.stages is not None
        assert opened.stages["冲突"]["first_evidence_id"] == first.evidence_id
        assert service.log.state.size == 2


async def test_at_most_eight_conflicts_are_recorded_per_key(settings: Settings) -> None:
    async with serving(settings) as service:
        body = file_submission()
        await preserved(service, body)
        for number in range(10):
            (answer,) = await preserve(service, file_submission(body["client_key"], source=f"来源{number}"))
            assert isinstance(answer, Conflict)
        assert service.log.state.size == 1 + 8


async def test_parts_of_a_link_are_numbered_in_log_order(settings: Settings) -> None:
    async with serving(settings) as service:
        answers = await asyncio.gather(*(preserved(service, file_submission(link={"code": "tx-1"})) for _ in range(20)))
        ordered = sorted(answers, key=lambda answer: answer.leaf_index)
        previous = None
        for number, answer in enumerate(ordered):
            evidence = Evidence.parse(answer.evidence)
            assert evidence.link is not None
            assert (evidence.link.number, evidence.link.previous) == (number, previous)
            previous = pair(answer.evidence)


async def test_stale_or_closed_link_is_refused_and_nothing_is_stored(settings: Settings) -> None:
    async with serving(settings) as service:
        first = await preserved(service, file_submission(link={"code": "tx-1"}))
        head = first.package_hash.hex()
        await preserved(service, file_submission(link={"code": "tx-1", "follows": head}))
        (stale,) = await preserve(service, file_submission(link={"code": "tx-1", "follows": head}))
        await preserved(service, file_submission(link={"code": "tx-1", "closes": True}))
        (closed,) = await preserve(service, file_submission(link={"code": "tx-1"}))
        assert isinstance(stale, Stale)
        assert isinstance(closed, Stale)
        assert service.log.state.size == 3
        other = await preserved(service, file_submission(link={"code": "tx-2"}))
        assert other.leaf_index == 3


async def test_one_bad_item_refuses_only_itself(settings: Settings) -> None:
    async with serving(settings) as service:
        bad = file_submission()
        del bad["stages"]["文件"]["file_name"]
        answers = await preserve(service, file_submission(), bad, file_submission())
        assert [isinstance(answer, Preserved) for answer in answers] == [True, False, True]
        assert service.log.state.size == 2


async def test_time_never_falls_along_the_log(settings: Settings) -> None:
    clock = ManualClock()
    async with serving(settings, clock) as service:
        first = Evidence.parse((await preserved(service, file_submission())).evidence)
        clock.advance(-1)
        second = Evidence.parse((await preserved(service, file_submission())).evidence)
        assert second.created_at == first.created_at
        clock.advance(-10)
        with pytest.raises(Unready, match="clock went back"):
            await preserve(service, file_submission())
        clock.advance(60)
        assert (await preserved(service, file_submission())).leaf_index == 2


async def test_second_service_on_one_home_is_refused(settings: Settings) -> None:
    async with serving(settings):
        with pytest.raises(HomeRefused, match="another process"):
            await open_service(settings, clock=ManualClock())


async def test_second_sequencer_on_one_postgresql_is_refused(tmp_path: Path, postgres: Any) -> None:
    first, second = settings_of(tmp_path / "a", postgres.url), settings_of(tmp_path / "b", postgres.url)
    async with serving(first):
        with pytest.raises(HomeRefused, match="sequencer"):
            async with serving(second):
                pass


async def test_writer_that_was_fenced_off_signs_nothing(settings: Settings) -> None:
    async with serving(settings) as service:
        await preserved(service, file_submission())
        with service.store.writing() as connection:
            head = rows.read_head(connection)
            assert head is not None
            taken = rows.HeadRow(**{**{name: getattr(head, name) for name in rows.HeadRow.__slots__}, "epoch": head.epoch + 1})
            assert rows.move_head(connection, head, taken)
        with pytest.raises(HomeRefused):
            await preserve(service, file_submission())
        with service.store.reading() as connection:
            found = rows.read_head(connection)
        assert found is not None
        assert found.size == 1


_OTHER = pair(b"other")


@pytest.mark.parametrize(
    "change",
    [
        "data = CAST(data || ' ' AS BLOB)",
        "entry = zeroblob(64)",
        f"data = X'{b'other'.hex()}', entry = X'{(_OTHER.sm3 + _OTHER.sha256).hex()}'",
    ],
    ids=["evidence", "entry", "both of another"],
)
async def test_bit_that_falls_between_write_and_signing_stops_the_commit(tmp_path: Path, change: str) -> None:
    settings = settings_of(tmp_path / "home")
    async with serving(settings) as service:
        await preserved(service, file_submission())
        with sqlite3.connect(settings.home / "evidence.db") as raw:
            raw.execute(
                "CREATE TRIGGER flip AFTER INSERT ON evidence BEGIN"
                f" UPDATE evidence SET {change} WHERE leaf_index = NEW.leaf_index; END"
            )
        with pytest.raises(Damaged, match="other bytes"):
            await preserve(service, file_submission())
        assert service.log.state.size == 1
        with sqlite3.connect(settings.home / "evidence.db") as raw:
            raw.execute("DROP TRIGGER flip")
        assert (await preserved(service, file_submission())).leaf_index == 1


async def test_damaged_entry_is_found_when_the_log_opens(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    async with serving(settings) as service:
        await preserved(service, file_submission())
    with sqlite3.connect(settings.home / "evidence.db") as raw:
        raw.execute("UPDATE evidence SET entry = zeroblob(64)")
    raw.close()
    with pytest.raises(HomeRefused, match="do not give the signed"):
        async with serving(settings, make=False):
            pass


async def test_chain_that_joins_later_begins_at_the_size_of_then(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    async with serving(settings) as service:
        for _ in range(3):
            await preserved(service, file_submission())
        await service.anchoring.wait_final(2, 10)
    more = settings_of(tmp_path / "home", chains=("embedded:", "embedded:second"), quorum=2)
    clock = ManualClock()
    async with serving(more, clock) as service:
        answer = await preserved(service, file_submission())
        assert await service.anchoring.wait_final(answer.leaf_index, 10) == "final"
        firsts = sorted(chain.first for chain in service.anchoring.chains.values())
        assert firsts == [0, 3]
        bundle = await service.issuance.bundle(answer.evidence_id, business(service))
        report = verify(bundle, service.trust())
        assert report.verdict is Verdict.VALID
        early = service.contents.row(0)
        assert (
            verify(await service.issuance.bundle("ev_" + early.evidence_id.hex(), business(service)), service.trust()).verdict
            is Verdict.VALID
        )


@pytest.mark.parametrize("sealed_after", [1, 2, 5])
async def test_database_set_back_by_any_commits_signs_nothing_and_loses_no_secret(tmp_path: Path, sealed_after: int) -> None:
    settings = settings_of(tmp_path / "home", anchor_interval_s=3600.0, anchor_mode=AnchorMode.BATCH)
    clock = ManualClock()
    async with serving(settings, clock) as service:
        await preserved(service, file_submission())
    files = [settings.home / name for name in ("evidence.db", "evidence.db-wal", "evidence.db-shm")]
    early = {path: path.read_bytes() for path in files if path.exists()}
    async with serving(settings, clock, make=False) as service:
        answers = [await preserved(service, file_submission()) for _ in range(sealed_after)]
    newest = {path: path.read_bytes() for path in files if path.exists()}
    _put_back(files, early)
    with pytest.raises(HomeRefused, match="behind the head"):
        async with serving(settings, clock, make=False):
            pass
    _put_back(files, newest)
    async with serving(settings, clock, make=False) as service:
        for answer in answers:
            assert service.contents.open(answer.leaf_index).secret == answer.secret
        assert (await preserved(service, file_submission())).leaf_index == 1 + sealed_after


async def test_a_head_that_cannot_be_marked_is_committed_all_the_same(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        await preserved(service, file_submission())
        mark = _descriptor_of(MARK_FILE)
        kept, away = os.dup(mark), os.open(tmp_path, os.O_RDONLY)
        os.dup2(away, mark)
        try:
            answers = [await preserved(service, file_submission()) for _ in range(2)]
        finally:
            os.dup2(kept, mark)
            os.close(kept)
            os.close(away)
        assert [answer.leaf_index for answer in answers] == [1, 2]
        assert service.log.state.size == 3


def _descriptor_of(name: str) -> int:
    """The open file of this process that goes by that name."""
    opened = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return next(int(link.name) for link in opened if link.readlink().name == name)


def _put_back(files: list[Path], contents: dict[Path, bytes]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
        if path in contents:
            path.write_bytes(contents[path])


async def test_damage_of_ours_is_never_called_the_client_s_fault(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    async with serving(settings) as service:
        body = file_submission()
        first = await preserved(service, body)
        with sqlite3.connect(settings.home / "secrets.db") as raw:
            raw.execute("UPDATE secret SET wrapped = zeroblob(60)")
        raw.close()
        (altered,) = await preserve(service, body)
        with sqlite3.connect(settings.home / "secrets.db") as raw:
            raw.execute("DELETE FROM secret")
        raw.close()
        (lost,) = await preserve(service, body)
        assert isinstance(altered, Damaged)
        assert isinstance(lost, Damaged)
        assert service.log.state.size == 1, "no conflict record accuses the submitter"
        assert service.contents.row(first.leaf_index).data == first.evidence


async def test_conflict_record_betrays_neither_content_even_with_the_first_item_disclosed(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        body = file_submission(source="A部门")
        first = await preserved(service, body)
        (conflict,) = await preserve(service, file_submission(body["client_key"], source="C部门"))
        assert isinstance(conflict, Conflict)
        assert conflict.record_id is not None
        record = service.contents.open(service.query.find(conflict.record_id, business(service)))
        assert record.stages is not None
        shown = record.evidence.data.decode() + str(record.stages["冲突"]["refused_statement"])
        opened = service.contents.open(first.leaf_index)
        assert opened.secret is not None
        assert opened.stages is not None
        for guess in ("A部门", "B部门", "C部门"):
            stages = {"文件": {**opened.stages["文件"], "source": guess}}
            made = commit(
                opened.template,
                stages,
                secret=opened.secret,
                log=service.origin,
                submitter="acct-1",
                client_key=body["client_key"],
            )
            statement = opened.evidence.statement._replace(stages=tuple((stage.name, stage.pair) for stage in made))
            data = Statement.build(
                client_key=statement.client_key,
                link=None,
                log=statement.log,
                occurred_at=None,
                stages=statement.stages,
                subject=(statement.subject_id, statement.subject_name),
                submitter=statement.submitter,
                template=(statement.template_name, statement.template_pair),
            ).data
            for part in (made[0].pair.sm3.hex(), sm3(data).hex(), sm3(data)[:16].hex()):
                assert part not in shown, guess
