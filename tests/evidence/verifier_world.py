"""A world in which every layer of a bundle can be made again after an injury: log, twin, chains, submitters, witnesses.

Everything is made with the product's own models; what a test wants wrong it changes through the
hooks, which run before the layer above is made.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from chain_gateway.embedded.proof import Header, Seal, node_id, nodes_digest, unsigned_transaction
from models.anchor import BlockRef, ChainReceipt, TxId, anchor_key, build_payload, checkpoint_record, item_record
from models.bundle import pack
from models.canonical import b64, canonical, parse
from models.checkpoint import (
    COSIGNATURE_TYPE,
    STATEMENT_TYPE,
    Checkpoint,
    ConsistencyProof,
    Note,
    TlogProof,
    cosign,
    make_note,
    vkey,
)
from models.commitment import StageCommitment, commit, disclose
from models.digest import Algorithm, Digest, sm3
from models.evidence import Evidence, Link, Part, Signature, Statement
from models.merkle import Tree, leaf_hash
from models.names import twin_origin
from models.quorum import WitnessPolicy
from models.report import Report, Verdict
from models.signature import SM2Signer
from models.template import Template
from models.trust import ChainTrust, Epoch, LogKey, LogTrust, Policy, Submitter, TrustRoots, Validator, Window, format_trust

ORIGIN = "sandbox.world.cn/log/1"
START = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
TREES = (Algorithm.SM3, Algorithm.SHA256)
Json = dict[str, Any]
CHAIN = "embedded-world-1"
OTHER = "embedded-world-2"


@cache
def key(name: str) -> SM2Signer:
    """One key a name, the same for the whole run of the tests."""
    return SM2Signer.generate()


def template(commitment: str = "merkle", *, name: str = "paper@1") -> Template:
    fields = [
        {"name": "title", "title": "标题", "type": "CHARACTER", "required": True},
        {"name": "pages", "title": "页数", "type": "NUMBER", "required": False},
        {"name": "file", "title": "文件", "type": "FILE_OBJECT", "required": False},
    ]
    notes = [{"name": "remark", "title": "备注", "type": "TEXT", "required": False}]
    stages = [{"fields": fields, "name": "文件"}, {"fields": notes, "name": "说明"}]
    value = {
        "bizName": "文件存证",
        "commitment": commitment,
        "format": "cz-template/1",
        "name": name,
        "stages": stages,
        "title": "文件",
    }
    return Template.parse(canonical(value))


@dataclasses.dataclass
class Made:
    """An item of the world with all that its bundle may show."""

    evidence: Evidence
    template: Template
    commitments: tuple[StageCommitment, ...]
    index: int


@dataclasses.dataclass
class Anchored:
    payload: bytes
    receipt: bytes


class World:
    """A log of items on embedded chains; times advance by seconds as things are made."""

    def __init__(self) -> None:
        self.items: list[Made] = []
        self.trees = {tree: Tree(algorithm=tree) for tree in TREES}
        self.now = START
        self.log_keys: dict[Algorithm, list[str]] = {Algorithm.SM3: ["log"], Algorithm.SHA256: ["twin"]}
        self.ends: dict[str, int] = {}
        self.heights: dict[str, int] = {}

    # --- making ---------------------------------------------------------------------------------------------------

    def tick(self, seconds: int = 7) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def statement(
        self, kind: Template, *, client_key: str, stages: Mapping[str, Json] | None = None, link: Link | None = None
    ) -> tuple[Statement, tuple[StageCommitment, ...]]:
        values = stages or {"文件": {"title": "合同", "pages": 3, "file": None}, "说明": {"remark": "备注"}}
        secret = bytes(range(32))
        made = commit(kind, values, secret=secret, log=ORIGIN, submitter="acct-1", client_key=client_key)
        statement = Statement.build(
            client_key=client_key,
            link=link,
            log=ORIGIN,
            occurred_at=None,
            stages=[(stage.name, stage.pair) for stage in made],
            subject=("s1", "示例证券"),
            submitter="acct-1",
            template=(kind.name, kind.pair),
        )
        return statement, made

    def add(
        self,
        commitment: str = "merkle",
        *,
        stages: Mapping[str, Json] | None = None,
        link: Link | None = None,
        part: Part | None = None,
        after: Sequence[BlockRef] = (),
        sign: Callable[[Statement], Signature] | None = None,
        validated_by: str = "platform",
        created_at: datetime | None = None,
    ) -> Made:
        kind = template(commitment)
        statement, made = self.statement(kind, client_key=f"k{len(self.items)}", stages=stages, link=link)
        at = created_at or self.tick()
        evidence = Evidence.build(
            statement,
            after=after,
            commitment=commitment,
            created_at=at,
            link=part,
            on_chain_by=at + timedelta(hours=1),
            signature=None if sign is None else sign(statement),
            validated_by=validated_by,
        )
        return self.append(evidence, kind, made)

    def append(self, evidence: Evidence, kind: Template, made: tuple[StageCommitment, ...]) -> Made:
        item = Made(evidence, kind, made, len(self.items))
        for tree, grown in self.trees.items():
            grown.append(leaf_hash(evidence.entry, algorithm=tree))
        self.items.append(item)
        return item

    def checkpoint(self, tree: Algorithm, size: int) -> Checkpoint:
        origin = ORIGIN if tree is Algorithm.SM3 else twin_origin(ORIGIN)
        return Checkpoint(origin, size, self.trees[tree].root(size))

    @cache  # noqa: B019 - a note is signed once, as the log does
    def note(self, tree: Algorithm, size: int, time: int | None = None) -> str:
        head = self.checkpoint(tree, size)
        at = time or int(self.now.timestamp()) + 1
        signers = sorted(
            (key(name) for name in self.log_keys[tree]),
            key=lambda one: vkey(head.origin, one.public_key, COSIGNATURE_TYPE).key_id,
        )
        return make_note(head, [cosign(head, one, at) for one in signers])

    # --- chains ---------------------------------------------------------------------------------------------------

    def anchor(
        self,
        size: int | None = None,
        *,
        chain: str = CHAIN,
        end: int | None = None,
        change: Callable[[Json], None] | None = None,
        raw: Callable[[bytes], bytes] | None = None,
        wait: int = 5,
    ) -> Anchored:
        """Put the log's head on `chain`; `change` alters P before the transaction is made, `raw` its bytes."""
        size = size or len(self.items)
        start = self.ends.get(chain, 0)
        end = end or size
        self.tick(3)
        notes = [self.note(tree, size) for tree in TREES]
        uploaded = self.tick(2)
        head = Note.parse(notes[0])
        signed = datetime.fromtimestamp(min(line.time for line in head.lines), UTC)
        roots = [self.trees[tree].root(size) for tree in TREES]
        records = [checkpoint_record(head.text, roots[0], roots[1], created_at=signed, upload_time=uploaded)]
        records += [self.record(item, uploaded) for item in self.items[start:end] if item.evidence.commitment != "merkle"]
        payload = build_payload(chain=chain, checkpoint=notes[0], twin=notes[1], start=start, end=end, seen=[], records=records)
        if change is not None:
            value = parse(payload)
            change(value)
            payload = canonical(value)
        if raw is not None:
            payload = raw(payload)
        self.ends[chain] = end
        return Anchored(payload, self.receipt(chain, payload, anchor_key(chain, ORIGIN, start), self.tick(wait)))

    def record(self, item: Made, uploaded: datetime) -> Json:
        plain = item.evidence.commitment == "plaintext"
        return item_record(
            biz_name=item.template.biz_name,
            stages=[
                (one.name, one.pair.sm3.hex(), [leaf.decode() for leaf in one.leaves] if plain else None)
                for one in item.commitments
            ],
            created_at=item.evidence.created_at,
            package_hash=item.evidence.package_hash,
            upload_time=uploaded,
        )

    @staticmethod
    def nodes(chain: str) -> list[SM2Signer]:
        return [key(f"{chain} node {number}") for number in range(4)]

    def header(self, chain: str, time: datetime, leaves: Sequence[bytes], **parts: Any) -> Header:
        height = self.heights[chain] = self.heights.get(chain, 0) + 1
        tree = Tree([leaf_hash(leaf) for leaf in leaves])
        values: Json = {
            "chain": chain,
            "height": height,
            "nodes": nodes_digest([node.public_key for node in self.nodes(chain)]),
            "parent": "00" * 32,
            "state_root": "11" * 32,
            "time": time,
            "tx_count": len(leaves),
            "tx_root": tree.root().hex(),
        }
        return Header.build(**{**values, **parts})

    def seals(self, chain: str, header: Header, count: int = 4) -> list[Json]:
        made = [Seal(node_id(node.public_key), node.sign(header.data)) for node in self.nodes(chain)[:count]]
        return [seal.to_json() for seal in sorted(made)]

    def receipt(self, chain: str, payload: bytes, under: Digest, time: datetime, *, seals: int = 4) -> bytes:
        sender = self.nodes(chain)[0]
        unsigned = unsigned_transaction(chain, under, payload, sender.public_key)
        transaction = canonical({**unsigned, "signature": b64(sender.sign(canonical(unsigned)))})
        leaves = [b"before", transaction, b"after"]
        header = self.header(chain, time, leaves)
        proof = {
            "header": header.data.decode(),
            "index": 1,
            "path": [b64(one) for one in Tree([leaf_hash(leaf) for leaf in leaves]).inclusion_path(1)],
            "seals": self.seals(chain, header, seals),
            "transaction": transaction.decode(),
        }
        return ChainReceipt.build(
            block_time=header.time,
            chain=chain,
            engine="embedded",
            height=header.height,
            key=under,
            proof=proof,
            tx_id=TxId(sm3(transaction).hex()),
        ).data

    def block(self, chain: str, time: datetime, *, seals: int = 4) -> tuple[BlockRef, bytes]:
        """An empty block and its blocks/N.json."""
        header = self.header(chain, time, [])
        proof = {"header": header.data.decode(), "seals": self.seals(chain, header, seals)}
        value = {"chain": chain, "engine": "embedded", "format": "cz-block-proof/1", "height": header.height, "proof": proof}
        return BlockRef(chain, header.height, header.id), canonical(value)

    # --- handing out ----------------------------------------------------------------------------------------------

    def files(
        self,
        shown: Sequence[Made],
        anchors: Sequence[Anchored],
        *,
        fields: Sequence[tuple[str, str]] | None = None,
        witness: Sequence[str] = (),
        twin: bool = True,
    ) -> dict[str, bytes]:
        """The files of a bundle, as formats §11 wants them; `witness` names keys that cosign the item's checkpoint."""
        payloads = sorted((parse(one.payload)["chain"], parse(one.payload)["range"][0], one) for one in anchors)
        files: dict[str, bytes] = {}
        sizes = set()
        for number, (_, _, one) in enumerate(payloads):
            files[f"anchors/{number}/payload.json"] = one.payload
            files[f"anchors/{number}/receipt.json"] = one.receipt
            sizes.add(Note.parse(parse(one.payload)["checkpoint"]).checkpoint().size)
        for number, item in enumerate(shown):
            folder = f"evidence/{number}"
            files[f"{folder}/evidence.json"] = item.evidence.data
            files[f"{folder}/template.json"] = item.template.data
            disclosed = disclose(item.template, item.commitments, fields)
            if disclosed is not None:
                files[f"{folder}/disclosure.json"] = canonical(disclosed)
            size = min((size for size in sizes if size > item.index), default=len(self.items))
            for tree in TREES if twin else TREES[:1]:
                note = self.note(tree, size)
                if tree is Algorithm.SM3 and witness:
                    head = self.checkpoint(tree, size)
                    note += "".join(cosign(head, key(name), int(self.now.timestamp()), name=name) for name in witness)
                path = tuple(self.trees[tree].inclusion_path(item.index, size))
                files[f"{folder}/{tree.value}.tlog-proof"] = TlogProof(item.index, path, Note.parse(note), tree).format().encode()
        ladder = sorted(sizes)
        for old, new in itertools.pairwise(ladder):
            for tree in TREES:
                path = tuple(self.trees[tree].consistency_path(old, new))
                proof = ConsistencyProof(old, path, Note.parse(self.note(tree, new)))
                files[f"log/{tree.value}/{old}-{new}.consistency"] = proof.format().encode()
        return files

    def bundle(self, shown: Sequence[Made], anchors: Sequence[Anchored], **options: Any) -> bytes:
        return pack(self.files(shown, anchors, **options), "item" if len(shown) == 1 else "transaction")

    def chain_trust(self, chain: str, *, not_before: bool = False) -> ChainTrust:
        nodes = self.nodes(chain)
        validators = tuple(Validator(b64(node.public_key), f"N{number}") for number, node in enumerate(nodes))
        return ChainTrust(
            chain,
            "embedded",
            0,
            5,
            not_before,
            tuple(sorted(node_id(node.public_key) for node in nodes)),
            {},
            (Epoch(0, validators),),
        )

    def trust(
        self, known: Sequence[str] = (CHAIN,), *, witnesses: str = "quorum none\n", not_before: bool = False, **policy: Any
    ) -> TrustRoots:
        logs = []
        for tree in TREES:
            origin = ORIGIN if tree is Algorithm.SM3 else twin_origin(ORIGIN)
            keys = tuple(
                LogKey(
                    vkey(origin, key(name).public_key, COSIGNATURE_TYPE),
                    "A",
                    Window(START - timedelta(days=1), START + timedelta(days=9)),
                )
                for name in self.log_keys[tree]
            )
            logs.append(LogTrust(origin, tree, keys, None if tree is Algorithm.SM3 else ORIGIN))
        roots = TrustRoots(
            Policy(**{**policy, "witnesses": WitnessPolicy.parse(witnesses)}),
            tuple(logs),
            tuple(self.chain_trust(chain, not_before=not_before) for chain in known),
            submitters=(Submitter("acct-1", vkey("acct-1", key("submitter").public_key, STATEMENT_TYPE)),),
        )
        return TrustRoots.parse(format_trust(roots))


def sign_with_key(statement: Statement) -> Signature:
    """The submitter's own key, known to the trust file."""
    signer = key("submitter")
    return Signature(vkey("acct-1", signer.public_key, STATEMENT_TYPE).key_id.hex(), signer.sign(statement.data))


def refusals(report: Report) -> list[tuple[int, str]]:
    return [(step.number, step.detail) for step in report.steps if step.verdict not in (None, Verdict.VALID)]


def one(world: World, commitment: str = "merkle", **options: Any) -> tuple[Made, Any]:
    """An item in the middle of a small log, and its anchor."""
    world.add()
    item = world.add(commitment, **options)
    world.add()
    return item, world.anchor()
