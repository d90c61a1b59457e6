"""The embedded ledger: its nodes in one process, how they agree, and how they find together again.

One thread makes blocks; each node re-does a block, stores it with its own seal and flushes before
the seal counts. With seals of more than two thirds the block is final, and a second line fixes
which seals those were. What is locked at a start is finished, never replaced: `_settle` is the one
function that does it, after a crash as in running.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from chain_gateway.embedded import recovery
from chain_gateway.embedded.chainfile import Disk, Failpoint, Step
from chain_gateway.embedded.config import BLOCKS_FILE, LOCK_FILE, ChainConfig, node_folder
from chain_gateway.embedded.node import Condition, Node, Outcome
from chain_gateway.embedded.proof import Header, Transaction
from chain_gateway.embedded.stored import Pending, tx_root
from chain_gateway.port import ChainUnavailable, Clock, Damage, NotSubmitted, OutcomeUnknown, Rejected
from models.anchor import TxId
from models.digest import Digest
from models.errors import EvidenceError

MAX_BLOCK_TRANSACTIONS = 256
MAX_BLOCK_BYTES = 2 << 20
T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    """A transaction on its way, and who waits for it."""

    transaction: Transaction
    node: int
    future: Future[TxId]


class _Result(Enum):
    FINAL = "final"
    UNKNOWN = "unknown"
    NOTHING = "nothing"


class Ledger:
    """The nodes of one chain; opened for writing by one process, for reading by any number beside it."""

    def __init__(self, folder: Path, config: ChainConfig, *, clock: Clock, disk: Disk | None, step: Failpoint) -> None:
        self.folder = folder
        self.config = config
        self._clock = clock
        self._disk = disk
        self._step = step
        self.nodes = [Node(number, folder, config, disk=disk, step=step) for number in range(len(config.keys))]
        self.settled = 0
        self._pending: Pending | None = None
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._open = False
        self._lock_descriptor: int | None = None
        self._pool = ThreadPoolExecutor(len(self.nodes), thread_name_prefix="embedded-node")
        self._thread: threading.Thread | None = None

    # -- opening and closing

    def open(self) -> None:
        """The nodes that can be started are up and agree; for writing, what was locked is finished.

        Raises: ChainUnavailable if another process writes.
        """
        if self._disk is not None:
            self._take_lock()
        with self._lock:
            self._each(self.nodes, Node.start)
            if self._disk is None:
                self.settled = max(0, recovery.settled_height(self.nodes, self.config.quorum))
            else:
                self._judge_tails()
                self._each(self._live(), Node.mend)
                self._settle()
                self._thread = threading.Thread(target=self._work, name="embedded-ledger", daemon=True)
                self._thread.start()
            self._open = True

    def _take_lock(self) -> None:
        try:
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ChainUnavailable(f"embedded ledger cannot be locked: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            hint = "stop the other service, or open the ledger for reading only"
            raise ChainUnavailable("another process writes this embedded ledger", hint=hint) from error
        self._lock_descriptor = descriptor

    def close(self) -> None:
        """Everything submitted is settled, the nodes are down, the lock is free; may be repeated."""
        self._open = False
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self.abandon()

    def abandon(self) -> None:
        """All handles are dropped as a killed process drops them: nothing is written or flushed."""
        self._open = False
        with self._lock:
            for node in self.nodes:
                node.stop(Condition.DOWN, "ledger is closed")
            self._pool.shutdown(wait=False)
            descriptor, self._lock_descriptor = self._lock_descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _judge_tails(self) -> None:
        for node in self._live():
            recovery.judge_tail(node, self.nodes)

    def _live(self) -> list[Node]:
        return [node for node in self.nodes if node.is_up]

    def _each(self, nodes: Iterable[Node], act: Callable[[Node], T]) -> list[T]:
        # In parallel, because each node waits for its own flush.
        return list(self._pool.map(act, nodes))

    # -- single nodes

    def kill(self, number: int) -> None:
        """The node is gone, with whatever it had in memory; what is being written is finished first."""
        with self._lock:
            self.nodes[number].stop(Condition.DOWN, f"node {number} is down")

    def start(self, number: int) -> None:
        """The node is up again and level with its peers, unless its copy is damaged.

        Source: T/SAC 004—2024 4.1.2 e), 4.1.3 a)–c), f).
        """
        with self._lock:
            self.nodes[number].start()
            self._judge_tails()
            if self.nodes[number].is_up:
                self.nodes[number].mend()
            self._settle()

    def repair(self, number: int) -> Path | None:
        """The node's damaged copy is laid aside and made anew from its peers; where it lies now.

        Source: T/SAC 004—2024 4.1.3 g).
        """
        with self._lock:
            self.nodes[number].stop(Condition.DOWN, "being repaired")
            path = node_folder(self.folder, number) / BLOCKS_FILE
            aside = recovery.aside(path)
            if path.exists():
                # Dying after the rename leaves a node without blocks, which the next start fills from its peers.
                path.rename(aside)
            self.start(number)
            return aside if aside.exists() else None

    def refresh(self) -> None:
        """A reader takes in what the writing process has stored since."""
        if self._disk is None:
            with self._lock:
                for node in self.nodes:
                    node.refresh()
                self.settled = max(self.settled, recovery.settled_height(self.nodes, self.config.quorum))

    def node(self, number: int) -> Node:
        """The node, which is up and whose newest blocks are known.

        Raises: ChainUnavailable if it does not answer.
        """
        self.refresh()
        found = self.nodes[number]
        if self._open and found.condition is Condition.FULL:
            with self._lock:
                self._resume()
                self._settle()
        if not self._open or not found.is_up:
            raise ChainUnavailable("ledger is closed" if not self._open else found.detail)
        return found

    def visible(self, node: Node) -> int:
        """The newest height of which the node may speak: final, and its seals fixed for ever."""
        return min(node.height, self.settled)

    def check(self) -> tuple[Damage, ...]:
        """Every block of every copy is re-done from the files; what is wrong is named with node and height."""
        return recovery.check(self.folder, self.config)

    # -- submitting

    def submit(self, transaction: Transaction, *, node: int) -> Future[TxId]:
        """The transaction is on its way to the node; the future gives its id once it is final, or a ChainError."""
        future: Future[TxId] = Future()
        if not self._open or self._thread is None or not self._thread.is_alive():
            future.set_exception(NotSubmitted("ledger takes no transactions: it is closed or open for reading only"))
        else:
            self._queue.put(_Waiting(transaction, node, future))
        return future

    def pending(self) -> Pending | None:
        """The block that is stored somewhere and not final, if there is one."""
        if self._pending is not None:
            return self._pending
        for node in self._live():
            locked = node.locked
            if locked is not None:
                return Pending(locked.header, locked.transactions)
        return None

    def find_pending(self, sender: bytes | None, key: Digest) -> TxId | None:
        """The transaction under `key` in the block that is not final yet."""
        pending = self.pending()
        for text in () if pending is None else pending.transactions:
            transaction = Transaction.parse(text.encode())
            if transaction.key == key and sender in (None, transaction.sender):
                return transaction.id
        return None

    def finish(self) -> None:
        """Nodes that met a full disk try again, and what is locked becomes final, if enough nodes are up."""
        if self._disk is None or not self._open:
            return
        if self.pending() is not None or any(node.condition is Condition.FULL for node in self.nodes):
            with self._lock:
                self._resume()
                self._settle()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            size, is_last = len(first.transaction.data), False
            while len(batch) < MAX_BLOCK_TRANSACTIONS and size < MAX_BLOCK_BYTES and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    is_last = True
                    break
                batch.append(following)
                size += len(following.transaction.data)
            self._run_safely([each for each in batch if each.future.set_running_or_notify_cancel()])
            if is_last:
                return

    def _run_safely(self, batch: Sequence[_Waiting]) -> None:
        try:
            with self._lock:
                self._run(batch)
        except Exception as error:  # noqa: BLE001 - the top of a thread: whoever waits must hear of it
            self._open = False
            for each in batch:
                if not each.future.done():
                    each.future.set_exception(OutcomeUnknown(f"embedded ledger stopped: {type(error).__name__}"))

    def _run(self, batch: Sequence[_Waiting]) -> None:
        self._resume()
        self._settle()
        ready = len(self._live()) >= self.config.quorum and self.pending() is None
        best = max(self._live(), key=lambda node: node.height, default=None)
        if best is None:
            self._answer(batch, NotSubmitted("no node of the embedded ledger is up"))
            return
        draft = best.state.draft(best.height + 1)
        taken: dict[TxId, Transaction] = {}
        waiting: list[tuple[_Waiting, TxId]] = []
        for each in batch:
            transaction = each.transaction
            try:
                if not self.nodes[each.node].is_up:
                    raise NotSubmitted(f"node {each.node} of the embedded ledger does not answer")
                holder = draft.holder(transaction.sender, transaction.key.value)
                holder = holder or self.find_pending(transaction.sender, transaction.key)
                if holder is not None:
                    self._compare(best, taken, holder, transaction)
                elif not ready:
                    raise NotSubmitted("too few nodes are up, or a block is not final yet", hint="start the nodes that are down")
                else:
                    draft.apply(transaction)
                    taken[transaction.id] = transaction
                    holder = transaction.id
            except EvidenceError as error:
                self._answer([each], error)
            else:
                waiting.append((each, holder))
        result = (
            self._propose(best, [each.data.decode() for each in taken.values()], draft.state_root()) if taken else _Result.FINAL
        )
        for each, tx_id in waiting:
            self._tell(each, tx_id, _Result.FINAL if tx_id not in taken else result)

    def _compare(self, best: Node, taken: dict[TxId, Transaction], holder: TxId, transaction: Transaction) -> None:
        """The key is held by the same payload: the submission is a repeat.

        Raises: Rejected if it is held by another payload; OutcomeUnknown if that cannot be read.
        """
        held = taken.get(holder) or self._held(best, holder)
        if held is None:
            raise OutcomeUnknown("transaction that holds the key cannot be read")
        if held.payload != transaction.payload:
            raise Rejected("key is taken by another payload: the chain takes one payload a key, once")

    def _held(self, best: Node, holder: TxId) -> Transaction | None:
        pending = self.pending()
        texts: Sequence[str] = () if pending is None else pending.transactions
        where = best.locate(holder)
        try:
            block = None if where is None else best.block(where[0])
        except ChainUnavailable:
            return None
        if block is not None and where is not None:
            texts = (block.transactions[where[1]],)
        parsed = (Transaction.parse(text.encode()) for text in texts)
        return next((each for each in parsed if each.id == holder), None)

    def _tell(self, each: _Waiting, tx_id: TxId, result: _Result) -> None:
        if result is _Result.FINAL:
            self._step(Step.BEFORE_ANSWER)
            each.future.set_result(tx_id)
        elif result is _Result.UNKNOWN:
            self._answer([each], OutcomeUnknown("block is stored but not final: too few nodes could store it"))
        else:
            self._answer([each], NotSubmitted("no node could store the block"))

    @staticmethod
    def _answer(batch: Sequence[_Waiting], error: EvidenceError) -> None:
        for each in batch:
            each.future.set_exception(error)

    def _propose(self, best: Node, transactions: list[str], state_root: str) -> _Result:
        head = best.places[-1]
        header = Header.build(
            chain=self.config.chain,
            height=best.height + 1,
            nodes=self.config.nodes,
            parent=head.id,
            state_root=state_root,
            time=max(self._clock(), head.time),
            tx_count=len(transactions),
            tx_root=tx_root(transactions),
        )
        return self._seal(Pending(header, tuple(transactions)))

    # -- agreeing

    def _seal(self, block: Pending) -> _Result:
        """The block is sealed by every live node and, with a quorum, final at every node that sealed it."""
        live = self._live()
        outcomes = self._each(live, lambda node: node.accept(block.header, block.transactions))
        sealed = [node for node, outcome in zip(live, outcomes, strict=True) if outcome is Outcome.SEALED]
        seals = sorted(node.locked.own_seal for node in sealed if node.locked is not None and node.locked.own_seal is not None)
        if len(seals) < self.config.quorum:
            stored = [outcome for outcome in outcomes if outcome is not Outcome.NOT_STORED]
            self._pending = block if stored or self._pending is not None else None
            return _Result.UNKNOWN if stored else _Result.NOTHING
        finals = self._each(sealed, lambda node: node.finalise(seals))
        if sum(finals) < self.config.quorum:
            self._pending = block
            return _Result.UNKNOWN
        self._pending = None
        self.settled = block.header.height
        return _Result.FINAL

    def _resume(self) -> None:
        """Nodes that met a full disk try again, each through a new handle."""
        for node in self.nodes:
            if node.condition is Condition.FULL:
                try:
                    node.resume()
                except OSError as error:
                    node.failed(error)

    def _settle(self) -> None:
        """Live nodes are level, hold the same seals, and what one of them had locked is final if a quorum is up."""
        recovery.outvote(self.nodes)
        recovery.level(self._live())
        recovery.same_seals(self._live())
        self.settled = max(self.settled, recovery.settled_height(self.nodes, self.config.quorum))
        height = max((node.height for node in self._live()), default=-1)
        if self._pending is not None and self._pending.header.height <= height:
            self._pending = None
        locked = [Pending(node.locked.header, node.locked.transactions) for node in self._live() if node.locked is not None]
        if self._pending is not None:
            locked.append(self._pending)
        chosen = recovery.choose(locked, missing=len(self.nodes) - len(self._live()), quorum=self.config.quorum)
        if chosen is None:
            return
        for node in self._live():
            if node.locked is not None and node.locked.header.id != chosen.header.id:
                node.unlock()
        if len(self._live()) >= self.config.quorum:
            self._seal(chosen)
