"""A healthy home of about 700 items of every kind, made once, and a copy of it to be injured."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homes import FUND, file_submission, preserve, preserved, serving, settings_of

from clock import ManualClock
from evidence.access import Role
from evidence.bootstrap import Service
from evidence.errors import Conflict
from evidence.examination.damage import DamageMap
from evidence.examine import examine
from evidence.sealing import Account, seal
from evidence.settings import AnchorMode, Settings
from models.checkpoint import STATEMENT_TYPE, vkey
from models.digest import Algorithm, Digest, pair
from models.example import example
from models.signature import SM2Signer
from models.template import builtin

UNIT_LIMIT = 2 << 20
INTERVAL_S = 3600
PAPERS = "tsac004.underwriting-papers@1"
SECRET = bytes(range(32))
ORIGINALS = {"small": b"a small original", "two segments": bytes(range(256)) * 6000, "parts": b"parts" * 900_000}


def settings_for(home: Path, **overrides: Any) -> Settings:
    """Settings under which anchors are made when the clock is moved, and only then."""
    batch = {"anchor_mode": AnchorMode.BATCH, "anchor_interval_s": INTERVAL_S}
    return settings_of(home, **{"unit_limit_bytes": UNIT_LIMIT, **batch, **overrides})


def examined(home: Path, **overrides: Any) -> DamageMap:
    return examine(settings_for(home, **overrides), clock=ManualClock())


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


async def upload(service: Service, data: bytes, account: str = "acct-1") -> str:
    digest = Digest(Algorithm.SM3, pair(data).sm3)
    await service.originals.put(digest, chunks(data), account=account)
    return str(digest)


def original_submission(key: str, data: bytes) -> dict[str, Any]:
    body = file_submission(key)
    digests = pair(data)
    fields = body["stages"]["文件"]
    digest = f"sm3:{digests.sm3.hex()}"
    fields["object"] = {"digest": digest, "twin": f"sha256:{digests.sha256.hex()}", "name": "o.bin", "size": len(data)}
    fields |= {"file_size": len(data), "file_name": "o.bin", "media_type": "application/octet-stream"}
    body["originals"] = [{"field": "object", "digest": digest, "name": "o.bin", "media_type": "application/octet-stream"}]
    return body


def sealed_submission(service: Service, key: str) -> dict[str, Any]:
    signer = SM2Signer.generate()
    subject_id, subject_name = service.home.facts.subject
    service.access.add("acct-1", roles=[Role.BUSINESS], subject=(subject_id, subject_name), expires_at=None)
    service.access.register_key("acct-1", str(vkey("acct-1", signer.public_key, STATEMENT_TYPE)))
    account = Account(service.origin, "acct-1", subject_id, subject_name)
    body = file_submission(key)
    body, _ = seal(body, builtin("file@1"), account=account, secret=SECRET, signer=signer, certificate=None)
    return body


async def settled(service: Service, clock: ManualClock) -> None:
    """What was preserved is final, in an anchor of its own."""
    clock.advance(INTERVAL_S)
    last = service.log.state.size - 1
    while service.anchoring.state_of(last) != "final":
        service.anchoring._wake()
        await service.anchoring.wait_final(last, 0.05)


@dataclass
class World:
    """A home and what lies where in it."""

    home: Path
    leaves: dict[str, list[int]] = field(default_factory=dict)
    chain: str = ""
    size: int = 0

    def copy(self, to: Path) -> World:
        shutil.copytree(self.home, to)
        return World(to, self.leaves, self.chain, self.size)

    @contextmanager
    def sql(self, name: str = "evidence.db") -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.home / name)) as connection, connection:
            yield connection

    def one(self, query: str, *values: Any, name: str = "evidence.db") -> Any:
        with self.sql(name) as connection:
            return connection.execute(query, values).fetchone()[0]

    def run(self, query: str, *values: Any, name: str = "evidence.db") -> None:
        with self.sql(name) as connection:
            assert connection.execute(query, values).rowcount >= 1

    def flip(self, table: str, column: str, where: str, *values: Any, at: int = 40, name: str = "evidence.db") -> None:
        """One bit of one value is other than it was."""
        found = bytearray(self.one(f"SELECT {column} FROM {table} WHERE {where}", *values, name=name))
        found[at % len(found)] ^= 4
        self.run(f"UPDATE {table} SET {column} = ? WHERE {where}", bytes(found), *values, name=name)

    def swap(self, table: str, column: str, where: str, first: Any, second: Any, name: str = "evidence.db") -> None:
        one, two = (self.one(f"SELECT {column} FROM {table} WHERE {where}", each, name=name) for each in (first, second))
        self.run(f"UPDATE {table} SET {column} = ? WHERE {where}", two, first, name=name)
        self.run(f"UPDATE {table} SET {column} = ? WHERE {where}", one, second, name=name)

    def object_of(self, what: str) -> tuple[int, str]:
        """Number and hex id of the object that holds an original, or its manifest."""
        leaf = self.leaves[what][0]
        query = "SELECT o.number, o.object_id FROM original o JOIN original_owner w USING (number) JOIN evidence e"
        with self.sql() as connection:
            number, name = connection.execute(f"{query} ON e.evidence_id = w.item WHERE e.leaf_index = ?", (leaf,)).fetchone()
        return number, name.hex()

    def file_of(self, name: str) -> Path:
        return self.home / "originals" / name[:2] / name[2:]

    def blocks(self, node: int) -> Path:
        return self.home / "chain" / f"node-{node}" / "blocks.jsonl"

    def starts(self) -> list[int]:
        with self.sql() as connection:
            return [row[0] for row in connection.execute("SELECT start FROM anchor ORDER BY start")]

    def rewrite(self, **changes: Any) -> None:
        """home.json says something else, in canonical form."""
        path = self.home / "home.json"
        value = json.loads(path.read_text("utf-8")) | changes
        path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True), "utf-8")


async def make_world(home: Path) -> World:
    """The healthy home: originals, links, HASH items, a sealed one, a conflict, files; several commits and anchors."""
    world, clock = World(home), ManualClock()
    async with serving(settings_for(home), clock) as service:
        for what, data in ORIGINALS.items():
            await upload(service, data)
            world.leaves[what] = [(await preserved(service, original_submission(f"original-{what}", data))).leaf_index]
        await upload(service, b"claimed by nobody")
        await settled(service, clock)
        fund = builtin(FUND)
        parts: list[int] = []
        for part, stage in enumerate(fund.stages[:4]):
            bodies = [example(fund, seed=bytes([s]), client_key=f"fund-{s}-{part}", stages=[stage.name]) for s in range(4)]
            bodies = [body | {"occurred_at": "2025-12-01T08:00:00.000Z"} for body in bodies]
            parts += [answer.leaf_index for answer in await _all(service, bodies)]
            clock.advance(1)
        world.leaves["links"] = parts
        await settled(service, clock)
        bodies = [example(builtin(PAPERS), seed=bytes([s]), client_key=f"papers-{s}") for s in range(40)]
        world.leaves["papers"] = [answer.leaf_index for answer in await _all(service, bodies)]
        await settled(service, clock)
        world.leaves["sealed"] = [(await preserved(service, sealed_submission(service, "sealed-1"))).leaf_index]
        await preserved(service, file_submission("taken"))
        (refused,) = await preserve(service, file_submission("taken", source="另一来源"))
        assert isinstance(refused, Conflict)
        world.leaves["conflict"] = [service.log.state.size - 1]
        files: list[int] = []
        for batch in range(8):
            bodies = [file_submission(f"file-{batch}-{place}") for place in range(80)]
            files += [answer.leaf_index for answer in await _all(service, bodies)]
            clock.advance(1)
            if batch in (2, 5, 7):
                await settled(service, clock)
        world.leaves["files"] = files
        world.size = service.log.state.size
        (world.chain,) = service.chains
    return world


async def _all(service: Service, bodies: list[dict[str, Any]]) -> list[Any]:
    answers = await preserve(service, *bodies)
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    return answers
