"""The items of one commit: who is new, who stood there before, which part of which link each becomes.

E is made here, inside the transaction, because its time, its promise, its not-before blocks and
its place in a link are facts of the commit and not of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection

from evidence import store as rows
from evidence.errors import Stale
from evidence.keystore import HeadLock
from evidence.store import HeadRow, PartRow
from models.anchor import BlockRef
from models.canonical import quoted
from models.digest import sm3
from models.errors import EvidenceError, VerificationError
from models.evidence import Evidence, Part, Signature, Statement, hash_together
from models.nodes import pairs

KEY_BYTES = 16

_quoted = lru_cache(maxsize=1024)(quoted)


def idempotency_key(submitter: str, client_key: str) -> bytes:
    """The 16 bytes under which (submitter, client_key) stands for ever: SM3 of the JCS array. Source: formats §2.6."""
    return sm3(f"[{_quoted(submitter)},{quoted(client_key)}]".encode())[:KEY_BYTES]


def link_key(subject_id: str, code: str) -> bytes:
    """The 16 bytes under which the parts of (subject, link code) stand, made likewise. Source: formats §2.8."""
    return sm3(f"[{quoted(subject_id)},{quoted(code)}]".encode())[:KEY_BYTES]


@dataclass(slots=True)
class Pending:
    """One item that is ready to be sealed: S, the encrypted content, and what goes beside it.

    `secret` is None for a sealed submission, whose contents stay at home. `claims` binds originals
    to the item inside the transaction. `refused` names (idempotency key, digest) of a conflict record.
    """

    statement: Statement
    commitment: str
    signature: Signature | None
    validated_by: str
    promise_s: int
    account: str
    request_id: str
    secret: bytes | None = None
    content: bytes = b""
    tags: Sequence[bytes] = ()
    claims: Callable[[Connection, bytes], None] | None = None
    refused: tuple[bytes, bytes] | None = None


@dataclass(slots=True)
class Sealed:
    """A new item, with what its promise holds once the commit is done."""

    evidence: Evidence
    leaf_index: int
    path: tuple[bytes, ...] = ()
    size: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Existing:
    """The client key was taken before, by the item at `leaf_index`."""

    leaf_index: int


Outcome = Sealed | Existing | EvidenceError


@dataclass(slots=True)
class Batch:
    """The items of one transaction; `sort_out`, then the writes in order."""

    connection: Connection
    head: HeadRow
    now: datetime
    after: Sequence[BlockRef]
    proofs: Mapping[BlockRef, bytes]
    """Of those blocks in `after` that were proven."""
    keep: Callable[[Sequence[tuple[bytes, bytes]], HeadLock], object]
    outcomes: list[Outcome] = field(default_factory=list)
    fresh: list[tuple[Pending, Sealed, bytes]] = field(default_factory=list)

    def sort_out(self, items: Sequence[Pending]) -> None:
        """Each item has its outcome: sealed in log order, standing already, or refused.

        Source: formats §2.5 (E), §2.6 (idempotency), §2.8 (links).
        """
        keys = [idempotency_key(item.statement.submitter, item.statement.client_key) for item in items]
        taken = rows.existing_keys(self.connection, keys)
        links = {self._link_of(item) for item in items} - {None}
        heads: dict[bytes, PartRow] = rows.link_heads(self.connection, [link for link in links if link]) if links else {}
        for item, key in zip(items, keys, strict=True):
            if key in taken:
                self.outcomes.append(Existing(taken[key]))
                continue
            try:
                sealed = self._seal(item, heads)
            except Stale as error:
                self.outcomes.append(error)
                continue
            taken[key] = sealed.leaf_index
            self.outcomes.append(sealed)
            self.fresh.append((item, sealed, key))
        hash_together([sealed.evidence for _, sealed, _ in self.fresh])

    @staticmethod
    def _link_of(item: Pending) -> bytes | None:
        link = item.statement.link
        return None if link is None else link_key(item.statement.subject_id, link.code)

    def _seal(self, item: Pending, heads: dict[bytes, PartRow]) -> Sealed:
        index = self.head.size + len(self.fresh)
        link, stated, part = self._link_of(item), item.statement.link, None
        if link is not None and stated is not None:
            before = heads.get(link)
            if before is not None and before.closes:
                raise Stale(f"the link is closed: no part follows part {before.part}")
            if stated.follows is not None and (before is None or before.pair.sm3 != stated.follows):
                raise Stale(
                    "follows is not the present head of the link: expected its newest PackageHash",
                    hint="read the transaction again",
                )
            part = Part(0 if before is None else before.part + 1, None if before is None else before.pair)
        evidence = Evidence.build(
            item.statement,
            after=self.after,
            commitment=item.commitment,
            created_at=self.now,
            link=part,
            on_chain_by=_after(self.now, item.promise_s),
            signature=item.signature,
            validated_by=item.validated_by,
        )
        if link is not None and part is not None and stated is not None:
            heads[link] = PartRow(part.number, index, evidence.pair, stated.closes)
        return Sealed(evidence, index)

    def keep_secrets(self, size: int, root: bytes) -> None:
        """Every new item's secret, and the head this commit is about to reach, are durable in the store of secrets.

        Before the commit: an item without its secret could never be opened (formats §8.2), and a
        database set back behind this head must be known for what it is (formats §3.4).
        """
        secrets = [(item.statement.digest, item.secret) for item, _, _ in self.fresh if item.secret is not None]
        self.keep(secrets, HeadLock(self.head.size, self.head.sm3_root, size, root))

    def insert(self) -> None:
        """All rows of the new items are in the transaction."""
        items: list[tuple[Any, ...]] = []
        contents: list[tuple[Any, ...]] = []
        keys: list[tuple[Any, ...]] = []
        blinds: list[tuple[Any, ...]] = []
        parts: list[tuple[Any, ...]] = []
        conflicts: list[tuple[Any, ...]] = []
        audits: list[tuple[Any, ...]] = []
        at_ms = round(self.now.timestamp() * 1000)
        for item, sealed, key in self.fresh:
            statement, index = item.statement, sealed.leaf_index
            occurred = statement.occurred_at
            items.append(
                (
                    index,
                    statement.digest,
                    sealed.evidence.entry,
                    sealed.evidence.data,
                    statement.template_name,
                    statement.subject_id,
                    statement.submitter,
                    item.commitment,
                    at_ms,
                    None if occurred is None else round(occurred.timestamp() * 1000),
                )
            )
            keys.append((key, index))
            audits.append((at_ms, item.account, "preserve", statement.evidence_id, item.request_id))
            if item.content:
                contents.append((index, item.content))
            blinds.extend([(tag, index) for tag in dict.fromkeys(item.tags)])
            if sealed.evidence.link is not None and statement.link is not None:
                link = link_key(statement.subject_id, statement.link.code)
                parts.append((link, sealed.evidence.link.number, index, *sealed.evidence.pair, statement.link.closes))
            if item.refused is not None:
                conflicts.append((*item.refused, index))
        rows.insert_rows(
            self.connection,
            items=items,
            contents=contents,
            keys=keys,
            blinds=blinds,
            parts=parts,
            conflicts=conflicts,
            audits=audits,
        )
        for ref in self.after:
            if ref in self.proofs:
                rows.keep_block(self.connection, ref, self.proofs[ref])
        for item, _, _ in self.fresh:
            if item.claims is not None:
                item.claims(self.connection, item.statement.digest)

    def read_back(self, start: int) -> list[bytes]:
        """The entries of the new items, made from the bytes that the database now holds.

        Raises: VerificationError if what it holds is not what was written: a bit that fell between
            hash and tree kills a log for ever (Yeti 2022), so nothing is signed then.
        """
        stored = rows.read_stored(self.connection, start, start + len(self.fresh) + 1)
        entries: list[bytes] = []
        digests = pairs([data or b"" for _, data, _ in stored])
        for (index, _, entry), (first, second), (_, sealed, _) in zip(stored, digests, self.fresh, strict=True):
            made = first + second
            if index != sealed.leaf_index or made != entry or made != sealed.evidence.entry:
                raise VerificationError(f"the database gave back other bytes than were written at leaf {sealed.leaf_index}")
            entries.append(made)
        return entries


@lru_cache(maxsize=256)
def _after(now: datetime, seconds: int) -> datetime:
    return now + timedelta(seconds=seconds)


def moment(milliseconds: int) -> datetime:
    """The aware UTC time of a stored millisecond count."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
