"""Every item, re-derived from its stored bytes: its row, its content, its link, and the rows it gives to other tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select, type_coerce
from sqlalchemy.types import NullType

from evidence import tables
from evidence.batch import idempotency_key, link_key
from evidence.blind import LINK, item_tags
from evidence.content import open_content
from evidence.contents import MAX_CONTENT_BYTES, template_of
from evidence.errors import Erased, NotFound
from evidence.examination.acts import ISSUE_TEMPLATE, check_issue
from evidence.examination.damage import Findings, How, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import Give, as_bytes, plain
from evidence.examination.leaves import Leaf
from evidence.examination.streamed import TEMPLATES, check_streamed
from evidence.examination.unwrapping import Secrets
from models.canonical import JSONValue, parse
from models.commitment import StageCommitment, commit
from models.errors import EvidenceError
from models.evidence import Evidence
from models.template import Template

CONFLICT_TEMPLATE, ERASURE_TEMPLATE, KEY_TEMPLATE = "conflict@1", "erasure@1", "log-key@1"
SERVICE_ACCOUNT = "service"
_CONFLICT_KEY = re.compile(r"conflict-([0-9a-f]{32})-([0-9a-f]{32})", re.ASCII)
_COLUMNS = ("evidence_id", "template", "subject", "submitter", "commitment", "created_ms", "occurred_ms")
_PERSONAL = frozenset({"subject", "submitter"})
_PER_QUERY = 400


@dataclass(slots=True)
class Item:
    """One item as far as it could be read: its leaf, template, secret, and the stages as its content commits them.

    `issued` is what the record of an issuance says.
    """

    leaf: Leaf
    identity: bytes
    template: Template | None = None
    secret: bytes | None = None
    originals: Sequence[Mapping[str, JSONValue]] = ()
    commitments: Sequence[StageCommitment] | None = None
    issued: JSONValue = None

    @property
    def index(self) -> int:
        """Where it stands in the log."""
        return self.leaf.index

    @property
    def evidence(self) -> Evidence | None:
        """E, if it can be believed."""
        return self.leaf.evidence


@dataclass(slots=True)
class Facts:
    """What the whole log says besides: erasures, key changes, the service's own subject."""

    erased: dict[str, tuple[int, Unit]] = field(default_factory=dict)
    left_over: dict[str, list[Unit]] = field(default_factory=dict)
    erasures: set[str] = field(default_factory=set)
    unread: set[int] = field(default_factory=set)
    keys_changed: bool = False
    subject: tuple[str, str] | None = None


@dataclass(slots=True)
class Items:
    """Examines items; `give` takes the rows that they give to other tables."""

    ground: Ground
    secrets: Secrets
    facts: Facts = field(default_factory=Facts)

    @property
    def findings(self) -> Findings:
        """Where damage is named."""
        return self.ground.findings

    def examine(self, connection: Connection, leaves: Sequence[Leaf], give: Give) -> list[Item]:
        """These leaves' items, examined, in order."""
        items = [Item(leaf, _identity(leaf)) for leaf in leaves]
        contents = _contents(connection, leaves[0].index, leaves[-1].index + 1) if leaves else {}
        wanted = {item.identity: item.index for item in items if item.identity and self._has_content(item)}
        secrets = self.secrets.of(wanted)
        for item in items:
            if item.evidence is None:
                self.facts.unread.add(item.index)
            else:
                self._check_row(item, item.evidence)
                self._note(item, item.evidence)
                give_rows(item.index, item.evidence, give)
            self._check_content(item, contents.get(item.index), secrets.get(item.identity), give)
            if item.evidence is not None and item.evidence.statement.template_name in TEMPLATES:
                check_streamed(connection, item.index, item.evidence.statement, self.findings)
            if item.evidence is not None and item.issued is not None:
                check_issue(connection, item.index, item.evidence, item.issued, self.findings)
        self._check_links(connection, items)
        return items

    # --- the row beside E -------------------------------------------------------------------------------------

    def _check_row(self, item: Item, evidence: Evidence) -> None:
        """The columns beside E are what E says, and E is of this log."""
        statement, where = evidence.statement, f"leaf {item.index}"
        occurred = None if statement.occurred_at is None else round(statement.occurred_at.timestamp() * 1000)
        expected = (
            item.identity,
            statement.template_name,
            statement.subject_id,
            statement.submitter,
            evidence.commitment,
            round(evidence.created_at.timestamp() * 1000),
            occurred,
        )
        for name, wanted in zip(_COLUMNS, expected, strict=True):
            got = getattr(item.leaf.row, name)
            if got != wanted:
                told = (None, None) if name in _PERSONAL else (wanted, got)
                self.findings.add(
                    Unit.COLUMN,
                    f"{where} {name}",
                    How.ALTERED,
                    f"column {name} is not what E says",
                    expected=told[0],
                    found=told[1],
                    leaf=item.index,
                )
        if self.ground.origin and statement.log != self.ground.origin:
            self.findings.add(Unit.EVIDENCE, where, How.ALTERED, "E is of another log", leaf=item.index)

    def _note(self, item: Item, evidence: Evidence) -> None:
        statement, facts, where = evidence.statement, self.facts, f"leaf {item.index}"
        facts.keys_changed = facts.keys_changed or statement.template_name == KEY_TEMPLATE
        if statement.submitter == SERVICE_ACCOUNT:
            facts.subject = statement.subject_id, statement.subject_name
        try:
            item.template = template_of(evidence)
        except EvidenceError as error:
            self.findings.add(Unit.TEMPLATE, statement.template_name[:64], How.ALTERED, error.message, leaf=item.index)
            return
        if item.template.commitment.value != evidence.commitment:
            detail = "commitment of E is not that of its template"
            self.findings.add(Unit.EVIDENCE, f"{where} commitment", How.ALTERED, detail, leaf=item.index)

    # --- content ----------------------------------------------------------------------------------------------

    @staticmethod
    def _has_content(item: Item) -> bool:
        return item.evidence is None or item.evidence.validated_by == "platform"

    def _check_content(self, item: Item, sealed: bytes | None, secret: bytes | EvidenceError | None, give: Give) -> None:
        """Secret and ciphertext are there, open, and give the very stages that S commits to; a sealed item has neither."""
        where, row = f"leaf {item.index}", item.leaf.row
        if not self._has_content(item):
            if sealed is not None:
                detail = "content of an item whose contents stayed with its submitter"
                self.findings.add(Unit.CONTENT, where, How.ADDED, detail, leaf=item.index)
            self._give_tags(item, {}, give)
        elif row is None:
            if sealed is not None:
                self.findings.undisclosable.add(item.index, item.index + 1)
        elif isinstance(secret, Erased) or row.data is None:
            self._note_erased(item, sealed, secret)
        elif isinstance(secret, bytes) and sealed is not None:
            item.secret = secret
            self._open(item, secret, sealed, give)
        else:
            self._name_closed(item, sealed, secret)

    def _name_closed(self, item: Item, sealed: bytes | None, secret: bytes | EvidenceError | None) -> None:
        where = f"leaf {item.index}"
        self.findings.lose_content(item.index)
        self.facts.unread.add(item.index)
        if sealed is None:
            self.findings.add(Unit.CONTENT, where, How.MISSING, "the encrypted content is absent", leaf=item.index)
        if self.ground.secrets is not None and (secret is None or isinstance(secret, NotFound)):
            self.findings.add(Unit.SECRET, where, How.MISSING, "the item's secret is absent", leaf=item.index)

    def _note_erased(self, item: Item, sealed: bytes | None, secret: object) -> None:
        """What an erasure destroyed, or somebody else: which of the two, the records of erasures say in the end."""
        name = f"ev_{item.identity.hex()}"
        is_whole = item.leaf.row is not None and item.leaf.row.data is None
        self.facts.erased[name] = item.index, Unit.EVIDENCE if is_whole else Unit.SECRET
        left = [(Unit.CONTENT, sealed is not None), (Unit.SECRET, isinstance(secret, bytes))]
        self.facts.left_over[name] = [unit for unit, is_there in left if is_there]
        self.findings.lose_content(item.index)
        self.facts.unread.add(item.index)

    def check_erasures(self) -> None:
        """Whatever was destroyed, a record of its erasure names; and nothing of an erased item is left."""
        for name, (leaf, unit) in self.facts.erased.items():
            where = f"leaf {leaf}"
            if name not in self.facts.erasures:
                detail = "it was destroyed, and no record of an erasure names the item"
                self.findings.add(unit, where, How.MISSING, detail, leaf=leaf)
                if unit is Unit.EVIDENCE:
                    self.findings.lose_proof(leaf, leaf + 1)
                continue
            for left in self.facts.left_over[name]:
                self.findings.add(left, where, How.ADDED, "the item was erased, and this is still there", leaf=leaf)

    def _open(self, item: Item, secret: bytes, sealed: bytes, give: Give) -> None:
        where = f"leaf {item.index}"
        try:
            value = parse(open_content(secret, f"ev_{item.identity.hex()}", sealed), max_bytes=MAX_CONTENT_BYTES)
            stages, item.originals = value["stages"], value["originals"]
            if item.template is not None and item.evidence is not None and item.template.name not in TEMPLATES:
                self._commit(item, item.template, item.evidence, stages)
        except (EvidenceError, LookupError, TypeError, ValueError, AttributeError):
            detail = "the encrypted content does not open under the item's secret, or is no content"
            self.findings.add(Unit.CONTENT, where, How.ALTERED, detail, leaf=item.index)
            self.findings.lose_content(item.index)
            self.facts.unread.add(item.index)
            return
        self._give_tags(item, stages, give)
        name = "" if item.evidence is None else item.evidence.statement.template_name
        if name == ERASURE_TEMPLATE:
            self.facts.erasures.add(str(stages["抹除"]["evidence_id"]))
        elif name == ISSUE_TEMPLATE and item.commitments is not None:
            item.issued = stages

    def _commit(self, item: Item, template: Template, evidence: Evidence, stages: JSONValue) -> None:
        """The content commits to the stages of S, or the first that differs is named."""
        statement = evidence.statement
        names = {"log": statement.log, "submitter": statement.submitter, "client_key": statement.client_key}
        made = commit(template, stages, secret=item.secret or b"", **names)
        given = {stage.name: stage.pair for stage in made}
        for name, digests in statement.stages:
            if given.pop(name, None) != digests:
                got = next((stage.pair.sm3 for stage in made if stage.name == name), None)
                detail = f"the stored content does not give the committed stage {name}"
                where = f"leaf {item.index}"
                self.findings.add(Unit.CONTENT, where, How.ALTERED, detail, expected=digests.sm3, found=got, leaf=item.index)
                self.findings.lose_content(item.index)
                return
        item.commitments = made

    def _give_tags(self, item: Item, stages: JSONValue, give: Give) -> None:
        key, evidence = self.ground.find_key, item.evidence
        if key is None or evidence is None:
            return
        link = evidence.statement.link
        tags: Iterable[bytes] = [] if link is None else [key.tag(LINK, link.code)]
        if item.template is not None and stages:
            tags = item_tags(key, item.template, stages, None if link is None else link.code)
        for tag in dict.fromkeys(tags):
            give(Unit.BLIND, item.index, (tag, item.index))

    # --- links ------------------------------------------------------------------------------------------------

    def _check_links(self, connection: Connection, items: Sequence[Item]) -> None:
        """Each part names the very part before it, which does not close the link; no two items are one part."""
        wanted: dict[tuple[bytes, int], Item] = {}
        for item in items:
            evidence = item.evidence
            if evidence is None or evidence.link is None or evidence.statement.link is None or not evidence.link.number:
                continue
            key = link_key(evidence.statement.subject_id, evidence.statement.link.code), evidence.link.number - 1
            if key in wanted:
                detail = f"two items are part {evidence.link.number} of one link: the other is leaf {wanted[key].index}"
                self.findings.add(Unit.LINK, f"leaf {item.index}", How.ADDED, detail, leaf=item.index)
            wanted[key] = item
        before = _parts(connection, set(wanted))
        for key, item in wanted.items():
            # A part before it that is absent or damaged is named by itself.
            if key in before and item.evidence is not None:
                self._check_part(item.index, item.evidence, before[key])

    def _check_part(self, index: int, evidence: Evidence, before: Evidence) -> None:
        part, where = evidence.link, f"leaf {index}"
        if part is not None and part.previous != before.pair:
            got = None if part.previous is None else part.previous.sm3
            detail = f"part {part.number} does not follow the part before it"
            self.findings.add(Unit.LINK, where, How.ALTERED, detail, expected=before.package_hash, found=got, leaf=index)
        elif before.statement.link is not None and before.statement.link.closes:
            self.findings.add(Unit.LINK, where, How.ADDED, "the part follows one that closed the link", leaf=index)


def _identity(leaf: Leaf) -> bytes:
    """SM3(S) of the item: from E where E can be believed, else from the column."""
    if leaf.evidence is not None:
        return bytes.fromhex(leaf.evidence.evidence_id[3:])
    return b"" if leaf.row is None else leaf.row.evidence_id


def give_rows(index: int, evidence: Evidence, give: Give) -> None:
    """The rows of other tables that E alone gives: idempotency key, link part, conflict."""
    statement, part = evidence.statement, evidence.link
    give(Unit.IDEMPOTENCY, index, (idempotency_key(statement.submitter, statement.client_key), index))
    if part is not None and statement.link is not None:
        link = link_key(statement.subject_id, statement.link.code)
        give(Unit.LINK, index, (link, part.number, index, evidence.pair.sm3, evidence.pair.sha256, statement.link.closes))
    if statement.template_name == CONFLICT_TEMPLATE and (found := _CONFLICT_KEY.fullmatch(statement.client_key)):
        give(Unit.CONFLICT, index, (bytes.fromhex(found[1]), bytes.fromhex(found[2]), index))


def _contents(connection: Connection, start: int, stop: int) -> dict[int, bytes]:
    c = tables.content.c
    query = select(c.leaf_index, type_coerce(c.data, NullType())).where(c.leaf_index >= start, c.leaf_index < stop)
    return {row[0]: as_bytes(plain(row)[1]) for row in connection.execute(query)}


def _parts(connection: Connection, wanted: set[tuple[bytes, int]]) -> dict[tuple[bytes, int], Evidence]:
    """E of each of these parts of links, found by the rows of parts; those that cannot be believed are left out."""
    c, e = tables.link_part.c, tables.evidence.c
    found: dict[tuple[bytes, int], Evidence] = {}
    links, numbers = sorted({link for link, _ in wanted}), {part for _, part in wanted}
    for start in range(0, len(links), _PER_QUERY):
        query = (
            select(*(type_coerce(each, NullType()) for each in (c.link, c.part, e.data, e.entry)))
            .join(tables.evidence, e.leaf_index == c.leaf_index)
            .where(c.link.in_(links[start : start + _PER_QUERY]), c.part >= min(numbers), c.part <= max(numbers))
        )
        for row in connection.execute(query):
            link, part, data, entry = plain(row)
            if (link, part) not in wanted or not isinstance(data, bytes):
                continue
            try:
                evidence = Evidence.parse(data)
            except (EvidenceError, ValueError):
                continue
            stated = evidence.statement.link
            is_that = stated is not None and link_key(evidence.statement.subject_id, stated.code) == link
            if is_that and evidence.entry == entry and evidence.link is not None and evidence.link.number == part:
                found[link, part] = evidence
    return found
