"""What can be asked (T/SAC 004—2024 6.4.5): an item by id, many by condition, each node's own answer.

A business account sees its own subject's items only; another subject's item is "not found", so
that nobody learns from an error what exists. Contents are shown to the subject and to a court,
masked to an auditor, and to an operator not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from chain_gateway.port import ChainGateway, ChainUnavailable, LedgerReads
from evidence import anchors
from evidence import store as rows
from evidence.access import Caller, Role
from evidence.anchoring import Anchoring
from evidence.anchors import AnchorRow
from evidence.archive import Archive
from evidence.batch import link_key, moment
from evidence.blind import LINK
from evidence.contents import Contents, Opened
from evidence.criteria import MAX_PAGE, Criteria
from evidence.errors import Ambiguous, Damaged, NotFound
from evidence.keys import FindKey
from evidence.log import Log
from evidence.store import Filter, ItemRow, PartRow, Store
from models.anchor import TxId
from models.canonical import JSONValue, b64u, canonical, format_time, parse
from models.digest import pair
from models.errors import Invalid, Malformed
from models.evidence import Evidence
from models.masking import mask
from models.template import Template, builtin

MIN_PREFIX_DIGITS = 8
ERASURE = "erasure@1"


@dataclass(frozen=True, slots=True)
class NodeSet:
    """The gateways to every node of one chain."""

    chain: str
    gateways: Sequence[ChainGateway]


class Query:
    """Answers from stored bytes. All plain methods may be called from any thread."""

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        contents: Contents,
        archive: Archive,
        anchoring: Anchoring,
        nodes: Mapping[str, NodeSet],
        find_key: FindKey,
        clock: Callable[[], datetime],
    ) -> None:
        self._log, self._store, self._contents, self._archive = log, store, contents, archive
        self._anchoring, self._nodes, self._find_key, self._clock = anchoring, nodes, find_key, clock

    # --- one item ---------------------------------------------------------------------------------------------

    def find(self, name: str, caller: Caller) -> int:
        """The leaf index of the item that an id, or any unique prefix of one from 8 digits, names.

        Raises: Malformed; NotFound; Ambiguous.
        """
        digits = name.removeprefix("ev_").lower()
        if not MIN_PREFIX_DIGITS <= len(digits) <= 64 or not set(digits) <= set("0123456789abcdef"):
            raise Malformed(
                f"evidence id has wrong form: expected ev_ and 64 hex digits, or a prefix of at least {MIN_PREFIX_DIGITS}"
            )
        low, high = bytes.fromhex(digits.ljust(64, "0")), bytes.fromhex(digits.ljust(64, "f"))
        with self._store.reading() as connection:
            found = rows.find_prefix(connection, low, high, MAX_PAGE)
            mine = [row for row in rows.read_items(connection, [index for _, index in found]) if _may_see(caller, row)]
        if not mine:
            raise NotFound("no item has that id")
        if len(mine) > 1:
            raise Ambiguous(f"prefix fits {len(mine)} items: expected more digits")
        return mine[0].leaf_index

    def erasure_of(self, item: bytes) -> int:
        """The leaf index of the newest record that an item was erased.

        Raises: Damaged if there is none: then what was destroyed, no erasure destroyed.
        Source: formats §7.1.
        """
        tag = self._find_key.tag("evidence_id", f"ev_{item.hex()}")
        with self._store.reading() as connection:
            found = rows.search(connection, Filter(0, self._log.state.size, (tag,), ERASURE), 1)
        if not found:
            raise Damaged(
                f"secret of an item was destroyed, and no record of an erasure names it (ev_{item.hex()[:8]}…)",
                hint="an operator runs `evidence examine`: it names what is damaged",
            )
        return found[0].leaf_index

    def item(self, name: str, caller: Caller) -> dict[str, JSONValue]:
        """One item with its states per chain, receipts, originals, and contents as far as the caller's role shows them.

        Raises: NotFound, Ambiguous, Malformed; Erased.
        Source: interface §3; T/SAC 004—2024 6.4.5-a.
        """
        opened = self._contents.open(self.find(name, caller))
        evidence, row = opened.evidence, opened.row
        statement = evidence.statement
        shown: dict[str, JSONValue] = {
            **self._summary(row),
            "commitment": evidence.commitment,
            "evidence": evidence.data.decode(),
            "on_chain_by": format_time(evidence.on_chain_by),
            "overdue": self._is_overdue(row, evidence),
            "validated_by": evidence.validated_by,
            "signed_by": None if evidence.signature is None else evidence.signature.signer,
            "part": None if evidence.link is None else evidence.link.number,
            "link": None if statement.link is None else statement.link.to_json(),
            "stages": [{"name": stage, **digests.to_json()} for stage, digests in statement.stages],
            "originals": self._originals(opened, caller),
            "contents": _contents(opened, caller),
            "chains": self.chains_of(row.leaf_index),
        }
        return shown

    def _summary(self, row: ItemRow) -> dict[str, JSONValue]:
        return {
            "evidence_id": "ev_" + row.evidence_id.hex(),
            "leaf_index": row.leaf_index,
            "package_hash": row.entry[:32].hex(),
            "template": row.template,
            "subject": row.subject,
            "submitter": row.submitter,
            "created_at": format_time(moment(row.created_ms)),
            "occurred_at": None if row.occurred_ms is None else format_time(moment(row.occurred_ms)),
            "state": self._anchoring.state_of(row.leaf_index),
        }

    def _is_overdue(self, row: ItemRow, evidence: Evidence) -> bool:
        return row.leaf_index >= self._anchoring.covered and self._clock() > evidence.on_chain_by

    def _originals(self, opened: Opened, caller: Caller) -> list[JSONValue]:
        with self._store.reading() as connection:
            held = {o["digest"]: self._archive.is_held(connection, opened.row.evidence_id, o["digest"]) for o in opened.originals}
        shows = shows_contents(opened, caller)
        return [
            {
                "name": original["name"] if shows else None,
                "field": original["field"],
                "media_type": original["media_type"],
                "digest": original["digest"] if shows else None,
                "held": held[original["digest"]],
            }
            for original in opened.originals
        ]

    def chains_of(self, leaf_index: int) -> list[JSONValue]:
        """What each chain holds of a leaf: its anchor, transaction, block and receipt, or how far it is."""
        found: list[JSONValue] = []
        with self._store.reading() as connection:
            for chain in self._anchoring.chains.values():
                anchor = anchors.covering(connection, chain.id, leaf_index)
                found.append({"chain": chain.id, **_anchor_state(anchor)})
        return found

    # --- many items -------------------------------------------------------------------------------------------

    def search(self, criteria: JSONValue, caller: Caller) -> dict[str, JSONValue]:
        """A page of items, newest first, pinned to the tree size at which the first page was read.

        Raises: Invalid with every wrong condition; Malformed.
        Source: interface §3 (lists); T/SAC 004—2024 6.4.5-b.
        """
        asked = Criteria(criteria)
        if asked.problems:
            raise Invalid(
                f"search has {len(asked.problems)} problem{'s' if len(asked.problems) > 1 else ''}", tuple(asked.problems)
            )
        size = min(asked.size, self._log.state.size) if asked.size is not None else self._log.state.size
        with self._store.reading() as connection:
            wanted = self._filter(connection, asked, caller, size)
            total = rows.count(connection, wanted)
            stop = wanted.stop if asked.before is None else min(wanted.stop, asked.before)
            page = rows.search(connection, _with_stop(wanted, stop), asked.limit + 1)
        more = len(page) > asked.limit
        page = page[: asked.limit]
        items: list[JSONValue] = [self._summary(row) for row in page]
        answer: dict[str, JSONValue] = {
            "items": items,
            "next_cursor": _cursor(page[-1].leaf_index, size) if more else None,
            "as_of": {"tree_size": size},
            "total": total,
            "complete": "stated",
        }
        if asked.expand:
            answer["transactions"] = self._expanded(page, caller)
        return answer

    def _filter(self, connection: Connection, asked: Criteria, caller: Caller, size: int) -> Filter:
        tags = [self._find_key.tag(kind, value) for kind, value in asked.values]
        start, stop = 0, size
        occurred: tuple[int | None, int | None] = (None, None)
        since, until = asked.since, asked.until
        if asked.axis == "preserved":
            start = 0 if since is None else rows.first_created_from(connection, _ms(since), size)
            stop = size if until is None else rows.first_created_from(connection, _ms(until), size)
        elif asked.axis == "final":
            start, stop = self._final_range(connection, since, until, size)
        else:
            occurred = (None if since is None else _ms(since), None if until is None else _ms(until))
        subject = caller.subject_id if _is_bound(caller) else asked.subject
        if _is_bound(caller) and asked.subject not in (None, caller.subject_id):
            stop = start
        return Filter(start, stop, tuple(tags), asked.template, subject, *occurred)

    def _final_range(self, connection: Connection, since: datetime | None, until: datetime | None, size: int) -> tuple[int, int]:
        """Leaves that the first configured chain made final within the range: anchors are final in log order."""
        chain = next(iter(self._anchoring.chains))
        low = None if since is None else _ms(since)
        high = None if until is None else _ms(until)
        return anchors.final_between(connection, chain, low, high, size)

    def _expanded(self, page: Sequence[ItemRow], caller: Caller) -> list[JSONValue]:
        codes: dict[str, None] = {}
        for row in page:
            _, evidence = self._contents.evidence(row.leaf_index)
            if evidence.statement.link is not None:
                codes.setdefault(evidence.statement.link.code)
        return [self.transaction(code, caller) for code in codes]

    # --- links ------------------------------------------------------------------------------------------------

    def transaction(self, code: str, caller: Caller) -> dict[str, JSONValue]:
        """链式: the parts of a link in order, its stages present, missing and repeated, and whether it is closed.

        Raises: NotFound.
        Source: T/SAC 004—2024 7.2; formats §2.8; interface §3.
        """
        parts, subject = self._parts(code, caller)
        shown, present, template = [], [], None
        for part in parts:
            row, evidence = self._contents.evidence(part.leaf_index)
            names = [name for name, _ in evidence.statement.stages]
            present.extend(names)
            template = row.template
            shown.append({"part": part.part, **self._summary(row), "stages": names, "closes": part.closes})
        order = [] if template is None else [stage.name for stage in _template(template).stages]
        return {
            "link_code": code,
            "subject": subject,
            "template": template,
            "parts": shown,
            "stages": {
                "present": [name for name in order if name in present],
                "missing": [name for name in order if name not in present],
                "repeated": sorted({name for name in present if present.count(name) > 1}, key=order.index),
            },
            "head": None if not parts else parts[-1].pair.sm3.hex(),
            "closed": bool(parts) and parts[-1].closes,
            "as_of": {"tree_size": self._log.state.size},
        }

    def parts(self, code: str, caller: Caller) -> list[int]:
        """The leaf indexes of a link's parts in order. Raises: NotFound."""
        return [part.leaf_index for part in self._parts(code, caller)[0]]

    def _parts(self, code: str, caller: Caller) -> tuple[list[PartRow], str]:
        tag = self._find_key.tag(LINK, code)
        subject = caller.subject_id if _is_bound(caller) else None
        with self._store.reading() as connection:
            found = rows.search(connection, Filter(0, self._log.state.size, (tag,), subject=subject), MAX_PAGE)
            subjects = sorted({row.subject for row in found})
            if not subjects:
                raise NotFound("no item carries that link code")
            if len(subjects) > 1:
                raise Ambiguous(f"link code is used by {len(subjects)} subjects: expected a caller of one of them")
            return rows.link_parts(connection, link_key(subjects[0], code)), subjects[0]

    # --- nodes ------------------------------------------------------------------------------------------------

    async def nodes(self, name: str, caller: Caller) -> dict[str, JSONValue]:
        """Every node's own answer on the item's anchors, and which nodes differ from the others.

        Each node is asked for itself; nothing is taken from our own store but which transaction to ask for.
        Raises: NotFound, Ambiguous, Malformed.
        Source: T/SAC 004—2024 6.4.5-c.
        """
        leaf_index = self.find(name, caller)
        with self._store.reading() as connection:
            held = {chain: anchors.covering(connection, chain, leaf_index) for chain in self._nodes}
            row = rows.read_item(connection, leaf_index)
        answers: list[JSONValue] = []
        for chain, nodes in self._nodes.items():
            anchor = held[chain]
            tx = None if anchor is None or anchor.tx_id is None else TxId(anchor.tx_id)
            package = row.entry[:32] if row is not None and row.commitment != "merkle" else None
            answers.extend([await _ask(gateway, tx, package) for gateway in nodes.gateways])
        return {"evidence_id": "ev_" + (row.evidence_id.hex() if row else ""), "nodes": answers, **_compare(answers)}


async def _ask(gateway: ChainGateway, tx_id: TxId | None, package_hash: bytes | None) -> dict[str, JSONValue]:
    base: dict[str, JSONValue] = {"chain": gateway.chain_id, "node": gateway.node, "tx_id": tx_id}
    if tx_id is None:
        return {**base, "state": "absent"}
    if not isinstance(gateway, LedgerReads):
        return {**base, "state": "not-offered"}
    try:
        found = await gateway.transaction(tx_id)
    except ChainUnavailable as error:
        return {**base, "state": "unavailable", "detail": error.message}
    if found is None:
        return {**base, "state": "absent"}
    answer: dict[str, JSONValue] = {
        **base,
        "state": "present",
        "height": found.block.height,
        "block": found.block.hash,
        "sender": found.sender,
        "payload": pair(found.payload).to_json(),
    }
    if package_hash is not None:
        answer["package_hash"] = package_hash.hex() if package_hash.hex().encode() in found.payload else None
    return answer


def _compare(answers: Sequence[JSONValue]) -> dict[str, JSONValue]:
    """Whether all nodes of each chain say the same, and which do not say what most say."""
    differing: list[JSONValue] = []
    for chain in dict.fromkeys(answer["chain"] for answer in answers):
        said = {
            answer["node"]: canonical({name: value for name, value in answer.items() if name not in ("node", "detail")})
            for answer in answers
            if answer["chain"] == chain
        }
        most = max(said.values(), key=lambda text: sum(other == text for other in said.values()))
        differing.extend({"chain": chain, "node": node} for node, text in said.items() if text != most)
    return {"agree": not differing, "differing": differing}


def _anchor_state(anchor: AnchorRow | None) -> dict[str, JSONValue]:
    if anchor is None:
        return {"state": "promised", "range": None, "tx_id": None, "height": None, "block_time": None, "receipt": None}
    receipt = None if anchor.receipt is None else parse(anchor.receipt, max_bytes=4 << 20)
    return {
        "state": "final" if anchor.state == anchors.FINAL else "submitted",
        "range": [anchor.start, anchor.end],
        "tx_id": anchor.tx_id,
        "height": None if receipt is None else receipt["height"],
        "block_time": None if receipt is None else receipt["block_time"],
        "receipt": receipt,
    }


def _is_bound(caller: Caller) -> bool:
    """Whether the caller sees its own subject's items only."""
    return not caller.roles & {Role.AUDITOR, Role.COURT, Role.OPERATOR} or caller.roles <= {Role.BUSINESS}


def _may_see(caller: Caller, row: ItemRow) -> bool:
    return not _is_bound(caller) or row.subject == caller.subject_id


def shows_contents(opened: Opened, caller: Caller) -> bool:
    """Whether the caller sees contents in clear: a court, or the item's own subject."""
    own = Role.BUSINESS in caller.roles and opened.row.subject == caller.subject_id
    return own or Role.COURT in caller.roles


def _contents(opened: Opened, caller: Caller) -> JSONValue:
    """Field values as the caller's role shows them: in clear, masked, or not at all."""
    if opened.stages is None:
        return None
    if shows_contents(opened, caller):
        return dict(opened.stages)
    if Role.AUDITOR not in caller.roles:
        return None
    shown: dict[str, JSONValue] = {}
    for name, values in opened.stages.items():
        fields = opened.template.by_name[name].by_name
        shown[name] = {field: None if value is None else mask(fields[field], value) for field, value in values.items()}
    return shown


def _template(name: str) -> Template:
    return builtin(name)


def _ms(at: datetime) -> int:
    return round(at.astimezone(UTC).timestamp() * 1000)


def _with_stop(wanted: Filter, stop: int) -> Filter:
    values = {name: getattr(wanted, name) for name in Filter.__slots__}
    return Filter(**{**values, "stop": stop})


def _cursor(before: int, size: int) -> str:
    return b64u(canonical([before, size]))
