"""The append-only evidence log: group commit, both trees, signed checkpoints.

One thread writes. Whatever waits when a commit ends becomes the next one; there is no timer, and
signing is per commit, never per item. The order within a commit is fixed: secrets are durable
first; then in one transaction the rows go in, are read back, entries, tiles and both roots are
made from what was *read*, both notes are signed, the head moves by compare-and-swap; then COMMIT;
then the answer. A note that was not stored never leaves the process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Transaction
from sqlalchemy.exc import DBAPIError

from evidence import store as rows
from evidence import trail
from evidence.batch import Batch, Outcome, Pending, Sealed
from evidence.errors import Damaged, HomeRefused, OutcomeOpen, Overloaded, StorageFull, Unready
from evidence.logtree import LogTree
from evidence.steps import Step, StepFunction
from evidence.store import CheckpointRow, HeadRow, Store, storage_error
from models.anchor import BlockRef
from models.checkpoint import Checkpoint, cosign, make_note
from models.digest import Algorithm
from models.errors import EvidenceError, VerificationError
from models.merkle import verify_consistency
from models.names import twin_origin
from models.signature import Signer

MAX_BATCH = 4096
MAX_WAITING = 20_000
BACK_JUMP = timedelta(seconds=2)
LOCK_TIMEOUT_S = 10

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The two keys of a log: one for each tree (formats §11, Notes)."""

    log: Signer
    twin: Signer


@dataclass(frozen=True, slots=True)
class LogState:
    """The log at one size: immutable, replaced as a whole after each commit."""

    head: HeadRow
    sm3: LogTree
    sha256: LogTree
    checkpoint: CheckpointRow | None

    @property
    def size(self) -> int:
        """How many entries the log holds."""
        return self.head.size

    def tree(self, algorithm: Algorithm) -> LogTree:
        """The tree of one algorithm."""
        return self.sm3 if algorithm is Algorithm.SM3 else self.sha256


@dataclass(slots=True)
class _Call:
    items: Sequence[Pending]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Outcome]]
    outcomes: list[Outcome] = field(default_factory=list)


class Log:
    """The one writer of one log. Reads of the present state are free of locks: `state` is a value."""

    def __init__(
        self,
        store: Store,
        keys: LogKeys,
        *,
        batch: Callable[[Connection, HeadRow, datetime, Sequence[BlockRef]], Batch],
        clock: Callable[[], datetime],
        after: Callable[[], Sequence[BlockRef]],
        guard: Callable[[], None],
        confirm: Callable[[HeadRow], None],
        step: StepFunction,
    ) -> None:
        """`batch` opens one in a transaction, `after` gives the newest final blocks, `guard` raises when sealing must pause."""
        self._store, self._keys, self._batch, self._clock = store, keys, batch, clock
        self._after, self._guard, self._confirm, self._step = after, guard, confirm, step
        self._calls: deque[_Call] = deque()
        self._writes: deque[tuple[Callable[[Connection], Any], Future[Any]]] = deque()
        self._waiting = 0
        self._condition = threading.Condition()
        self._closing = False
        self._stopped: Unready | HomeRefused | None = None
        self._unsettled = False
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[LogState], None]] = []
        self.state = self._load()

    # --- opening and closing ----------------------------------------------------------------------------------

    def _load(self) -> LogState:
        """Take the log over: raise the epoch, so that a writer before us is fenced, and rebuild the open tiles."""
        with self._store.writing() as connection:
            head = rows.read_head(connection)
            if head is None:
                raise HomeRefused("the database holds no log: expected `evidence init` to have run")
            taken = HeadRow(**{**{name: getattr(head, name) for name in HeadRow.__slots__}, "epoch": head.epoch + 1})
            if not rows.move_head(connection, head, taken):
                raise HomeRefused("another process moved the head of this log while it was being opened")
        return self._state_at(taken)

    def _state_at(self, head: HeadRow) -> LogState:
        with self._store.reading() as connection:
            trees = [
                LogTree.open(self._store, connection, algorithm, head.size) for algorithm in (Algorithm.SM3, Algorithm.SHA256)
            ]
            checkpoint = rows.read_checkpoint(connection, size=head.size) if head.size else None
        for tree, root in zip(trees, (head.sm3_root, head.sha256_root), strict=True):
            if tree.root() != root:
                raise HomeRefused(
                    f"the stored entries do not give the signed {tree.algorithm.value} root at size {head.size}",
                    hint="run `evidence examine`: it names what is damaged",
                )
        if head.size and checkpoint is None:
            raise HomeRefused(f"the checkpoint of size {head.size} is missing", hint="run `evidence examine`")
        return LogState(head, trees[0], trees[1], checkpoint)

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish everything accepted, then end the writer. Idempotent."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def listen(self, listener: Callable[[LogState], None]) -> None:
        """Call `listener` in the writer's thread after each commit."""
        self._listeners.append(listener)

    # --- what callers ask -------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many items wait for a commit."""
        return self._waiting

    def check_open(self) -> None:
        """Return if an item could be sealed now. Raises: Unready and its kinds, HomeRefused."""
        self._check_running()
        if self._clock().timestamp() * 1000 < self.state.head.newest_ms - 1000 * BACK_JUMP.total_seconds():
            raise Unready("the clock went back behind the newest item: sealing pauses until it has caught up", retry_after_s=30)
        self._guard()

    def _check_running(self) -> None:
        self._check_stopped()
        if self._closing:
            raise Unready("the service is shutting down", retry_after_s=10)

    def _check_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def refuse(self, error: HomeRefused) -> None:
        """Nothing more is signed or written until the next start: this home was found to be a copy, or not the only one."""
        self._stopped = error

    async def append(self, items: Sequence[Pending]) -> list[Outcome]:
        """Every item is in the log and flushed, stood there before, or is named with the error that refused it.

        Shapes: n items → n outcomes, in order; all of one call lie in one commit.
        Raises: Unready (nothing stored), OutcomeOpen (may be stored: send the same again), HomeRefused.
        Source: T/SAC 004—2024 6.4.3, 6.4.4; architecture §5 (Append).
        """
        self.check_open()
        return await self.submit(items)

    def submit(self, items: Sequence[Pending]) -> asyncio.Future[list[Outcome]]:
        """As `append`, for who asked `check_open` when the items came; the answer is told of in the event loop that asks.

        Raises: Unready, HomeRefused.
        """
        self._check_running()
        loop = asyncio.get_running_loop()
        call = _Call(items, loop, loop.create_future())
        with self._condition:
            if self._waiting + len(items) > MAX_WAITING:
                raise Overloaded("too many items wait to be sealed", retry_after_s=2)
            self._calls.append(call)
            self._waiting += len(items)
            self._condition.notify()
        return call.future

    async def write(self, change: Callable[[Connection], T]) -> T:
        """`change` ran in a transaction of its own in the writer's thread and is flushed.

        Raises: whatever `change` raises; Unready, StorageFull if the database refuses.
        """
        future: Future[T] = Future()
        with self._condition:
            if self._closing and self._thread is None:
                raise Unready("the service is shutting down", retry_after_s=10)
            self._writes.append((change, future))
            self._condition.notify()
        return await asyncio.wrap_future(future)

    # --- the writer's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._calls and not self._writes:
                    if self._closing:
                        return
                    self._condition.wait()
                writes, calls, count = list(self._writes), [], 0
                self._writes.clear()
                while self._calls and count < MAX_BATCH:
                    calls.append(self._calls.popleft())
                    count += len(calls[-1].items)
            for change, future in writes:
                self._write(change, future)
            if calls:
                self._append(calls, count)

    def _write(self, change: Callable[[Connection], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            self._check_stopped()
            with self._store.writing() as connection:
                result = change(connection)
        except DBAPIError as error:
            future.set_exception(self._note_storage(error))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who awaits it
            future.set_exception(error)
        else:
            future.set_result(result)

    def _append(self, calls: list[_Call], count: int) -> None:
        failure: BaseException | None = None
        try:
            self._check_stopped()
            self._settle()
            self._commit(calls)
        except (Unready, HomeRefused) as error:
            cause = error.__cause__
            failure = self._note_storage(cause) if isinstance(error, StorageFull) and isinstance(cause, DBAPIError) else error
        except DBAPIError as error:
            failure = self._note_storage(error)
        except VerificationError as error:
            # Nothing the callers sent is judged here: it is a bit of ours that fell between write and signing.
            failure = Damaged(f"{error.message}: nothing was signed", hint="an operator runs `evidence examine`")
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - handed to the callers, who await it
            failure = error
        with self._condition:
            self._waiting -= count
        self._step(Step.ANSWER_BEFORE)
        _deliver(calls, failure)
        self._step(Step.ANSWER_AFTER)

    def _note_storage(self, error: DBAPIError) -> Unready:
        """Remember what a storage error, of the database or of the store of secrets, means for the next commit."""
        met = storage_error(error)
        self._unsettled = True
        if "i/o error" in str(error.orig).lower():
            # After a failed flush the kernel may drop what it could not write and report the next flush as good:
            # nothing of this process may be believed any more, only a new one that reads from the disk.
            self._stopped = StorageFull(
                "the disk failed under a database: signing has stopped until the service is restarted", retry_after_s=60
            )
            return self._stopped
        return met

    def _settle(self) -> None:
        """After an error: learn where the head really stands before anything else is written."""
        if not self._unsettled:
            return
        self._store.renew()
        with self._store.writing() as connection:
            self._limit_wait(connection)
            found = rows.read_head(connection, lock=True)
        self._adopt(found)

    def _limit_wait(self, connection: Connection) -> None:
        if not self._store.is_sqlite:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")

    def _adopt(self, found: HeadRow | None) -> None:
        mine = self.state.head
        if found is None or found.epoch != mine.epoch or found.size < mine.size:
            self._stopped = HomeRefused("another process has written to this log: this one signs nothing more")
            raise self._stopped
        if found.size > mine.size:
            self._publish(self._state_at(found))
        self._unsettled = False

    def _publish(self, state: LogState) -> None:
        self.state = state
        for listener in self._listeners:
            listener(state)

    def _now(self) -> datetime:
        """The time of this commit, cut to the millisecond; it never falls along the log."""
        now = self._clock()
        newest = datetime.fromtimestamp(self.state.head.newest_ms / 1000, UTC)
        return max(now.replace(microsecond=now.microsecond // 1000 * 1000), newest)

    def _commit(self, calls: list[_Call]) -> None:
        old, now = self.state, self._now()
        connection = self._store.writer.connect()
        try:
            transaction = connection.begin()
            try:
                self._limit_wait(connection)
                batch = self._batch(connection, old.head, now, self._after())
                items = [item for call in calls for item in call.items]
                trail.collected(items)
                batch.sort_out(items)
                new = self._extend(connection, old, batch, now)
            except BaseException:
                transaction.rollback()
                raise
            self._end(connection, transaction, old, new)
        finally:
            connection.close()
        outcomes = batch.outcomes
        if new is not None:
            trail.sealed(batch.fresh, new.size)
            self._publish(new)
            try:
                _prove(outcomes, new)
            except (DBAPIError, EvidenceError) as error:
                raise OutcomeOpen("the items are stored, but their paths cannot be read now", hint="send them again") from error
        place = 0
        for call in calls:
            call.outcomes = outcomes[place : place + len(call.items)]
            place += len(call.items)

    def _extend(self, connection: Connection, old: LogState, batch: Batch, now: datetime) -> LogState | None:
        """Write the batch, read it back, and give the state that the stored bytes make; None if nothing is new."""
        if not batch.fresh:
            return None
        self._step(Step.INSERT_BEFORE)
        batch.insert()
        trail.built(batch.fresh)
        self._step(Step.INSERT_AFTER)
        entries = batch.read_back(old.size)
        trees = [tree.extended(entries) for tree in (old.sm3, old.sha256)]
        for tree, before in zip(trees, (old.sm3, old.sha256), strict=True):
            if old.size:
                path = tree.consistency_path(old.size)
                verify_consistency(old.size, tree.size, path, before.root(), tree.root(), algorithm=tree.algorithm)
        batch.keep_secrets(trees[0].size, trees[0].root())
        newest_ms = _milliseconds(now)
        signed_at_s = max(-(-newest_ms // 1000), old.head.signed_at_s)
        self._step(Step.SIGN_BEFORE)
        note, twin = (
            _signed(origin, tree, signer, signed_at_s)
            for origin, tree, signer in (
                (old.head.origin, trees[0], self._keys.log),
                (twin_origin(old.head.origin), trees[1], self._keys.twin),
            )
        )
        self._step(Step.SIGN_AFTER)
        size = old.size + len(entries)
        checkpoint = CheckpointRow(size, note, twin, signed_at_s)
        head = HeadRow(old.head.origin, size, old.head.epoch, trees[0].root(), trees[1].root(), signed_at_s, newest_ms)
        rows.put_tiles(connection, (tile for tree in trees for tile in tree.new_tiles))
        rows.put_checkpoint(connection, checkpoint)
        if not rows.move_head(connection, old.head, head):
            self._stopped = HomeRefused("another process moved the head of this log: this one signs nothing more")
            raise self._stopped
        return LogState(head, trees[0], trees[1], checkpoint)

    def _end(self, connection: Connection, transaction: Transaction, old: LogState, new: LogState | None) -> None:
        """Commit; where the answer to COMMIT is lost, find out what happened before anybody is answered."""
        if new is None:
            transaction.rollback()
            return
        self._step(Step.COMMIT_BEFORE)
        try:
            transaction.commit()
        except DBAPIError as error:
            connection.invalidate()
            met = self._note_storage(error)
            if self._stopped is not None:
                raise met from error
            self._learn_outcome(old, new, error)
        try:
            self._confirm(new.head)
        except OSError as error:
            # The items are stored. The mark lags behind, and tells of less than it might if the database is set back.
            logger.warning("the head could not be marked beside the database: %s", error.strerror)
        self._step(Step.COMMIT_AFTER)

    def _learn_outcome(self, old: LogState, new: LogState, error: DBAPIError) -> None:
        """Return if the lost COMMIT did happen. The row lock on the head makes us wait for the old transaction's end."""
        try:
            self._store.renew()
            with self._store.writing() as connection:
                self._limit_wait(connection)
                found = rows.read_head(connection, lock=True)
        except (DBAPIError, HomeRefused) as second:
            raise OutcomeOpen(
                "the database did not say whether the items were stored",
                hint="send the same submissions again: none is stored twice",
            ) from second
        if found == new.head:
            self._unsettled = False
            return
        if found == old.head:
            self._unsettled = False
            raise storage_error(error) from error
        self._adopt(found)
        raise OutcomeOpen("another writer moved the log", hint="send the same submissions again") from error


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _signed(origin: str, tree: LogTree, signer: Signer, at_s: int) -> str:
    checkpoint = Checkpoint(origin, tree.size, tree.root())
    return make_note(checkpoint, [cosign(checkpoint, signer, at_s)])


def _prove(outcomes: Sequence[Outcome], state: LogState) -> None:
    """Put into each new item's outcome its path in the tree that was just signed."""
    checkpoint = state.checkpoint
    sealed = [outcome for outcome in outcomes if isinstance(outcome, Sealed)]
    if checkpoint is None or not sealed:
        return
    for outcome, path in zip(sealed, state.sm3.inclusion_paths(sealed[0].leaf_index), strict=True):
        outcome.path = path
        outcome.size = state.size
        outcome.note = checkpoint.note


def _deliver(calls: list[_Call], failure: BaseException | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
    for call in calls:
        by_loop.setdefault(call.loop, []).append(call)
    for loop, mine in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_answer, mine, failure)


def _answer(calls: list[_Call], failure: BaseException | None) -> None:
    for call in calls:
        if call.future.done():
            continue
        if failure is not None:
            call.future.set_exception(failure)
        else:
            call.future.set_result(call.outcomes)
