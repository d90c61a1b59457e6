"""出证 (T/SAC 004—2024 6.4.6): issue(id) → bundle. Repeatable without limit; each issue is itself recorded.

No bundle leaves before the offline verifier, under this service's own trust file, says VALID.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from sqlalchemy import insert, select, update

from evidence import anchors, tables
from evidence import store as rows
from evidence.access import Caller, Role
from evidence.anchoring import Anchoring
from evidence.anchors import AnchorRow
from evidence.contents import Contents, Opened, template_of
from evidence.errors import Forbidden, NotFinal, NotFound
from evidence.log import Log
from evidence.preservation import Preservation
from evidence.query import Query, shows_contents
from evidence.signing import Signing
from evidence.store import Store
from evidence.times import beijing_time
from evidence.verifier import verify
from models.anchor import BlockRef, Payload
from models.bundle import pack
from models.canonical import JSONValue, b64, canonical
from models.checkpoint import ConsistencyProof, Note, TlogProof
from models.commitment import disclose
from models.digest import Algorithm, pair
from models.errors import EvidenceError, Invalid, Malformed, Problem, VerificationError
from models.report import Report, Verdict
from models.template import DataModel
from models.validation import unknown_members

MAX_IDS = 1000
_RUNNING, _DONE, _FAILED = "running", "done", "failed"
_REQUEST = {"ids", "search", "matter", "disclose", "kind"}


@dataclass(frozen=True, slots=True)
class _Shown:
    """One anchor as the bundle shows it."""

    row: AnchorRow
    payload: Payload


class Issuance:
    """Makes bundles from stored bytes. The same item, chains and disclosure give the same bytes."""

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        contents: Contents,
        anchoring: Anchoring,
        query: Query,
        preservation: Preservation,
        signing: Signing,
        trust: Callable[[], bytes],
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._log, self._store, self._contents, self._anchoring = log, store, contents, anchoring
        self._query, self._preservation, self._signing = query, preservation, signing
        self.trust, self._clock, self._randomness = trust, clock, randomness
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Issuances that a stop cut off are marked as failed: what they handed out is recorded, the rest is asked for anew."""
        c = tables.issuance.c
        await self._log.write(
            lambda connection: connection.execute(update(tables.issuance).where(c.state == _RUNNING).values(state=_FAILED))
        )

    async def stop(self) -> None:
        """Running issuances have ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- one bundle -------------------------------------------------------------------------------------------

    async def bundle(
        self, name: str, caller: Caller, *, disclose: Sequence[str] | None = None, kind: str = "item", request_id: str = ""
    ) -> bytes:
        """The verified bundle of an item, or of the whole transaction it is part of; the access is recorded.

        Shapes: `disclose` names fields as FIELD or STAGE/FIELD; None is everything the caller may see, [] nothing.
        Raises: NotFound, Ambiguous, Malformed; NotFinal; Erased; Forbidden; Invalid for a field that is not there.
        Source: T/SAC 004—2024 6.4.6-p1; formats §6.
        """
        leaf_index = await asyncio.to_thread(self._query.find, name, caller)
        data, evidence_id = await asyncio.to_thread(self._build, leaf_index, caller, disclose, kind)
        await self._record(caller, "issue", evidence_id, request_id)
        return data

    async def _record(self, caller: Caller, act: str, name: str, request_id: str) -> None:
        row = {
            "at_ms": round(self._clock().timestamp() * 1000),
            "account": caller.account,
            "act": act,
            "object": name,
            "request_id": request_id,
        }
        await self._log.write(lambda connection: rows.write_audit(connection, [row]))

    def _build(self, leaf_index: int, caller: Caller, fields: Sequence[str] | None, kind: str) -> tuple[bytes, str]:
        if leaf_index >= self._anchoring.covered:
            raise NotFinal("the item is not on enough chains yet", hint="ask again when its state is final")
        first = self._contents.open(leaf_index)
        indexes = [leaf_index]
        link = first.evidence.statement.link
        if kind == "transaction":
            if link is None:
                raise Malformed("the item is no part of a transaction: expected one with a link")
            indexes = self._query.parts(link.code, caller)
            if any(index >= self._anchoring.covered for index in indexes):
                raise NotFinal("a part of the transaction is not on enough chains yet", hint="ask again when all parts are final")
        items = [first if index == leaf_index else self._contents.open(index) for index in indexes]
        data = pack({**self._files(items, caller, fields), **self._blocks(items)}, kind)
        report = verify(data, self.trust())
        if report.verdict is not Verdict.VALID:
            wrong = [f"{step.number}: {step.detail}" for step in report.steps if step.verdict not in (None, Verdict.VALID)]
            raise VerificationError(f"our own verifier does not accept the bundle ({'; '.join(wrong)[:300]})")
        return data, first.evidence.evidence_id

    def _blocks(self, items: Sequence[Opened]) -> dict[str, bytes]:
        """The stored proofs of the blocks that the items name: the same whatever the chain says today."""
        named = {(ref.chain, ref.height, ref.hash): ref for opened in items for ref in opened.evidence.after}
        with self._store.reading() as connection:
            found = [rows.read_block(connection, named[mark]) for mark in sorted(named)]
        return {f"blocks/{number}.json": proof for number, proof in enumerate(filter(None, found))}

    def answer(
        self,
        leaf_indexes: Sequence[int],
        files: Mapping[str, bytes],
        caller: Caller,
        *,
        named: Sequence[BlockRef],
        prove: Callable[[Iterable[BlockRef]], Sequence[bytes]],
        erased: Sequence[bytes] = (),
        withheld: Collection[int] = (),
    ) -> tuple[bytes, Report]:
        """The bundle of an answer about a stream, and what our own verifier says of it.

        `leaf_indexes` are the items that stand beside it, that of the last slice shown first; `files` those of the answer.
        `prove` gives the proofs of blocks that it can: of those `named` by headers, and those that the items name.
        `erased` are items among them whose contents were destroyed: the record of each erasure is shown.
        `withheld` are the checks that cannot hold because lines are left out on purpose: all others must.
        Raises: NotFinal if an item is on too few chains; VerificationError if our own verifier refuses the answer.
        Source: T/SAC 004—2024 6.4.5-d, C.2; formats §5.6, §6.1.
        """
        graves = [self._query.erasure_of(item) for item in erased]
        if any(index >= self._anchoring.covered for index in (*leaf_indexes, *graves)):
            what = "a slice of the answer, or the record of its erasure, is not on enough chains yet"
            raise NotFinal(what, hint="ask again when its state is final")
        items = [self._unopened(index) for index in leaf_indexes]
        proven = prove([*named, *(ref for opened in items for ref in opened.evidence.after)])
        blocks = {f"blocks/{number}.json": proof for number, proof in enumerate(proven)}
        own = self._files(items, caller, [], graves=[self._contents.open(index) for index in graves])
        data = pack({**files, **blocks, **own}, "answer")
        report = verify(data, self.trust(), named=False)
        bad = [step for step in report.steps if step.verdict is Verdict.INVALID and step.number not in withheld]
        if report.verdict is None or bad:
            wrong = [f"{step.number}: {step.detail}" for step in bad]
            raise VerificationError(f"our own verifier refuses the answer ({'; '.join(wrong)[:300] or report.malformed})")
        return data, report

    def _unopened(self, leaf_index: int) -> Opened:
        """The item without its contents: what proves it stays when they were erased."""
        row, evidence = self._contents.evidence(leaf_index)
        return Opened(row, evidence, template_of(evidence), None, None, ())

    def _files(
        self, items: Sequence[Opened], caller: Caller, fields: Sequence[str] | None, *, graves: Sequence[Opened] = ()
    ) -> dict[str, bytes]:
        shown = self._anchors([*items, *graves])
        files: dict[str, bytes] = {}
        for number, anchor in enumerate(shown):
            files[f"anchors/{number}/payload.json"] = anchor.row.payload
            files[f"anchors/{number}/receipt.json"] = anchor.row.receipt or b""
        certificates: dict[bytes, None] = {}
        for number, opened in enumerate(items):
            files.update(self._item_files(number, opened, shown, caller, fields))
            signature = opened.evidence.signature
            if signature is not None and signature.by_certificate:
                certificates.setdefault(bytes.fromhex(signature.signer))
        for number, grave in enumerate(graves):
            files[f"erasure/{number}.json"] = self._tombstone(grave, shown)
        files.update(self._consistency(shown))
        files.update(self._signing.bundle_files(list(certificates)))
        return files

    def _anchors(self, items: Sequence[Opened]) -> list[_Shown]:
        """Per chain the first anchor whose range holds each item; sorted by chain and start (formats §11, Anchors)."""
        found: dict[tuple[str, int], _Shown] = {}
        with self._store.reading() as connection:
            for opened in items:
                for chain in self._anchoring.chains.values():
                    row = anchors.covering(connection, chain.id, opened.row.leaf_index)
                    if row is not None and row.state == anchors.FINAL and row.receipt is not None:
                        found[chain.id, row.start] = _Shown(row, Payload.parse(row.payload))
        return [found[place] for place in sorted(found)]

    def _item_files(
        self, number: int, opened: Opened, shown: Sequence[_Shown], caller: Caller, fields: Sequence[str] | None
    ) -> dict[str, bytes]:
        index, smallest, state = opened.row.leaf_index, _smallest(opened, shown), self._log.state
        size = smallest.head.size
        prefix = f"evidence/{number}"
        proofs = (("sm3", Algorithm.SM3, smallest.checkpoint), ("sha256", Algorithm.SHA256, smallest.twin))
        files = {
            f"{prefix}/{name}.tlog-proof": TlogProof(
                index, tuple(state.tree(tree).inclusion_path(index, size)), Note.parse(note), tree
            )
            .format()
            .encode()
            for name, tree, note in proofs
        }
        files[f"{prefix}/evidence.json"] = opened.evidence.data
        files[f"{prefix}/template.json"] = opened.template.data
        disclosure = self._disclosure(opened, caller, fields)
        if disclosure is not None:
            files[f"{prefix}/disclosure.json"] = canonical(disclosure)
        return files

    def _tombstone(self, grave: Opened, shown: Sequence[_Shown]) -> bytes:
        """The record of an erasure as it stands beside what was erased: what, why, how far and when, but no person.

        Source: formats §7.1, §11 (Bundle: erasure/N.json).
        """
        index, smallest = grave.row.leaf_index, _smallest(grave, shown)
        path = tuple(self._log.state.tree(Algorithm.SM3).inclusion_path(index, smallest.head.size))
        fields = {(stage.name, field.name) for stage in grave.template.stages for field in stage.fields if field.grade is None}
        return canonical(
            {
                "disclosure": disclose(grave.template, grave.commitments(), fields),
                "evidence": b64(grave.evidence.data),
                "format": "cz-tombstone/1",
                "proof": TlogProof(index, path, Note.parse(smallest.checkpoint), Algorithm.SM3).format(),
            }
        )

    def _disclosure(self, opened: Opened, caller: Caller, fields: Sequence[str] | None) -> JSONValue | None:
        may = shows_contents(opened, caller)
        if (
            opened.stages is None
            # Their stages are the digests of D, H and index, not trees over fields: there is no leaf to show.
            or opened.template.model is DataModel.STREAM
            or (not may and fields is None)
            or (fields is not None and not [name for name in fields if name])
        ):
            return None
        if not may:
            raise Forbidden("role may not disclose contents: expected court, or business of the item's subject")
        wanted = None if fields is None else _wanted(opened, fields)
        return disclose(opened.template, opened.commitments(), wanted)

    def _consistency(self, shown: Sequence[_Shown]) -> dict[str, bytes]:
        """Consistency proofs between neighbours by size, in both trees (formats §11, Anchors)."""
        by_size = {anchor.payload.head.size: anchor.payload for anchor in shown}
        sizes, files = sorted(by_size), {}
        for old, new in pairwise(sizes):
            for name, tree, note in (
                ("sm3", Algorithm.SM3, by_size[new].checkpoint),
                ("sha256", Algorithm.SHA256, by_size[new].twin),
            ):
                path = tuple(self._log.state.tree(tree).consistency_path(old, new))
                files[f"log/{name}/{old}-{new}.consistency"] = ConsistencyProof(old, path, Note.parse(note)).format().encode()
        return files

    # --- 出证 as an act ---------------------------------------------------------------------------------------

    async def issue(self, request: JSONValue, caller: Caller, *, request_id: str) -> dict[str, JSONValue]:
        """An issuance of many items has begun; its progress is `status`, and when it is done it is itself preserved.

        Raises: Invalid with every wrong member; NotFound; Forbidden.
        Source: T/SAC 004—2024 6.4.6-p1, 6.4.6-p2; interface §3.
        """
        asked = await asyncio.to_thread(self._read_request, request, caller)
        name = "is_" + self._randomness(16).hex()
        values = {
            "name": name,
            "account": caller.account,
            "created_ms": round(self._clock().timestamp() * 1000),
            "request": canonical(asked),
            "state": _RUNNING,
            "done": 0,
            "total": len(asked["ids"]),
            "result": b"[]",
        }
        await self._log.write(lambda connection: connection.execute(insert(tables.issuance).values(**values)))
        task = asyncio.create_task(self._carry_out(name, asked, caller, request_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await self.status(name, caller)

    def _read_request(self, request: JSONValue, caller: Caller) -> dict[str, JSONValue]:
        if not isinstance(request, dict):
            raise Malformed("issuance request is not an object")
        problems = _request_problems(request)
        if problems:
            raise Invalid(f"issuance request has {len(problems)} problem{'s' if len(problems) > 1 else ''}", tuple(problems))
        ids, search, matter = request.get("ids"), request.get("search"), request.get("matter", "")
        fields, kind = request.get("disclose"), request.get("kind", "item")
        if search is not None:
            page = self._query.search({**search, "limit": MAX_IDS} if isinstance(search, dict) else search, caller)
            if page["total"] > MAX_IDS:
                raise Malformed(f"search gives {page['total']} items: expected at most {MAX_IDS}")
            found = [item["evidence_id"] for item in page["items"]]
        else:
            found = []
            for given in ids or []:
                row = self._contents.row(self._query.find(given, caller))
                found.append("ev_" + row.evidence_id.hex())
        if not found:
            raise NotFound("no item fits the issuance")
        return {"disclose": fields, "ids": list(dict.fromkeys(found)), "kind": kind, "matter": matter}

    async def _carry_out(self, name: str, asked: Mapping[str, JSONValue], caller: Caller, request_id: str) -> None:
        results: list[dict[str, JSONValue]] = []
        for identity in asked["ids"]:
            entry: dict[str, JSONValue] = {"evidence_id": identity}
            try:
                data = await self.bundle(identity, caller, disclose=asked["disclose"], kind=asked["kind"], request_id=request_id)
                leaf_index = await asyncio.to_thread(self._query.find, identity, caller)
                row = await asyncio.to_thread(self._contents.row, leaf_index)
                bundle = {"bundle": pair(data).to_json(), "size": len(data), "package_hash": row.entry[:32].hex()}
                entry |= {**bundle, "state": "issued"}
            except EvidenceError as error:
                entry |= {"state": "refused", "reason": error.message}
            results.append(entry)
            await self._progress(name, _RUNNING, results, None)
        issued = [entry for entry in results if entry["state"] == "issued"]
        record = await self._preserve_act(name, asked, issued, caller, request_id) if issued else None
        await self._progress(name, _DONE if issued else _FAILED, results, record)

    async def _progress(self, name: str, state: str, results: Sequence[JSONValue], leaf_index: int | None) -> None:
        values = {"state": state, "done": len(results), "result": canonical(list(results)), "leaf_index": leaf_index}
        await self._log.write(
            lambda connection: connection.execute(update(tables.issuance).where(tables.issuance.c.name == name).values(**values))
        )

    async def _preserve_act(
        self,
        name: str,
        asked: Mapping[str, JSONValue],
        issued: Sequence[Mapping[str, JSONValue]],
        caller: Caller,
        request_id: str,
    ) -> int:
        """The issue is itself evidence: what was handed out, to whom, when (6.4.6: 行为留痕)."""
        body = {
            "template": "issue@1",
            "client_key": name,
            "stages": {"出证": issue_fields(name, asked, issued, caller.account, beijing_time(self._clock()))},
        }
        preserved = await self._preservation.preserve_own(body, request_id=request_id)
        return preserved.leaf_index

    async def status(self, name: str, caller: Caller) -> dict[str, JSONValue]:
        """State, progress and results of an issuance. Raises: NotFound."""
        return await asyncio.to_thread(self._status, name, caller)

    def _status(self, name: str, caller: Caller) -> dict[str, JSONValue]:
        with self._store.reading() as connection:
            row = connection.execute(select(tables.issuance).where(tables.issuance.c.name == name)).one_or_none()
            item = None if row is None or row.leaf_index is None else rows.read_item(connection, row.leaf_index)
        if row is None or (row.account != caller.account and not caller.roles & {Role.AUDITOR, Role.OPERATOR}):
            raise NotFound("no issuance has that id")
        asked = json.loads(row.request)
        return {
            "id": row.name,
            "state": row.state,
            "matter": asked["matter"],
            "done": row.done,
            "total": row.total,
            "items": json.loads(row.result),
            "record": None if item is None else "ev_" + item.evidence_id.hex(),
        }


def _smallest(opened: Opened, shown: Sequence[_Shown]) -> Payload:
    """The payload of the smallest checkpoint shown that holds the item."""
    above = [anchor.payload for anchor in shown if anchor.payload.head.size > opened.row.leaf_index]
    return min(above, key=lambda payload: payload.head.size)


def _request_problems(request: Mapping[str, JSONValue]) -> list[Problem]:
    ids, fields, matter = request.get("ids"), request.get("disclose"), request.get("matter", "")
    expected = (
        ("ids", "exactly one of ids and search", (ids is None) != (request.get("search") is None)),
        ("ids", f"an array of 1 to {MAX_IDS} evidence ids", ids is None or (_texts(ids) and 1 <= len(ids) <= MAX_IDS)),
        ("matter", "a text of at most 256 characters", isinstance(matter, str) and len(matter) <= 256),
        ("disclose", "an array of field names", fields is None or _texts(fields)),
        ("kind", "item or transaction", request.get("kind", "item") in ("item", "transaction")),
    )
    wrong = [(name, text) for name, text, holds in expected if not holds]
    problems = [Problem(f"/{name}", name, "出证请求", text, "something else", "6.4.6-p1") for name, text in wrong]
    return problems + list(unknown_members("", "member", "出证请求", request, sorted(_REQUEST), "6.4.6-p1", of="an issuance"))


def _texts(value: JSONValue) -> bool:
    return isinstance(value, list) and all(isinstance(member, str) for member in value)


def issue_fields(
    name: str, asked: Mapping[str, JSONValue], issued: Sequence[Mapping[str, JSONValue]], account: str, at: str
) -> dict[str, JSONValue]:
    """The fields of `issue@1` for one act."""
    return {
        "issuance_id": name,
        "issued_at": at,
        "issued_to": account,
        "matter": asked["matter"] or None,
        "items": [
            {
                "evidence_id": entry["evidence_id"],
                "package_hash": entry["package_hash"],
                "bundle_sm3": entry["bundle"]["sm3"],
                "bundle_sha256": entry["bundle"]["sha256"],
            }
            for entry in issued
        ],
        "disclosed": None if asked["disclose"] is None else canonical(asked["disclose"]).decode(),
        "originals": 0,
    }


def _wanted(opened: Opened, names: Sequence[str]) -> set[tuple[str, str]]:
    """The (stage, field) pairs that names like FIELD or STAGE/FIELD mean; every unknown one is reported."""
    wanted: set[tuple[str, str]] = set()
    problems = []
    for name in filter(None, names):
        stage_name, _, field_name = name.rpartition("/")
        found = {
            (stage, field)
            for stage in opened.stages or {}
            for field in opened.template.by_name[stage].by_name
            if field == field_name and stage_name in ("", stage)
        }
        if not found:
            problems.append(
                Problem(
                    "/disclose",
                    "disclose",
                    "披露字段",
                    "fields of the stages of this item",
                    f"a name of {len(name)} characters",
                    "6.4.6-p1",
                )
            )
        wanted |= found
    if problems:
        raise Invalid("disclosure names fields that the item does not have", tuple(problems))
    return wanted
