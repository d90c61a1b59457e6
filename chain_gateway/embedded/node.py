"""One node of the embedded ledger: its key, its copy of the chain, and what it answers from that copy alone.

A node believes nobody: it re-does each block before it seals it, and each block of a peer before
it takes it over. A copy that contradicts itself takes the node out of service with the height
named; nothing of it is answered from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from chain_gateway.embedded.chainfile import SPACE_ERRORS, ChainFile, Disk, Failpoint, NotStored, Step
from chain_gateway.embedded.config import ChainConfig, open_blocks, open_key
from chain_gateway.embedded.contract import Draft, State
from chain_gateway.embedded.proof import NO_PARENT, Header, Seal, Transaction, verify_block
from chain_gateway.embedded.stored import StoredBlock, final_line, read_final, read_sealed, sealed_line, tx_root
from chain_gateway.port import ChainUnavailable, Damage, Rejected
from models.anchor import BlockRef
from models.errors import EvidenceError, Malformed, VerificationError
from models.signature import SM2Signer, verify

_BLOCK_STEPS = (Step.BEFORE_BLOCK_WRITE, Step.AFTER_BLOCK_WRITE, Step.AFTER_BLOCK_FLUSH)
_FINAL_STEPS = (Step.BEFORE_FINAL_WRITE, Step.AFTER_FINAL_WRITE, Step.AFTER_FINAL_FLUSH)
CACHED_BLOCKS = 4


class Condition(StrEnum):
    """Whether a node answers: it is up, was stopped from outside, met a disk error, or holds a damaged copy."""

    UP = "up"
    DOWN = "down"
    STOPPED = "stopped"
    FULL = "full"
    DAMAGED = "damaged"


class Outcome(StrEnum):
    """What became of a block at one node."""

    SEALED = "sealed"
    NOT_STORED = "not-stored"
    MAY_BE_STORED = "may-be-stored"


class Place(NamedTuple):
    """Where a final block lies in the file, and what of it is kept in memory."""

    place: int
    size: int
    final_place: int
    final_size: int
    id: str
    time: datetime
    tx_count: int


class Node:
    """One node. All methods that write are called by the ledger under its lock; reads may run beside them."""

    def __init__(self, number: int, folder: Path, config: ChainConfig, *, disk: Disk | None, step: Failpoint) -> None:
        self.number = number
        self._folder = folder
        self._config = config
        self._disk = disk
        self._step = step
        self._file: ChainFile | None = None
        self._signer: SM2Signer | None = None
        self._reset()
        self.condition = Condition.DOWN
        self.detail = "not started"
        self.damage: Damage | None = None

    def _reset(self) -> None:
        self.state = State(self._config.rules)
        self.places: list[Place] = []
        self._index: dict[bytes, tuple[int, int]] = {}
        self._cache: dict[int, StoredBlock] = {}
        self.locked: StoredBlock | None = None
        self._locked_place = (0, 0)
        self.rest = b""
        self._end = 0

    # -- starting and stopping

    @property
    def is_up(self) -> bool:
        """Whether the node answers and seals."""
        return self.condition is Condition.UP

    @property
    def id(self) -> str:
        """The node as its seals name it."""
        return self._config.ids[self.number]

    @property
    def height(self) -> int:
        """The height of its newest final block; −1 if it holds none."""
        return len(self.places) - 1

    def start(self) -> None:
        """The copy is read and, as far as digests go, checked; the node is up, or damaged and says where."""
        self.stop(Condition.DOWN, "starting")
        self._reset()
        self.damage = None
        try:
            if self._disk is not None:
                self._signer = open_key(self._folder, self.number)
                if self._signer.public_key != self._config.keys[self.number]:
                    raise Malformed("key of the node is not the one the chain was made with")
            self._file = open_blocks(self._folder, self.number, disk=self._disk)
        except (OSError, EvidenceError) as error:
            what = error.message if isinstance(error, EvidenceError) else f"cannot be opened: {error.strerror}"
            self.hurt(None, what)
            return
        self.condition, self.detail = Condition.UP, ""
        self.scan()

    def stop(self, condition: Condition, detail: str) -> None:
        """The node answers no more; nothing is written or flushed on the way out."""
        self.condition, self.detail = condition, detail
        self.close()

    def hurt(self, height: int | None, what: str) -> None:
        """The copy is damaged there: the node answers no more until it is repaired."""
        self.damage = Damage(self.number, height, what)
        where = "" if height is None else f" at height {height}"
        # The handle stays open until the ledger stops the node: a reader may be here, beside a writer.
        self.condition, self.detail = Condition.DAMAGED, f"node {self.number} is damaged{where}: {what}"

    def close(self) -> None:
        """The handle is given back; what is known of the node's damage stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def failed(self, error: OSError) -> None:
        """A write or flush failed: the handle is dropped, whatever it may hold."""
        condition = Condition.FULL if error.errno in SPACE_ERRORS else Condition.STOPPED
        self.stop(condition, f"node {self.number} met a disk error: {error.strerror}")

    def resume(self) -> None:
        """After a full disk: what was not durable is cut off through a new handle, and the node is up.

        Raises: OSError if the disk still refuses.
        """
        durable = self._end if self.locked is None else sum(self._locked_place)
        self._file = open_blocks(self._folder, self.number, disk=self._disk)
        self._file.cut(durable, step=self._step)
        self.condition, self.detail = Condition.UP, ""

    def _chain(self) -> ChainFile:
        if self._file is None or not self.is_up:
            raise ChainUnavailable(self.detail or f"node {self.number} is down")
        return self._file

    # -- reading its file

    def refresh(self) -> None:
        """What another process wrote meanwhile is taken in; only nodes open for reading need it."""
        file = self._file
        try:
            if file is None or file.is_replaced() or file.size() < self._end:
                self.start()
            elif self.is_up and file.size() > self._end:
                self.scan()
        except OSError:
            self.start()

    def scan(self) -> None:
        """Everything final behind what is already known is taken in; what follows it is `locked` and `rest`."""
        self.locked, self.rest, known = None, b"", self._end
        height = len(self.places)
        try:
            for place, line in self._chain().lines(self._end):
                height = len(self.places)
                if place < 0:
                    self.rest = line
                elif self.locked is None:
                    self.locked = self._replay(read_sealed(line))
                    self._locked_place = (place, len(line) + 1)
                else:
                    self._close_block(place, line)
            if self.places and self._end > known:
                self._check_head()
            self._chain().durable = self._end if self.locked is None else sum(self._locked_place)
        except EvidenceError as error:
            self.hurt(height, error.message)
        except OSError as error:
            self.hurt(height, f"cannot be read: {error.strerror}")

    def _replay(self, block: StoredBlock) -> StoredBlock:
        self._check_place(block.header)
        if tx_root(block.transactions) != block.header.tx_root or len(block.transactions) != block.header.tx_count:
            raise Malformed("transactions are not those of the header's tx_root")
        draft = self.state.draft(block.header.height)
        for tx_id, text in zip(block.tx_ids(), block.transactions, strict=True):
            draft.replay(tx_id, text)
        if draft.state_root() != block.header.state_root:
            raise Malformed("state is not that of the header's state_root")
        self._draft = draft
        return block

    def _close_block(self, place: int, line: bytes) -> None:
        height, seals = read_final(line)
        block = self.locked
        if block is None or height != block.header.height:
            raise Malformed("stored seals are those of another height")
        if len(seals) < self._config.quorum or any(seal.node not in self._config.ids for seal in seals):
            raise Malformed("stored seals are no quorum of the chain's nodes")
        self._take(block._replace(seals=seals), place, len(line) + 1)

    def _take(self, block: StoredBlock, final_place: int, final_size: int) -> None:
        """`block`, which is locked, is final: index and state follow."""
        header = block.header
        self.state.commit(self._draft)
        for index, tx_id in enumerate(block.tx_ids()):
            self._index[bytes.fromhex(tx_id)] = (header.height, index)
        self.places.append(Place(*self._locked_place, final_place, final_size, header.id, header.time, header.tx_count))
        self._end = final_place + final_size
        self.locked = None
        self._remember(block)

    def _remember(self, block: StoredBlock) -> None:
        if len(self._cache) >= CACHED_BLOCKS:
            self._cache.pop(next(iter(self._cache)))
        self._cache[block.header.height] = block

    def _check_head(self) -> None:
        """The seals of the newest block are good: an older block is held by the ids after it."""
        self._cache.clear()
        block = self.block(self.height)
        if block is None or block.seals is None:
            raise Malformed("newest block has no seals")
        self.check_seals(block.header, block.seals)

    def check_seals(self, header: Header, seals: Sequence[Seal]) -> None:
        """A quorum of the chain's nodes sealed this header.

        Raises: VerificationError, Undecided.
        """
        proof = {"header": header.data.decode(), "seals": [seal.to_json() for seal in seals]}
        verify_block(proof, BlockRef(header.chain, header.height, header.id), self._config.trust)

    def _check_place(self, header: Header) -> None:
        """The header follows this node's newest block.

        Raises: VerificationError if not.
        """
        head = self.places[-1] if self.places else None
        parent = NO_PARENT if head is None else head.id
        if header.chain != self._config.chain or header.nodes != self._config.nodes:
            raise VerificationError("block is of another chain or of other nodes")
        if header.height != len(self.places) or header.parent != parent:
            raise VerificationError("block does not follow the one before it")
        if head is not None and header.time < head.time:
            raise VerificationError("time of the block is before that of its parent")

    # -- taking part

    def redo(self, header: Header, transactions: Sequence[str]) -> Draft:
        """The block follows, and the contract takes every transaction of it and gives its state.

        Raises: VerificationError, Malformed, Rejected.
        """
        self._check_place(header)
        if len(transactions) != header.tx_count or tx_root(transactions) != header.tx_root:
            raise VerificationError("transactions are not those of the header's tx_root")
        draft = self.state.draft(header.height)
        for text in transactions:
            draft.apply(Transaction.parse(text.encode()))
        if draft.state_root() != header.state_root:
            raise VerificationError("state is not that of the header's state_root")
        return draft

    def accept(self, header: Header, transactions: Sequence[str]) -> Outcome:
        """The node has re-done the block, sealed it and stored both durably: from now on its seal counts."""
        if self.locked is not None and self.locked.header.id == header.id:
            if self.locked.own_seal is not None:
                return Outcome.SEALED
            # It was being taken over from a peer that is gone: no receipt has shown that peer's seals.
            self.unlock()
        if self._signer is None or self.locked is not None or not self.is_up:
            return Outcome.NOT_STORED
        try:
            draft = self.redo(header, transactions)
        except (VerificationError, Malformed, Rejected) as error:
            self.hurt(header.height, f"refuses what its peers propose: {error.message}")
            return Outcome.NOT_STORED
        seal = Seal(self.id, self._signer.sign(header.data))
        return self._store(StoredBlock(header, tuple(transactions), seal, None), draft)

    def _store(self, block: StoredBlock, draft: Draft) -> Outcome:
        line = sealed_line(block.header.data.decode(), block.transactions, block.own_seal)
        try:
            place = self._chain().append(line, steps=_BLOCK_STEPS, step=self._step)
        except NotStored as error:
            self.failed(error)
            return Outcome.NOT_STORED
        except OSError as error:
            self.failed(error)
            return Outcome.MAY_BE_STORED
        self.locked, self._locked_place, self._draft = block, (place, len(line)), draft
        return Outcome.SEALED

    def finalise(self, seals: Sequence[Seal]) -> bool:
        """The locked block is final with exactly these seals, durably; False if the disk refused."""
        block = self.locked
        if block is None:
            return False
        line = final_line(block.header.height, seals)
        try:
            place = self._chain().append(line, steps=_FINAL_STEPS, step=self._step)
        except OSError as error:
            self.failed(error)
            return False
        self._take(block._replace(seals=tuple(seals)), place, len(line))
        return True

    def take_over(self, block: StoredBlock) -> bool:
        """A peer's final block is re-done and stored without a seal of this node; False if the disk refused.

        Raises: VerificationError, Undecided, Malformed, Rejected if the block is not good.
        Source: T/SAC 004—2024 4.1.3 a), b), f).
        """
        seals = block.seals or ()
        self.check_seals(block.header, seals)
        if self.locked is not None and self.locked.header.id != block.header.id:
            self.unlock()
        if self.locked is None:
            draft = self.redo(block.header, block.transactions)
            if self._store(block._replace(own_seal=None, seals=None), draft) is not Outcome.SEALED:
                return False
        return self.finalise(seals)

    def unlock(self) -> None:
        """A locked block that never became final is cut off, because another one did at its height."""
        try:
            self._chain().cut(self._end, step=self._step)
        except OSError as error:
            self.failed(error)
        self.locked = None

    def mend(self) -> None:
        """What follows the last whole line is cut off, and the last block is written and flushed again."""
        try:
            file = self._chain()
            end = self._end if self.locked is None else sum(self._locked_place)
            if self.rest:
                file.cut(end, step=self._step)
                self.rest = b""
            file.rewrite(self.places[-1].place if self.places else 0)
        except OSError as error:
            self.failed(error)

    def reseal(self, seals: Sequence[Seal]) -> None:
        """The newest block's seals are replaced by those its peers hold: no receipt had shown the old ones."""
        last = self.places[-1]
        try:
            self._chain().cut(last.final_place, step=self._step)
            line = final_line(self.height, seals)
            self._chain().append(line, steps=_FINAL_STEPS, step=self._step)
        except OSError as error:
            self.failed(error)
            return
        self.places[-1] = last._replace(final_size=len(line))
        self._end = last.final_place + len(line)
        self._cache.clear()

    # -- answering from its own copy

    def locate(self, tx_id: str) -> tuple[int, int] | None:
        """Height and index of a final transaction."""
        try:
            return self._index.get(bytes.fromhex(tx_id))
        except ValueError:
            return None

    def block(self, height: int) -> StoredBlock | None:
        """The final block at `height`, read from the file and compared with what is known of it.

        Raises: ChainUnavailable if the node is down or its copy is damaged there.
        """
        if not 0 <= height < len(self.places):
            return None
        cached = self._cache.get(height)
        if cached is not None and self.is_up:
            return cached
        try:
            block = self._read_block(self.places[height])
            self.check_seals(block.header, block.seals or ())
        except (EvidenceError, OSError) as error:
            if not self.is_up or isinstance(error, ChainUnavailable):
                raise ChainUnavailable(self.detail) from error
            what = error.message if isinstance(error, EvidenceError) else f"cannot be read: {error.strerror}"
            self.hurt(height, what)
            raise ChainUnavailable(self.detail) from error
        self._remember(block)
        return block

    def _read_block(self, where: Place) -> StoredBlock:
        file = self._chain()
        block = read_sealed(file.read(where.place, where.size)[:-1])
        _, seals = read_final(file.read(where.final_place, where.final_size)[:-1])
        if block.header.id != where.id or tx_root(block.transactions) != block.header.tx_root:
            raise Malformed("block is not the one that was stored")
        return block._replace(seals=seals)

    def seals_at(self, height: int) -> bytes:
        """The line that fixes the seals of a final block, as it stands in the file; empty if it cannot be read."""
        where = self.places[height]
        try:
            return self._chain().read(where.final_place, where.final_size)
        except (ChainUnavailable, OSError):
            return b""

    def check_key(self) -> None:
        """The node's key is there and is the one the chain was made with; else the node is damaged."""
        try:
            if open_key(self._folder, self.number).public_key != self._config.keys[self.number]:
                self.hurt(None, "key of the node is not the one the chain was made with")
        except (OSError, EvidenceError):
            self.hurt(None, "key of the node cannot be read")

    def redo_all(self, judged: set[StoredBlock]) -> None:
        """Every block of the copy is re-done with every signature; damage is kept with its height.

        `judged` holds blocks that were re-done already for another node, down to the last byte of
        transactions and seals, and gets those re-done here: their signatures are not judged twice.

        Source: T/SAC 004—2024 4.1.1 d), 4.1.3 e), 6.4.3 d).
        """
        copied, self.state, self.places = self.places, State(self._config.rules), []
        height = 0
        try:
            for where in copied:
                height = len(self.places)
                block = self._read_block(where)
                shared = block._replace(own_seal=None, transactions=())
                if shared in judged:
                    self._replay(block)
                else:
                    self._draft = self.redo(block.header, block.transactions)
                    self.check_seals(block.header, block.seals or ())
                    judged.add(shared)
                if block.own_seal is not None:
                    self._check_own_seal(block.header, block.own_seal)
                self.state.commit(self._draft)
                self.places.append(where)
        except (EvidenceError, OSError) as error:
            what = error.message if isinstance(error, EvidenceError) else f"cannot be read: {error.strerror}"
            self.hurt(height, what)

    def _check_own_seal(self, header: Header, seal: Seal) -> None:
        if seal.node != self.id:
            raise Malformed("stored seal is not this node's")
        verify(self._config.keys[self.number], header.data, seal.value)
