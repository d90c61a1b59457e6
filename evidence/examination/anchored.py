"""Our lists of anchors: one a chain, without a hole, each payload made of our own heads and items, each receipt proven.

Walked beside the items, so that each record on the chain is held against the item it is of, and
neither is read twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from chain_gateway.port import proofs
from evidence import tables
from evidence.anchors import FINAL, OPEN, AnchorRow
from evidence.batch import moment
from evidence.examination.damage import Findings, How, Unit
from evidence.examination.ground import Ground
from evidence.examination.items import Item
from evidence.examination.kept import as_bytes, plain, raw
from evidence.store import read_checkpoint
from models.anchor import ChainReceipt, Payload, ReceiptFacts, Record, anchor_key, item_record
from models.canonical import JSONValue, beijing_seconds
from models.checkpoint import Note
from models.digest import sm3
from models.errors import EvidenceError, Undecided
from models.evidence import Evidence
from models.trust import ChainTrust

_PAGE = 16
MERKLE = "merkle"


def read_anchor(row: Any) -> AnchorRow:
    """A row of the table of anchors, whatever lies in its columns."""
    values = row._asdict()
    for name in ("key", "payload", "receipt"):
        given = plain((values[name],))[0]
        values[name] = None if given is None else as_bytes(given)
    return AnchorRow(**values)


@dataclass(slots=True)
class _Open:
    """The anchor whose range is being walked: the records not matched yet, the items that had none."""

    where: str
    end: int
    upload_time: str
    records: deque[Record]
    unmatched: list[tuple[int, bool]] = field(default_factory=list)


@dataclass(slots=True)
class ChainList:
    """One chain's list of anchors, examined in order."""

    ground: Ground
    chain: str
    first: int | None
    last_start: int
    trust: ChainTrust | None
    next_start: int = 0
    final_end: int = 0
    is_open: bool = False
    current: _Open | None = None
    handled: set[int] = field(default_factory=set)
    pages: deque[AnchorRow] = field(default_factory=deque)
    place: int = -1
    is_begun: bool = False
    is_read: bool = False
    begin: int = 0

    def __post_init__(self) -> None:
        self.begin = self.next_start = self.first or 0

    @property
    def findings(self) -> Findings:
        """Where damage is named."""
        return self.ground.findings

    # --- rows in order ----------------------------------------------------------------------------------------

    def advance(self, connection: Connection, leaf: int) -> None:
        """Every anchor whose range begins at or below `leaf` was examined, and that of `leaf` is the current one."""
        while (row := self._peek(connection)) is not None and row.start <= leaf:
            self.pages.popleft()
            if row.number not in self.handled:
                self._follow(connection, row)
        if leaf == self.next_start and self.last_start >= leaf:
            # No row of this chain begins here: the anchor's row may stand elsewhere, with its key as it was.
            moved = self._moved(connection, leaf)
            if moved is not None and moved.number not in self.handled:
                self.is_begun = True
                self._examine(connection, moved, leaf)

    def _peek(self, connection: Connection) -> AnchorRow | None:
        if not self.pages and not self.is_read:
            c = tables.anchor.c
            query = (
                select(*raw(tables.anchor))
                .where(c.chain == self.chain, c.start > self.place, c.start <= self.last_start)
                .order_by(c.start)
                .limit(_PAGE)
            )
            self.pages.extend(read_anchor(row) for row in connection.execute(query))
            self.is_read = len(self.pages) < _PAGE
            if self.pages:
                self.place = self.pages[-1].start
        return self.pages[0] if self.pages else None

    def _follow(self, connection: Connection, row: AnchorRow) -> None:
        """The row stands where the list goes on; a row that was moved is found by its key, a hole is named."""
        if not self.is_begun:
            self.is_begun = True
            self.begin = self.next_start = row.start if self.first is None else self.first
            if self.first is None:
                self.findings.add(Unit.CHAIN, self.chain, How.MISSING, "the row is absent that says where the list begins")
            elif row.start != self.first and self._moved(connection, self.first) is None and row.key == self._key(row.start):
                detail = "column first is not the start of the first anchor"
                self.findings.add(Unit.CHAIN, self.chain, How.ALTERED, detail, expected=row.start, found=self.first)
                self.begin = self.next_start = row.start
        while row.start != self.next_start:
            moved = self._moved(connection, self.next_start)
            if moved is None or moved.number in self.handled:
                break
            self._examine(connection, moved, self.next_start)
            if moved.number == row.number:
                return
        start = self._start_of(row)
        if start > self.next_start:
            detail = "the list has a hole: an anchor is absent"
            leaves = (self.next_start, start)
            self.findings.add(Unit.ANCHOR, self._where(self.next_start), How.MISSING, detail, leaves=leaves)
        elif start < self.next_start:
            detail = "the anchor overlaps the one before it"
            self.findings.add(Unit.ANCHOR, self._where(start), How.ADDED, detail)
            return
        self._examine(connection, row, start)

    def _start_of(self, row: AnchorRow) -> int:
        """Where the anchor's range begins: as its payload says, if its key says the same."""
        try:
            start = Payload.parse(row.payload).start
        except EvidenceError:
            return row.start
        return start if row.key == self._key(start) else row.start

    def _key(self, start: int) -> bytes:
        return anchor_key(self.chain, self.ground.origin, start).value

    def _moved(self, connection: Connection, start: int) -> AnchorRow | None:
        query = select(*raw(tables.anchor)).where(tables.anchor.c.key == self._key(start))
        row = connection.execute(query).first()
        return None if row is None else read_anchor(row)

    def _where(self, start: int) -> str:
        return f"{self.chain} anchor {start}"

    # --- one row ----------------------------------------------------------------------------------------------

    def _examine(self, connection: Connection, row: AnchorRow, start: int) -> None:
        self.handled.add(row.number)
        self.findings.count("anchors")
        self._close()
        where = self._where(start)
        if self.is_open:
            self.findings.add(Unit.ANCHOR, where, How.ALTERED, "an anchor stands behind one that is still open")
        facts, receipt = self._receipt(row, where)
        self.is_open = row.state == OPEN and receipt is None
        payload = self._payload(row, where, facts)
        self._compare(row, where, start, payload, receipt)
        end = row.end if payload is None else payload.end
        if payload is not None:
            self._check_heads(connection, payload, where)
            self.current = _Open(where, payload.end, payload.upload_time, deque(payload.records[1:]))
        if row.state == FINAL and payload is not None and (receipt is not None or self.trust is None):
            self.final_end = max(self.final_end, end)
        self.next_start = end if isinstance(end, int) and end > start else start + 1

    def _receipt(self, row: AnchorRow, where: str) -> tuple[ReceiptFacts | None, ChainReceipt | None]:
        """What the stored receipt proves, by the module that the verifier uses."""
        leaves = (row.start, row.end)
        if row.receipt is None:
            if row.state == FINAL:
                detail = "the anchor is final, and its receipt is absent"
                self.findings.add(Unit.RECEIPT, where, How.MISSING, detail, leaves=leaves)
            return None, None
        try:
            receipt = ChainReceipt.parse(row.receipt)
            if self.trust is None:
                return None, receipt
            facts = proofs()[self.trust.engine](receipt, self.trust)
            if (facts.key, facts.block_time, receipt.chain) != (receipt.key, receipt.block_time, self.trust.id):
                self.findings.add(Unit.RECEIPT, where, How.ALTERED, "the receipt states what its proof does not", leaves=leaves)
                return None, None
        except (EvidenceError, KeyError) as error:
            what = error.message if isinstance(error, EvidenceError) else "its engine is not installed"
            if isinstance(error, Undecided):
                what = f"its signers are not the chain's nodes: {what}"
            self.findings.add(Unit.RECEIPT, where, How.ALTERED, what, leaves=leaves)
            return None, None
        return facts, receipt

    def _payload(self, row: AnchorRow, where: str, facts: ReceiptFacts | None) -> Payload | None:
        """P as the chain proves it, else as the row holds it; a row that holds other bytes is named."""
        proven = None if facts is None or len(facts.payload) <= 64 else facts.payload
        leaves = (row.start, row.end)
        if facts is not None:
            try:
                facts.check_payload(row.payload)
            except EvidenceError:
                detail = "the stored payload is not the one that the receipt proves"
                expected = facts.payload[:32] if proven is None else sm3(proven)
                found = sm3(row.payload)
                self.findings.add(Unit.PAYLOAD, where, How.ALTERED, detail, expected=expected, found=found, leaves=leaves)
        try:
            return Payload.parse(proven or row.payload)
        except EvidenceError as error:
            self.findings.add(Unit.PAYLOAD, where, How.ALTERED, error.message, leaves=leaves)
            return None

    def _compare(self, row: AnchorRow, where: str, start: int, payload: Payload | None, receipt: ChainReceipt | None) -> None:
        """The columns are those that payload and receipt give."""
        expected: list[tuple[str, Any]] = [("chain", self.chain), ("key", self._key(start))]
        if payload is not None:
            expected += [("start", payload.start), ("end", payload.end), ("size", payload.head.size)]
            if (payload.chain, payload.head.origin) != (self.chain, self.ground.origin):
                self.findings.add(Unit.PAYLOAD, where, How.ALTERED, "the payload is of another chain or log")
        if receipt is not None:
            block_ms = round(receipt.block_time.timestamp() * 1000)
            expected += [("tx_id", receipt.tx_id), ("block_ms", block_ms), ("state", FINAL), ("key", receipt.key.value)]
        for name, wanted in expected:
            got = getattr(row, name)
            if got != wanted:
                detail = f"column {name} is not what payload and receipt give"
                self.findings.add(Unit.ANCHOR, f"{where} {name}", How.ALTERED, detail, expected=wanted, found=got)
        if row.state not in (OPEN, FINAL) or (row.state == FINAL and not isinstance(row.final_ms, int)):
            self.findings.add(Unit.ANCHOR, f"{where} state", How.ALTERED, "state and final_ms make no sense", found=row.state)

    def _check_heads(self, connection: Connection, payload: Payload, where: str) -> None:
        """The heads in P are the checkpoint we signed at that size, byte for byte; T0 has its time."""
        size, findings = payload.head.size, self.findings
        stored = read_checkpoint(connection, size=size)
        if stored is None:
            detail = "the checkpoint that an anchor carries is absent"
            findings.add(Unit.CHECKPOINT, f"size {size}", How.MISSING, detail, leaves=(size - 1, size))
            return
        for name, text, held in (("note", payload.checkpoint, stored.note), ("twin", payload.twin, stored.twin)):
            if text != held and not findings.has(Unit.CHECKPOINT, f"size {size} {name}"):
                detail = "the stored note is not the one that an anchor carries"
                findings.add(Unit.CHECKPOINT, f"size {size} {name}", How.ALTERED, detail, leaves=(size - 1, size))
        try:
            signed = min(line.time for line in Note.parse(payload.checkpoint).lines)
        except EvidenceError as error:
            findings.add(Unit.PAYLOAD, where, How.ALTERED, error.message)
            return
        if payload.records[0].create_time != beijing_seconds(moment(signed * 1000)):
            findings.add(Unit.RECORD, f"{where} T0", How.ALTERED, "CreateTime is not the T of the note's line")

    # --- records ----------------------------------------------------------------------------------------------

    def meet(self, item: Item) -> None:
        """The item's record stands in the anchor whose range holds it, in the item's order, and is what E gives."""
        current, row = self.current, item.leaf.row
        if current is None or item.index >= current.end:
            self._close()
            return
        commitment = item.evidence.commitment if item.evidence is not None else None if row is None else row.commitment
        if commitment == MERKLE:
            return
        hashes = {entry[:32] for entry in (item.leaf.made, None if row is None else row.entry) if entry}
        if item.evidence is not None:
            hashes = {item.evidence.package_hash}
        for place, record in enumerate(current.records):
            if record.package_hash in hashes:
                self._pair(current, place)
                current.records.popleft()
                if item.evidence is not None:
                    self._check_record(item, item.evidence, record, current)
                return
        current.unmatched.append((item.index, item.evidence is not None))

    def _pair(self, current: _Open, count: int) -> None:
        """The next `count` records belong to the items that had none; what does not come out even is named."""
        passed = [current.records.popleft() for _ in range(count)]
        are_paired = len(passed) == len(current.unmatched)
        for place, (index, is_read) in enumerate(current.unmatched):
            if is_read and are_paired:
                detail = "the chain holds another PackageHash for this leaf"
                expected = passed[place].package_hash
                self.findings.add(Unit.EVIDENCE, f"leaf {index}", How.ALTERED, detail, expected=expected, leaf=index)
                self.findings.lose_proof(index, index + 1)
            elif is_read:
                where = f"{current.where} leaf {index}"
                self.findings.add(Unit.RECORD, where, How.MISSING, "the range holds the item, but no record of it", leaf=index)
        for record in passed[len(current.unmatched) :]:
            where = f"{current.where} record {record.package_hash[:4].hex()}…"
            self.findings.add(Unit.RECORD, where, How.ADDED, "a record on the chain is of no item of the range")
        current.unmatched.clear()

    def _check_record(self, item: Item, evidence: Evidence, record: Record, current: _Open) -> None:
        if item.template is None or (evidence.commitment == "plaintext" and item.commitments is None):
            return
        data: Mapping[str, Sequence[str]] = {}
        if evidence.commitment == "plaintext":
            data = {stage.name: [leaf.decode() for leaf in stage.leaves] for stage in item.commitments or ()}
        made = item_record(
            biz_name=item.template.biz_name,
            stages=[(name, digests.sm3.hex(), data.get(name)) for name, digests in evidence.statement.stages],
            created_at=evidence.created_at,
            package_hash=evidence.package_hash,
            upload_time=evidence.created_at,
        )
        necessary: dict[str, JSONValue] = made["transaction_info"]["transaction_detail_info"]["necessaryData"]
        necessary["UploadTime"] = current.upload_time
        self.findings.count("records")
        if made != record.value:
            detail = "the record on the chain is not what E gives"
            self.findings.add(Unit.RECORD, f"{current.where} leaf {item.index}", How.ALTERED, detail, leaf=item.index)

    def _close(self) -> None:
        current, self.current = self.current, None
        if current is not None:
            self._pair(current, len(current.records))

    def finish(self, connection: Connection, size: int) -> None:
        """Every leaf was met: the rest of the list is examined."""
        self.advance(connection, max(size, self.last_start))
        self._close()


def name_strangers(connection: Connection, known: set[str], handled: set[int], findings: Findings) -> None:
    """Rows of anchors of chains that the log never joined are named, unless they were found to belong to another."""
    c = tables.anchor.c
    for number, chain, start in connection.execute(select(c.number, c.chain, c.start).where(c.chain.not_in(known))):
        if number not in handled:
            where = f"{str(chain)[:64]} anchor {start}"
            findings.add(Unit.ANCHOR, where, How.ADDED, "an anchor of a chain that the log never joined")
