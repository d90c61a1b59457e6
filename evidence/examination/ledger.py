"""The chains themselves: every node's own copy, each node's answer on every anchor, and the chain's list against ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from chain_gateway.port import (
    ChainGateway,
    ChainUnavailable,
    LedgerCheck,
    LedgerReads,
    engine_module,
    engine_of,
    open_gateway,
    proofs,
)
from evidence import tables
from evidence.anchors import FINAL, AnchorRow
from evidence.examination.anchored import read_anchor
from evidence.examination.damage import Findings, How, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import raw
from evidence.examination.snapshot import Snapshot
from evidence.home import chain_trust
from models.anchor import Payload, TxId, anchor_key
from models.digest import Digest, pair, sm3
from models.errors import EvidenceError
from models.trust import ChainTrust

MAX_NODES = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node says of one transaction."""

    tx_id: TxId
    payload: bytes
    height: int
    block: str

    def carries(self, payload: bytes) -> bool:
        """Whether the transaction carries `payload`, or its two digests (formats §4.3)."""
        digests = pair(payload)
        return self.payload == payload or self.payload == digests.sm3 + digests.sha256


@dataclass(slots=True)
class Nodes:
    """One chain: a gateway to each of its nodes, and what a verifier believes of it."""

    url: str
    chain: str
    gateways: list[ChainGateway]
    trust: ChainTrust
    hurt: set[int] = field(default_factory=set)

    @property
    def healthy(self) -> list[ChainGateway]:
        """Gateways to nodes whose copies are whole, as far as is known."""
        return [gateway for gateway in self.gateways if gateway.node not in self.hurt]

    async def close(self) -> None:
        """Every gateway is closed."""
        for gateway in self.gateways:
            await gateway.aclose()


async def open_nodes(ground: Ground) -> dict[str, Nodes]:
    """Every configured chain by its id, each node's copy examined; a chain out of reach is noted, in the home it is damaged."""
    found: dict[str, Nodes] = {}
    for url in ground.settings.chains:
        gateways: list[ChainGateway] = []
        why = ""
        while len(gateways) < MAX_NODES and not why:
            try:
                gateway = await open_gateway(url, node=len(gateways), home=ground.settings.home, clock=ground.clock)
                gateways.append(gateway)
            except ChainUnavailable as error:
                why = error.message
        if not gateways:
            _note_unreachable(ground, url, why)
            continue
        chain = gateways[0].chain_id
        nodes = Nodes(url, chain, gateways, chain_trust(gateways[0].trust(), first=0))
        found[chain] = nodes
        await _check_copies(ground, nodes)
    return found


def _note_unreachable(ground: Ground, url: str, why: str) -> None:
    name = engine_of(url)
    if hasattr(engine_module(name), "create"):
        ground.findings.add(Unit.NODE, f"{name} ledger", How.UNREADABLE, why)
    else:
        ground.findings.out_of_reach.append(f"chain of engine {name}: {why}")


async def _check_copies(ground: Ground, nodes: Nodes) -> None:
    gateway = nodes.gateways[0]
    if not isinstance(gateway, LedgerCheck):
        return
    for damage in await gateway.check():
        nodes.hurt.add(damage.node)
        height = "" if damage.height is None else f" height {damage.height}"
        ground.findings.add(Unit.NODE, f"{nodes.chain} node {damage.node}{height}", How.ALTERED, damage.what)


class Comparison:
    """One chain's own list of anchors, walked by its keys and held against our rows and each node's answer."""

    def __init__(self, ground: Ground, nodes: Nodes, snapshot: Snapshot, first: int, progress: Callable[[int], None]) -> None:
        self._ground, self._nodes, self._snapshot = ground, nodes, snapshot
        self._first, self._progress = first, progress

    @property
    def _findings(self) -> Findings:
        return self._ground.findings

    async def run(self) -> None:
        """The list was walked to its end, and our final anchors that it lacks are named."""
        healthy, place, done = self._nodes.healthy, self._first, 0
        if not healthy:
            self._findings.not_checked[f"anchors on chain {self._nodes.chain}: no node's copy is whole"] = None
            return
        try:
            while (answer := await self._answer(healthy[0], place)) is not None:
                end = self._compare_row(place, answer)
                for gateway in healthy[1:]:
                    await self._compare_node(gateway, place, answer)
                done += 1
                self._progress(done)
                if end is None:
                    return
                place = end
        except ChainUnavailable as error:
            self._findings.out_of_reach.append(f"chain {self._nodes.chain} from leaf {place} on: {error.message}")
            return
        self._name_lacking(place)

    async def _answer(self, gateway: ChainGateway, start: int) -> Answer | None:
        key = anchor_key(self._nodes.chain, self._ground.origin, start)
        tx_id = await gateway.find(key)
        if tx_id is None:
            return None
        if isinstance(gateway, LedgerReads):
            held = await gateway.transaction(tx_id)
            return None if held is None else Answer(tx_id, held.payload, held.block.height, held.block.hash)
        return await self._proven(gateway, tx_id, key)

    async def _proven(self, gateway: ChainGateway, tx_id: TxId, key: Digest) -> Answer | None:
        receipt = await gateway.receipt(tx_id)
        if receipt is None:
            return None
        facts = proofs()[gateway.engine](receipt, self._nodes.trust)
        if facts.key != key:
            return None
        return Answer(tx_id, facts.payload, receipt.height, "")

    def _compare_row(self, start: int, answer: Answer) -> int | None:
        """Our row of the anchor is the one on the chain; gives where the next begins."""
        # Read after the chain's answer: the intent is written before the chain hears of it.
        row = self._row(start)
        where, findings = f"{self._nodes.chain} anchor {start}", self._findings
        end = _end_of(answer.payload)
        if row is None:
            leaves = None if end is None else (start, end)
            findings.add(Unit.ANCHOR, where, How.MISSING, "the chain holds this anchor, our list does not", leaves=leaves)
            return end
        if not answer.carries(row.payload):
            detail = "the stored payload is not the one on the chain"
            found = sm3(row.payload)
            findings.add(Unit.PAYLOAD, where, How.ALTERED, detail, expected=sm3(answer.payload), found=found)
        if row.tx_id is not None and row.tx_id != answer.tx_id:
            detail = "column tx_id is not the transaction on the chain"
            findings.add(Unit.ANCHOR, f"{where} tx_id", How.ALTERED, detail, expected=answer.tx_id[:8], found=row.tx_id[:8])
        return end if end is not None else row.end

    def _row(self, start: int) -> AnchorRow | None:
        key = anchor_key(self._nodes.chain, self._ground.origin, start).value
        c = tables.anchor.c
        with self._ground.store.reading() as connection:
            ours = (c.chain == self._nodes.chain) & (c.start == start)
            found = connection.execute(select(*raw(tables.anchor)).where(ours | (c.key == key)).limit(1)).first()
        return None if found is None else read_anchor(found)

    async def _compare_node(self, gateway: ChainGateway, start: int, expected: Answer) -> None:
        """Another node answers the same, or is only behind."""
        where = f"{self._nodes.chain} node {gateway.node} height {expected.height}"
        try:
            answer = await self._answer(gateway, start)
            if answer is None and (await gateway.head()).height < expected.height:
                return
        except ChainUnavailable as error:
            self._findings.out_of_reach.append(f"chain {self._nodes.chain} node {gateway.node}: {error.message}")
            self._nodes.hurt.add(gateway.node)
            return
        except EvidenceError as error:
            self._findings.add(Unit.NODE, where, How.ALTERED, error.message)
            return
        if answer is None:
            self._findings.add(Unit.NODE, where, How.MISSING, "the node lacks a transaction that its peers hold")
        elif answer != expected:
            detail = "the node answers another transaction or block than its peers"
            wanted, found = sm3(expected.payload), sm3(answer.payload)
            self._findings.add(Unit.NODE, where, How.ALTERED, detail, expected=wanted, found=found)

    def _name_lacking(self, place: int) -> None:
        """Anchors that are final in our list and stand behind the end of the chain's."""
        c = tables.anchor.c
        newest = self._snapshot.last_anchor.get(self._nodes.chain, -1)
        query = select(c.start, c.end).where(c.chain == self._nodes.chain, c.start >= place, c.start <= newest, c.state == FINAL)
        if self._snapshot.final_end.get(self._nodes.chain, 0) <= place:
            return
        with self._ground.store.reading() as connection:
            for start, end in connection.execute(query.order_by(c.start).limit(100)):
                where = f"{self._nodes.chain} anchor {start}"
                detail = "the anchor is final in our list, and the chain does not hold it"
                self._findings.add(Unit.ANCHOR, where, How.ADDED, detail, leaves=(start, end))


def _end_of(payload: bytes) -> int | None:
    try:
        return Payload.parse(payload).end
    except EvidenceError:
        return None


def name_unnamed(ground: Ground, snapshot: Snapshot, chains: Sequence[str]) -> None:
    """Chains that the log is anchored on and the settings no longer name cannot be compared."""
    for chain in sorted(snapshot.firsts):
        if chain not in chains and not ground.findings.out_of_reach and not _has_ledger_damage(ground.findings):
            detail = "the log is anchored on a chain that EVIDENCE_CHAINS does not name"
            ground.findings.add(Unit.SETTING, "EVIDENCE_CHAINS", How.ALTERED, detail, expected=chain)


def _has_ledger_damage(findings: Findings) -> bool:
    return any(damage.unit is Unit.NODE for damage in findings.damages.values())
