"""What one anchor says on the chain: both heads of the log and, item by item, the records of its range (formats §4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from evidence import anchors
from evidence.batch import moment
from evidence.contents import Contents, template_of
from evidence.log import LogState
from evidence.store import Store
from models.anchor import BlockRef, Payload, build_payload, checkpoint_record, item_record
from models.canonical import JSONValue, canonical
from models.checkpoint import Note
from models.errors import VerificationError
from models.evidence import Evidence

RANGE_MARGIN_BYTES = 64


class Payloads:
    """Makes the payload of the next anchor of a chain from what the database holds."""

    def __init__(self, store: Store, contents: Contents, *, clock: Callable[[], datetime]) -> None:
        self._store, self._contents, self._clock = store, contents, clock

    def build(self, state: LogState, *, chain: str, start: int, limit: int, seen: Sequence[BlockRef]) -> Payload:
        """P for the next range: everything up to the head, cut at the engine's limit in bytes; an item is never cut.

        Raises: VerificationError if the log is empty, or the record of one item alone is longer than the limit.
        Source: formats §4.1; T/SAC 004—2024 6.4.4-a.
        """
        checkpoint = state.checkpoint
        if checkpoint is None:
            raise VerificationError("an empty log has no checkpoint to anchor")
        now = self._clock()
        note = Note.parse(checkpoint.note)
        first = checkpoint_record(
            note.text,
            state.head.sm3_root,
            state.head.sha256_root,
            created_at=moment(checkpoint.signed_at_s * 1000),
            upload_time=now,
        )

        def payload(end: int, records: list[dict[str, JSONValue]]) -> bytes:
            return build_payload(
                chain=chain, checkpoint=checkpoint.note, twin=checkpoint.twin, start=start, end=end, seen=seen, records=records
            )

        room = limit - len(payload(state.size, [first])) - RANGE_MARGIN_BYTES
        records, end = self._records(start, state.size, room, now)
        return Payload.parse(payload(end, [first, *records]))

    def _records(self, start: int, size: int, room: int, now: datetime) -> tuple[list[dict[str, JSONValue]], int]:
        records: list[dict[str, JSONValue]] = []
        with self._store.reading() as connection:
            for leaf_index, data, _ in anchors.recorded_items(connection, start, size):
                record = self._record(leaf_index, Evidence.parse(data), now)
                room -= len(canonical(record)) + 1
                if room < 0:
                    if leaf_index == start:
                        raise VerificationError(f"the record of one item is longer than the chain takes (leaf {leaf_index})")
                    return records, leaf_index
                records.append(record)
        return records, size

    def _record(self, leaf_index: int, evidence: Evidence, now: datetime) -> dict[str, JSONValue]:
        data: dict[str, list[str]] = {}
        if evidence.commitment == "plaintext":
            opened = self._contents.open(leaf_index)
            data = {stage.name: [leaf.decode() for leaf in stage.leaves] for stage in opened.commitments()}
        return item_record(
            biz_name=template_of(evidence).biz_name,
            stages=[(name, digests.sm3.hex(), data.get(name)) for name, digests in evidence.statement.stages],
            created_at=evidence.created_at,
            package_hash=evidence.package_hash,
            upload_time=now,
        )
