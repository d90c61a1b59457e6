"""Which checkpoint goes to which chain and when; and what is found out after a crash (6.4.4).

The intent — key and payload — is committed before any call. From then on only the chain's own
answer decides: `find` says whether the key is taken, and a receipt is stored only if the offline
verifier we hand out accepts it. Per chain there is at most one open anchor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError

from chain_gateway.port import ChainUnavailable, LedgerReads, OutcomeUnknown, Rejected, proofs
from evidence import anchors, trail
from evidence.anchors import AnchorRow
from evidence.batch import moment
from evidence.chain import Chain, proves_block
from evidence.contents import Contents
from evidence.errors import HomeRefused, Overloaded, Unready
from evidence.log import BACK_JUMP, Log, LogState
from evidence.payloads import Payloads
from evidence.settings import AnchorMode, Settings
from evidence.steps import Step, StepFunction
from evidence.store import Store, storage_error
from models.anchor import Anchor, BlockRef, ChainReceipt, Payload, ReceiptFacts, TxId, anchor_key
from models.digest import Algorithm, Digest
from models.errors import EvidenceError, Malformed, VerificationError

PROMISE_SHARE = 0.8
CHAIN_AHEAD = timedelta(minutes=5)
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_HEAD_POLL_S = 5.0

logger = logging.getLogger(__name__)


def due(now: datetime, *, mode: AnchorMode, pending: int, oldest: datetime | None, interval_s: float, max_items: int) -> bool:
    """Whether an anchor should be opened now: one function for all three modes.

    REALTIME and ASYNC after each commit (they differ in whether the caller waits), BATCH after an
    interval or a number of items.
    Source: T/SAC 004—2024 6.4.4-b; architecture §5 (Anchor modes).
    """
    if pending <= 0:
        return False
    if mode is not AnchorMode.BATCH or pending >= max_items or oldest is None:
        return True
    return now - oldest >= timedelta(seconds=interval_s)


class Anchoring:
    """Carries the log's heads onto the chains, one task a chain, and answers what is final."""

    def __init__(
        self,
        chains: Sequence[Chain],
        *,
        log: Log,
        store: Store,
        contents: Contents,
        settings: Settings,
        clock: Callable[[], datetime],
        step: StepFunction,
    ) -> None:
        self.chains: Mapping[str, Chain] = {chain.id: chain for chain in chains}
        self.proofs: Mapping[BlockRef, bytes] = {}
        """What proves the newest final blocks, where their engines can give that: replaced as a whole."""
        self._log, self._store, self._settings = log, store, settings
        self._payloads = Payloads(store, contents, clock=clock)
        self._clock, self._step = clock, step
        self._tasks: list[asyncio.Task[None]] = []
        self._final = asyncio.Condition()
        self._oldest_ms: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def covered(self) -> int:
        """Every leaf below this index is final: held by final anchors on as many chains as the policy wants."""
        ends = sorted((chain.covers for chain in self.chains.values()), reverse=True)
        return ends[self._settings.quorum - 1] if len(ends) >= self._settings.quorum else 0

    def state_of(self, leaf_index: int) -> str:
        """`final`, `submitted` or `promised`: computed, never stored (architecture §5)."""
        if leaf_index < self.covered:
            return "final"
        return "submitted" if any(leaf_index < chain.carries for chain in self.chains.values()) else "promised"

    def after(self) -> tuple[BlockRef, ...]:
        """The newest final block known of each chain: what new items are provably not older than."""
        heads = (chain.head for chain in self.chains.values())
        return tuple(sorted((head for head in heads if head is not None), key=lambda head: head.chain))

    def max_payload_bytes(self) -> int:
        """The smallest payload limit of the chains that carry items' own records."""
        return min((chain.gateway.max_payload_bytes for chain in self.chains.values()), default=0)

    def guard(self) -> None:
        """Return if items may be sealed: no promise is near its end, and no chain's clock is far ahead of ours.

        Raises: Overloaded from 80 % of the oldest promise on; Unready.
        Source: architecture §5 (Promise, Clock); reliability R20.
        """
        now = self._clock()
        oldest = self._oldest_ms
        # A chain that joined after the oldest item waits for the next one: then only intake itself can keep the promise.
        if oldest is not None and any(chain.end < self._log.state.size for chain in self.chains.values()):
            age_s = now.timestamp() - oldest / 1000
            if age_s >= PROMISE_SHARE * self._settings.promise_s:
                raise Overloaded(
                    "the oldest promise nears its end: intake pauses until the chain has caught up", retry_after_s=60
                )
        for chain in self.chains.values():
            if chain.head is not None and chain.head.time is not None and chain.head.time - now > CHAIN_AHEAD:
                raise Unready("this machine's clock is more than 5 minutes behind the chain's: sealing pauses", retry_after_s=60)

    @property
    def oldest_promise_at(self) -> datetime | None:
        """When the oldest item that is not final yet was sealed."""
        return None if self._oldest_ms is None else moment(self._oldest_ms)

    async def wait_final(self, leaf_index: int, timeout_s: float) -> str:
        """The state of the item once it is final, or after `timeout_s` as it then is."""
        try:
            async with asyncio.timeout(timeout_s), self._final:
                await self._final.wait_for(lambda: leaf_index < self.covered)
        except TimeoutError:
            pass
        return self.state_of(leaf_index)

    # --- opening ----------------------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Every chain's list is compared with the log, so that a restored or copied home signs nothing that forks.

        A chain out of reach now is compared as soon as it answers, before anything is put on it.
        Raises: HomeRefused if a chain holds a head beyond ours or another than ours, with what we lack.
        Source: formats §3.4, §4.2; reliability R11.
        """
        for chain in self.chains.values():
            await asyncio.to_thread(self._load, chain)
            try:
                await self._compare_lists(chain)
            except ChainUnavailable as error:
                chain.last_error = error.message
                logger.warning("chain cannot be compared at start", extra={"chain": chain.id})
        await self._note_covered()

    def _load(self, chain: Chain) -> None:
        with self._store.writing() as connection:
            chain.first = anchors.join_chain(connection, chain.id, self._log.state.size, _ms(self._clock()))
            row = anchors.newest(connection, chain.id)
        chain.submitted_end = chain.end = chain.first
        if row is not None:
            chain.submitted_end = row.end
            chain.end = row.end if row.state == anchors.FINAL else row.start
            chain.open = None if row.state == anchors.FINAL else row

    async def _compare_lists(self, chain: Chain) -> None:
        """Every anchor that the chain holds beyond our own list is adopted, unless it shows a head that is not ours."""
        await self._learn_head(chain)
        if chain.open is not None and await chain.gateway.find(Digest(Algorithm.SM3, chain.open.key)) is not None:
            await self._advance(chain, chain.open)
        while chain.open is None:
            key = anchor_key(chain.id, self._settings.origin, chain.end)
            tx_id = await chain.gateway.find(key)
            if tx_id is None:
                break
            receipt = await chain.gateway.receipt(tx_id)
            if receipt is None:
                raise ChainUnavailable("a transaction under our next key is not final yet")
            row = await self._adopt(chain, self._verify(chain, receipt, key))
            await self._store_receipt(chain, row, receipt)
        chain.is_compared = True

    async def _learn_head(self, chain: Chain) -> None:
        """The chain's newest final block is known, with what proves it where the engine can give that."""
        head = await chain.gateway.head()
        if head == chain.head:
            return
        proof = await chain.gateway.block_proof(head.height) if isinstance(chain.gateway, LedgerReads) else None
        if proof is not None and await asyncio.to_thread(proves_block, proof, head, chain.trust):
            # The head before stays too: a commit that has named it may be under way.
            kept = {ref: known for ref, known in self.proofs.items() if ref.chain != chain.id or ref == chain.head}
            self.proofs = {**kept, head: proof}
        chain.head = head

    async def _adopt(self, chain: Chain, facts: ReceiptFacts) -> AnchorRow:
        """What the chain holds under our key stands in our list as an open anchor.

        Raises: HomeRefused if it is no head of this log.
        """
        try:
            payload = Payload.parse(facts.payload)
        except Malformed as error:
            raise HomeRefused(f"chain {chain.id} holds under our next key what this log never made") from error
        if payload.key != facts.key:
            raise HomeRefused(f"chain {chain.id} holds under our next key the payload of another range")
        await self._compare(chain, payload)
        chain.open = row = await self._write_intent(chain, payload)
        chain.submitted_end = row.end
        return row

    async def _compare(self, chain: Chain, payload: Payload) -> None:
        state = self._log.state
        if payload.head.size > state.size:
            size = await self._newest_size(chain, payload)
            raise HomeRefused(
                f"the chain holds a head of size {size}, this home only {state.size} entries:"
                f" it lacks leaves {state.size}…{size - 1}",
                hint="this home is a copy or was restored: bring back the newest database; nothing is signed until then",
            )
        for tree, root in ((state.sm3, payload.head.root), (state.sha256, payload.twin_head.root)):
            if tree.root(payload.head.size) != root:
                raise HomeRefused(
                    f"chain {chain.id} holds another {tree.algorithm.value} head of size {payload.head.size} than this log"
                )

    async def _newest_size(self, chain: Chain, payload: Payload) -> int:
        """The size of the last head in the chain's list from `payload` on, as far as the chain tells."""
        size = payload.head.size
        with suppress(EvidenceError):
            while True:
                key = anchor_key(chain.id, self._settings.origin, payload.end)
                tx_id = await chain.gateway.find(key)
                receipt = None if tx_id is None else await chain.gateway.receipt(tx_id)
                if receipt is None:
                    break
                payload = Payload.parse(self._verify(chain, receipt, key).payload)
                size = payload.head.size
        return size

    # --- running ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """One task a chain runs until `stop`."""
        self._loop = asyncio.get_running_loop()
        self._log.listen(self._on_commit)
        self._tasks = [asyncio.create_task(self._run(chain), name=f"anchoring-{chain.id}") for chain in self.chains.values()]

    async def stop(self) -> None:
        """The tasks have ended; an open anchor stays open and is taken up at the next start."""
        self._stopping = True
        for chain in self.chains.values():
            chain.wake.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for chain in self.chains.values():
            await chain.gateway.aclose()

    def _on_commit(self, state: LogState) -> None:
        """Called in the writer's thread."""
        if self._oldest_ms is None:
            self._oldest_ms = state.head.newest_ms
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        size = self._log.state.size
        for chain in self.chains.values():
            if chain.full_at is None or size >= chain.full_at:
                chain.wake.set()

    async def _run(self, chain: Chain) -> None:
        while not self._stopping:
            chain.full_at = None
            chain.wake.clear()  # before the turn: a commit during it must not wait for the next poll
            try:
                pause = await self._turn(chain)
            except Exception:  # the top of a task: one that ended would leave the chain without anchors
                logger.exception("anchoring failed", extra={"chain": chain.id})
                pause = _BACKOFF_S[-1]
            if pause > 0:
                try:
                    async with asyncio.timeout(pause):
                        await chain.wake.wait()
                except TimeoutError:
                    pass

    async def _turn(self, chain: Chain) -> float:
        """One step for one chain; gives the seconds to wait before the next."""
        try:
            return await self._step_on(chain)
        except HomeRefused as error:
            # Somebody else writes this log, or we are the copy: no further head may be signed, on any chain.
            self._log.refuse(error)
            chain.last_error = error.message
            logger.exception("sealing has stopped: the chain holds what this log does not", extra={"chain": chain.id})
            return _BACKOFF_S[-1]
        except (EvidenceError, DBAPIError) as error:
            return await self._note_failure(chain, error)

    async def _step_on(self, chain: Chain) -> float:
        if not chain.is_compared:
            await self._compare_lists(chain)
        state, now = self._log.state, self._clock()
        if chain.open is not None and chain.open.tx_id is not None:
            return await self._advance(chain, chain.open)
        if now < moment(state.head.newest_ms) - BACK_JUMP:
            # The chain's time may be this clock's too: a block older than the head it holds would prove a lie for ever.
            chain.last_error = "the clock went back behind the newest item: nothing is put on the chain until it has caught up"
            return _HEAD_POLL_S
        if chain.open is not None:
            return await self._advance(chain, chain.open)
        oldest = await asyncio.to_thread(self._created, chain.submitted_end, state.size)
        settings = self._settings
        if due(
            now,
            mode=settings.anchor_mode,
            pending=state.size - chain.submitted_end,
            oldest=oldest,
            interval_s=settings.anchor_interval_s,
            max_items=settings.anchor_max_items,
        ):
            chain.open = await self._open(chain, state)
            chain.submitted_end = chain.open.end
            return 0
        await self._learn_head(chain)
        chain.failures, chain.last_error = 0, ""
        if oldest is None:
            return _HEAD_POLL_S
        chain.full_at = chain.submitted_end + settings.anchor_max_items
        return min(_HEAD_POLL_S, max(0.005, settings.anchor_interval_s - (now - oldest).total_seconds()))

    def _created(self, leaf_index: int, size: int) -> datetime | None:
        if leaf_index >= size:
            return None
        with self._store.reading() as connection:
            made = anchors.created_ms(connection, leaf_index)
        return None if made is None else moment(made)

    async def _note_failure(self, chain: Chain, error: EvidenceError | DBAPIError) -> float:
        reason = error.message if isinstance(error, EvidenceError) else storage_error(error).message
        chain.last_error = reason
        chain.failures += 1
        logger.warning("anchoring waits: %s", type(error).__name__, extra={"chain": chain.id, "failures": chain.failures})
        if chain.open is not None:
            number = chain.open.number
            try:
                await self._log.write(lambda connection: anchors.note_reason(connection, number, reason))
            except EvidenceError:
                logger.warning("the reason could not be recorded", extra={"chain": chain.id})
        return _BACKOFF_S[min(chain.failures, len(_BACKOFF_S)) - 1]

    # --- one anchor -------------------------------------------------------------------------------------------

    async def _open(self, chain: Chain, state: LogState) -> AnchorRow:
        seen = [block for block in self.after() if block.chain != chain.id]
        payload = await asyncio.to_thread(
            self._payloads.build, state, chain=chain.id, start=chain.end, limit=chain.gateway.max_payload_bytes, seen=seen
        )
        self._step(Step.INTENT_BEFORE)
        row = await self._write_intent(chain, payload)
        self._step(Step.INTENT_AFTER)
        trail.anchored("opened", row)
        return row

    async def _write_intent(self, chain: Chain, payload: Payload) -> AnchorRow:
        values = {
            "chain": chain.id,
            "start": payload.start,
            "end": payload.end,
            "size": payload.head.size,
            "key": payload.key.value,
            "payload": payload.data,
            "opened_ms": _ms(self._clock()),
        }
        return await self._log.write(lambda connection: anchors.open_anchor(connection, values))

    async def _advance(self, chain: Chain, row: AnchorRow) -> float:
        """Bring an open anchor one step nearer to its receipt. The same path serves recovery: ask `find` first, always."""
        key = Digest(Algorithm.SM3, row.key)
        tx_id = None if row.tx_id is None else TxId(row.tx_id)
        if tx_id is None:
            tx_id = await chain.gateway.find(key)
            if tx_id is None:
                tx_id = await self._submit(chain, row, key)
            found = tx_id
            await self._log.write(lambda connection: anchors.note_transaction(connection, row.number, found))
            chain.open = row = _with_transaction(row, tx_id)
            trail.anchored("submitted", row, tx_id=tx_id)
        self._step(Step.RECEIPT_BEFORE)
        receipt = await chain.gateway.receipt(tx_id)
        self._step(Step.RECEIPT_AFTER)
        if receipt is None:
            return max(0.02, chain.gateway.consensus.longest_block_interval_s / 8)
        await self._store_receipt(chain, row, receipt)
        return 0

    async def _submit(self, chain: Chain, row: AnchorRow, key: Digest) -> TxId:
        self._step(Step.SUBMIT_BEFORE)
        try:
            tx_id = await chain.gateway.submit(Anchor(chain.id, key, row.payload))
        except OutcomeUnknown:
            found = await chain.gateway.find(key)
            if found is None:
                raise
            tx_id = found
        except Rejected as error:
            await self._on_rejected(chain, key, error)
            raise
        self._step(Step.SUBMIT_AFTER)
        return tx_id

    async def _on_rejected(self, chain: Chain, key: Digest, error: Rejected) -> None:
        """The chain said no. If our key is taken, somebody else writes this log; if not, another payload may be tried."""
        logger.error("the chain rejected an anchor", extra={"chain": chain.id})
        if await chain.gateway.find(key) is None:
            chain.open, chain.submitted_end = None, chain.end
            chain.last_error = error.message

    def _verify(self, chain: Chain, receipt: ChainReceipt, key: Digest) -> ReceiptFacts:
        """What the receipt proves, by the very code that a court runs.

        Raises: VerificationError, Undecided if it does not prove this key on this chain.
        """
        facts = proofs()[chain.gateway.engine](receipt, chain.trust)
        if facts.key != key or receipt.chain != chain.id:
            raise VerificationError(f"receipt is for another key or chain than was asked (chain {chain.id})")
        return facts

    async def _store_receipt(self, chain: Chain, row: AnchorRow, receipt: ChainReceipt) -> None:
        facts = self._verify(chain, receipt, Digest(Algorithm.SM3, row.key))
        try:
            facts.check_payload(row.payload)
        except VerificationError:
            # Under our key stands another payload: an earlier one of ours that came late, or somebody else's.
            row = await self._adopt(chain, facts)
        block_ms, final_ms = _ms(receipt.block_time), _ms(self._clock())
        self._step(Step.FINAL_BEFORE)
        await self._log.write(
            lambda connection: anchors.note_receipt(
                connection, row.number, receipt=receipt.data, tx_id=receipt.tx_id, block_ms=block_ms, final_ms=final_ms
            )
        )
        self._step(Step.FINAL_AFTER)
        trail.anchored("final", row, tx_id=receipt.tx_id, height=receipt.height)
        chain.open, chain.end, chain.submitted_end = None, row.end, row.end
        chain.failures, chain.last_error = 0, ""
        await self._note_covered()

    async def _note_covered(self) -> None:
        """Learn the age of the oldest item that is not final, and tell those who wait."""
        while True:
            covered, size = self.covered, self._log.state.size
            created = await asyncio.to_thread(self._created, covered, size)
            self._oldest_ms = None if created is None else _ms(created)
            # An item sealed meanwhile found the old value standing and left it: look again, or nobody minds its promise.
            if self._log.state.size == size:
                break
        async with self._final:
            self._final.notify_all()


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _with_transaction(row: AnchorRow, tx_id: TxId) -> AnchorRow:
    values = {name: getattr(row, name) for name in AnchorRow.__slots__}
    return AnchorRow(**{**values, "tx_id": tx_id})
