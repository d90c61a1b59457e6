"""What goes onto a chain and what comes back: the payload P, its Appendix A records, the receipt.

The only file that knows the wire names of the standard (StageHash, PackageHash, …). A chain holds,
for each log, one list of payloads that cannot fork: a payload's key is the *start* of its range.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, NewType

from models.canonical import (
    MAX_INTEGER,
    JSONValue,
    beijing_seconds,
    canonical,
    format_time,
    members,
    parse_canonical,
    parse_time,
    unb64,
)
from models.digest import Algorithm, Digest, pair, sm3, unhex
from models.errors import Malformed, VerificationError
from models.names import TWIN_SUFFIX, check_chain_id, check_format, check_origin

TxId = NewType("TxId", str)
"""A transaction as its chain names it, for instance 64 hex digits."""

MAX_PAYLOAD_BYTES = 4 << 20
MAX_NOTE_BYTES = 64 << 10
MAX_NOTE_LINES = 64
CHECKPOINT_BIZ_NAME = "存证日志检查点"
ROOT_STAGES = ("日志根-SM3", "日志根-SHA256")
_ENGINE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_TX_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_WALL_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)


def _height(value: JSONValue, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
        raise Malformed(f"{what} has wrong form: expected an integer from 0")
    return value


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One block of one chain: what `after` and `seen` name, and what a node calls its head."""

    chain: str
    height: int
    hash: str
    time: datetime | None = None

    def to_json(self) -> dict[str, JSONValue]:
        """The reference as it stands in E and P: without the time, which a proof of the block gives."""
        return {"chain": self.chain, "hash": self.hash, "height": self.height}

    @classmethod
    def from_json(cls, value: JSONValue, *, what: str = "block reference") -> BlockRef:
        """The block that an object of chain, hash and height names.

        Raises: Malformed if it has other members or a member has the wrong form.
        """
        chain, block, height = members(value, "chain hash height", what)
        if not isinstance(block, str) or not 2 <= len(block) <= 128 or len(block) % 2 or set(block) - set("0123456789abcdef"):
            raise Malformed(f"{what} has a hash of wrong form: expected lower-case hex")
        return cls(check_chain_id(chain), _height(height, what), block)


def block_refs(value: JSONValue, *, what: str) -> tuple[BlockRef, ...]:
    """The blocks of an `after` or `seen` list: ascending by chain, one entry each.

    Raises: Malformed if it is no such list.
    Source: formats §11 (Statement, evidence).
    """
    if not isinstance(value, list):
        raise Malformed(f"{what} is not a list")
    found = tuple(BlockRef.from_json(entry, what=what) for entry in value)
    chains = [ref.chain for ref in found]
    if chains != sorted(set(chains)):
        raise Malformed(f"{what} is not in order: expected one block a chain, ascending by chain")
    return found


@dataclass(frozen=True, slots=True)
class Block:
    """A final block as one node shows it; `header` is the text the engine hashes, if it has one."""

    height: int
    hash: str
    parent: str
    time: datetime
    transactions: tuple[TxId, ...]
    header: str
    extra: Mapping[str, JSONValue]


@dataclass(frozen=True, slots=True)
class Anchor:
    """One payload for one chain, under the key that the chain takes once."""

    chain: str
    key: Digest
    payload: bytes


def anchor_key(chain: str, origin: str, start: int) -> Digest:
    """The key under which `chain` takes the payload of log `origin` whose range begins at `start`.

    Shapes: → SM3, 32 bytes.
    Raises: Malformed if chain id, origin or start has the wrong form.
    Source: formats §1 (anchor key) and §4.2.
    """
    named = ["cz-anchor-key/1", check_chain_id(chain), check_origin(origin), _height(start, "start of range")]
    return Digest(Algorithm.SM3, sm3(canonical(named)))


class Head(NamedTuple):
    """The checkpoint text inside a note, read without judging the note's signature lines."""

    text: str
    origin: str
    size: int
    root: bytes

    @classmethod
    def of_note(cls, note: JSONValue, *, what: str) -> Head:
        """The head that the text of `note` states.

        Raises: Malformed if it is no note over a checkpoint text of three lines.
        Source: formats §3.2, §6.2 (limits); C2SP tlog-checkpoint.
        """
        if not isinstance(note, str) or len(note.encode()) > MAX_NOTE_BYTES:
            raise Malformed(f"{what} is not a note of at most {MAX_NOTE_BYTES} bytes")
        text, blank, tail = note.partition("\n\n")
        lines = tail.split("\n")
        fields = text.split("\n")
        if not blank or lines.pop() or not lines or not all(line.startswith("— ") for line in lines):
            raise Malformed(f"{what} is not a note: expected text, an empty line and signature lines")
        if len(lines) > MAX_NOTE_LINES:
            raise Malformed(f"{what} has too many signature lines: expected at most {MAX_NOTE_LINES}, got {len(lines)}")
        if len(fields) != 3:
            raise Malformed(f"{what} has wrong length: expected three lines of text, got {len(fields)}")
        origin, size, root = fields
        if not _SIZE.fullmatch(size) or int(size) > MAX_INTEGER:
            raise Malformed(f"{what} has a size of wrong form: expected a decimal number below 2^53")
        return cls(text + "\n", check_origin(origin), int(size), unb64(root, size=32, what=f"root of {what}"))


def item_record(
    *,
    biz_name: str,
    stages: Sequence[tuple[str, str, Sequence[str] | None]],
    created_at: datetime,
    package_hash: bytes,
    upload_time: datetime,
    slice_data: Mapping[str, JSONValue] | None = None,
) -> dict[str, JSONValue]:
    """T of one item: the JSON of Appendix A c), whose canonical order is the printed one.

    Shapes: stages are (StageName, SM3 hex, d of all fields or None) in the order of the statement.
    Raises: Malformed if there is no stage, a digest has the wrong form or a time has no zone.
    Source: T/SAC 004—2024 App. A c), App. C.3 d); 6.4.4-c; formats §2.9.
    """
    if not stages:
        raise Malformed("on-chain record has no stage: expected at least one")
    listed: list[dict[str, JSONValue]] = []
    for name, sm3_hex, data in stages:
        stage: dict[str, JSONValue] = {"StageHash": unhex(sm3_hex, what="StageHash").hex(), "StageName": name}
        if data is not None:
            stage["StageData"] = list(data)
        listed.append(stage)
    if len(package_hash) != 32:
        raise Malformed(f"PackageHash has wrong length: expected 32 bytes, got {len(package_hash)}")
    business: dict[str, JSONValue] = {"bizName": biz_name, "businessData": listed}
    if slice_data is not None:
        business["sliceData"] = dict(slice_data)
    necessary = {
        "CreateTime": beijing_seconds(created_at),
        "PackageHash": package_hash.hex(),
        "UploadTime": beijing_seconds(upload_time),
    }
    return {"transaction_info": {"transaction_detail_info": {"biz_data": business, "necessaryData": necessary}}}


def checkpoint_record(
    checkpoint: str, sm3_root: bytes, sha256_root: bytes, *, created_at: datetime, upload_time: datetime
) -> dict[str, JSONValue]:
    """T0, the record that every payload begins with: both roots of the log as stages.

    Shapes: `checkpoint` is the text of the SM3 checkpoint (three lines), `created_at` the T of the log's line over it.
    Source: formats §4.1.
    """
    roots = zip(ROOT_STAGES, (sm3_root, sha256_root), strict=True)
    return item_record(
        biz_name=CHECKPOINT_BIZ_NAME,
        stages=[(name, root.hex(), None) for name, root in roots],
        created_at=created_at,
        package_hash=sm3(checkpoint.encode()),
        upload_time=upload_time,
    )


@dataclass(frozen=True, slots=True)
class Record:
    """One member of transaction_info_array, its form checked; `value` is the member as it stands."""

    package_hash: bytes
    create_time: str
    upload_time: str
    value: JSONValue

    @classmethod
    def from_json(cls, value: JSONValue, *, what: str) -> Record:
        """The record that `value` holds.

        Raises: Malformed if its form is not that of Appendix A c).
        """
        (inner,) = members(value, "transaction_info", what)
        (detail,) = members(inner, "transaction_detail_info", what)
        business, necessary = members(detail, "biz_data necessaryData", what)
        names = (
            "bizName businessData sliceData" if isinstance(business, dict) and "sliceData" in business else "bizName businessData"
        )
        biz_name, stages, *slice_data = members(business, names, what)
        create, package, upload = members(necessary, "CreateTime PackageHash UploadTime", what)
        if not isinstance(biz_name, str) or not isinstance(stages, list) or not stages:
            raise Malformed(f"{what} has wrong form: expected a bizName and at least one stage")
        for stage in stages:
            cls._check_stage(stage, what)
        if slice_data and not isinstance(slice_data[0], dict):
            raise Malformed(f"{what} has wrong form: expected sliceData to be an object")
        for moment in (create, upload):
            if not isinstance(moment, str) or not _WALL_TIME.fullmatch(moment):
                raise Malformed(f"{what} has a time of wrong form: expected for example 2026-11-21 14:00:00")
        return cls(unhex(package, what="PackageHash"), create, upload, value)

    @staticmethod
    def _check_stage(stage: JSONValue, what: str) -> None:
        plain = isinstance(stage, dict) and "StageData" in stage
        sm3_hex, name, *data = members(stage, "StageHash StageName StageData" if plain else "StageHash StageName", what)
        unhex(sm3_hex, what="StageHash")
        if not isinstance(name, str) or (plain and not (isinstance(data[0], list) and all(isinstance(d, str) for d in data[0]))):
            raise Malformed(f"{what} has a stage of wrong form: expected a StageName and, if given, StageData as a list of texts")


@dataclass(frozen=True, slots=True)
class Payload:
    """P, read strictly: its form, its two heads, T0 and the order of `seen` are those of the format page.

    What needs keys, the item or the block (lines, T0.CreateTime, T as recomputed) is the verifier's.
    """

    chain: str
    checkpoint: str
    twin: str
    start: int
    end: int
    seen: tuple[BlockRef, ...]
    records: tuple[Record, ...]
    head: Head
    twin_head: Head
    data: bytes

    @property
    def key(self) -> Digest:
        """The key this payload belongs under."""
        return anchor_key(self.chain, self.head.origin, self.start)

    @property
    def upload_time(self) -> str:
        """When the anchor was made, as every record of it says."""
        return self.records[0].upload_time

    def record(self, package_hash: bytes) -> Record | None:
        """The record of the item with `package_hash`, if this payload holds one."""
        return next((record for record in self.records[1:] if record.package_hash == package_hash), None)

    @classmethod
    def parse(cls, data: bytes) -> Payload:
        """The payload that the bytes P hold.

        Shapes: ≤ 4 MiB, canonical.
        Raises: Malformed if the form is wrong or P contradicts itself; Unknown if its version is unknown.
        Source: formats §4.1, §11 (Anchors, On-chain record).
        """
        value = parse_canonical(data, max_bytes=MAX_PAYLOAD_BYTES, what="payload of an anchor")
        check_format(value, "cz-anchor")
        names = "chain checkpoint format range seen transaction_info_array twin"
        chain, checkpoint, _, extent, seen, records, twin = members(value, names, "payload of an anchor")
        check_chain_id(chain)
        if not isinstance(extent, list) or len(extent) != 2:
            raise Malformed("range of an anchor has wrong form: expected start and end")
        start, end = (_height(bound, "range of an anchor") for bound in extent)
        blocks = block_refs(seen, what="seen")
        if any(ref.chain == chain for ref in blocks):
            raise Malformed("seen names the anchor's own chain: expected only others")
        head = Head.of_note(checkpoint, what="checkpoint of an anchor")
        twin_head = Head.of_note(twin, what="twin of an anchor")
        if not start < end <= head.size:
            raise Malformed(f"range of an anchor is wrong: expected start < end <= size, got {start}, {end}, {head.size}")
        if twin_head.origin != head.origin + TWIN_SUFFIX or twin_head.size != head.size:
            raise Malformed("twin of an anchor is not that of its checkpoint: expected the same size under origin/sha256")
        if not isinstance(records, list) or not records:
            raise Malformed("transaction_info_array is empty: expected at least the checkpoint's own record")
        parsed = tuple(Record.from_json(entry, what=f"record {place} of an anchor") for place, entry in enumerate(records))
        payload = cls(chain, checkpoint, twin, start, end, blocks, parsed, head, twin_head, data)
        payload._check_records()
        return payload

    def _check_records(self) -> None:
        first = self.records[0]
        business = first.value["transaction_info"]["transaction_detail_info"]["biz_data"]
        roots = zip(ROOT_STAGES, (self.head.root, self.twin_head.root), strict=True)
        expected = {
            "bizName": CHECKPOINT_BIZ_NAME,
            "businessData": [{"StageHash": root.hex(), "StageName": name} for name, root in roots],
        }
        if business != expected or first.package_hash != sm3(self.head.text.encode()):
            raise Malformed("first record of an anchor is not that of its checkpoint: expected both roots and SM3 of the text")
        if len({record.package_hash for record in self.records}) != len(self.records):
            raise Malformed("a PackageHash stands twice in an anchor: expected each item once")
        if any(record.upload_time != first.upload_time for record in self.records):
            raise Malformed("UploadTime differs between the records of an anchor: expected one time")


def build_payload(
    *,
    chain: str,
    checkpoint: str,
    twin: str,
    start: int,
    end: int,
    seen: Sequence[BlockRef],
    records: Sequence[JSONValue],
) -> bytes:
    """P: canonical bytes that `Payload.parse` accepts, so that nothing is sent which a verifier would refuse.

    Shapes: `checkpoint` and `twin` are notes; `records` are T0, T1, … in log order; `seen` in any order.
    Raises: Malformed if the parts do not make a payload.
    Source: formats §4.1.
    """
    data = canonical(
        {
            "chain": chain,
            "checkpoint": checkpoint,
            "format": "cz-anchor/1",
            "range": [start, end],
            "seen": [ref.to_json() for ref in sorted(seen, key=lambda ref: ref.chain)],
            "transaction_info_array": list(records),
            "twin": twin,
        }
    )
    return Payload.parse(data).data


@dataclass(frozen=True, slots=True)
class ChainReceipt:
    """What a chain returned for one transaction: it proves itself offline, under a trust file."""

    block_time: datetime
    chain: str
    engine: str
    height: int
    key: Digest
    proof: JSONValue
    tx_id: TxId
    data: bytes

    @classmethod
    def build(
        cls, *, block_time: datetime, chain: str, engine: str, height: int, key: Digest, proof: JSONValue, tx_id: TxId
    ) -> ChainReceipt:
        """The receipt of these parts, with its canonical bytes.

        Raises: Malformed if a part has the wrong form.
        Source: formats §4.4.
        """
        return cls.parse(
            canonical(
                {
                    "block_time": format_time(block_time),
                    "chain": chain,
                    "engine": engine,
                    "format": "cz-receipt/1",
                    "height": height,
                    "key": key.value.hex(),
                    "proof": proof,
                    "tx_id": tx_id,
                }
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> ChainReceipt:
        """The receipt that canonical bytes hold; what its `proof` must be is the engine's affair.

        Shapes: ≤ 4 MiB.
        Raises: Malformed if the form is wrong; Unknown if its version is unknown.
        Source: formats §4.4.
        """
        value = parse_canonical(data, max_bytes=MAX_PAYLOAD_BYTES, what="receipt")
        check_format(value, "cz-receipt")
        names = "block_time chain engine format height key proof tx_id"
        moment, chain, engine, _, height, key, proof, tx_id = members(value, names, "receipt")
        if not isinstance(engine, str) or not _ENGINE.fullmatch(engine):
            raise Malformed("engine of a receipt has wrong form")
        if not isinstance(tx_id, str) or not _TX_ID.fullmatch(tx_id):
            raise Malformed("tx_id of a receipt has wrong form: expected 1 to 128 printable ASCII characters")
        return cls(
            parse_time(moment, what="block_time of a receipt"),
            check_chain_id(chain),
            engine,
            _height(height, "height of a receipt"),
            Digest(Algorithm.SM3, unhex(key, what="key of a receipt")),
            proof,
            TxId(tx_id),
            data,
        )


class Relied(NamedTuple):
    """A key whose signature a verdict rests on, and who the trust file says holds it."""

    key: str
    organisation: str


@dataclass(frozen=True, slots=True)
class ReceiptFacts:
    """What an engine's proof establishes about a receipt, recomputed from the proof and the trust file.

    `payload` is P, or SM3(P)‖SHA-256(P) where the engine cannot carry P; `sender` is hex, or empty
    where the engine knows none. `quorum` is how many of `validators` had to sign, so that the
    verifier can say who together could have forged it.
    """

    key: Digest
    payload: bytes
    block_time: datetime
    not_later_than_error_s: int
    sender: str
    relied_on: tuple[Relied, ...]
    not_checked: tuple[str, ...]
    algorithms: tuple[str, ...]
    validators: tuple[Relied, ...] = ()
    quorum: int = 0

    def check_payload(self, payload: bytes) -> None:
        """The transaction carries exactly `payload`, or its two digests.

        Raises: VerificationError if it carries anything else.
        Source: formats §4.3.
        """
        if self.payload == payload:
            return
        digests = pair(payload)
        if len(self.payload) == 64 and self.payload == digests.sm3 + digests.sha256:
            return
        raise VerificationError("transaction carries another payload than the one shown")
