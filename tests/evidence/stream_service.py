"""Streams of a real service for tests: a collector over the network, driven by hand."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api_service import Running

from evidence.bootstrap import utc_now
from evidence.client import AsyncClient, Client
from evidence.collector import CollectorState, ServiceSink, Wish, declare, origin_of, pipeline_of, state_path
from evidence.stream_wire import Origin, SliceBody, signature_of
from models.extraction import Rule
from models.record import Buffer, Position, Record
from models.slice import Epoch, Kind, SliceHeader
from streaming.processing import Plan, process
from streaming.slicer import CutRule

WORDS = (b"ERROR", b"warn", "失败".encode())


@dataclass
class Stream:
    """One stream: its file, its collector's state, and the service it goes to."""

    running: Running
    folder: Path
    stream_id: str
    words: tuple[bytes, ...] = WORDS
    rules: tuple[Rule, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    account: str = "business"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.stream_id}.log"

    @property
    def state(self) -> CollectorState:
        return CollectorState.open(state_path(self.folder, self.stream_id), self.stream_id)

    def write(self, *lines: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def client(self) -> Client:
        return Client(self.running.url, token=self.running.tokens[self.account])

    def wish(self) -> Wish:
        return Wish(self.stream_id, f"file:{self.log}", "line", self.words, self.rules, self.options)

    def collect(self, *, lines: int = 10) -> None:
        """Read the file to its present end, as `stream run --once` does."""

        async def run() -> None:
            state = self.state
            async with AsyncClient(self.running.url, token=self.running.tokens[self.account]) as client:
                await declare(client, state, self.wish(), randomness=os.urandom)
                sink = ServiceSink(client, state, await origin_of(client))
                await pipeline_of(
                    state,
                    sink,
                    url=f"file:{self.log}",
                    cut=CutRule(lines=lines),
                    follow=False,
                    clock=utc_now,
                    randomness=os.urandom,
                ).run()

        asyncio.run(run())

    def declare(self) -> None:
        async def run() -> None:
            async with AsyncClient(self.running.url, token=self.running.tokens[self.account]) as client:
                await declare(client, self.state, self.wish(), randomness=os.urandom)

        asyncio.run(run())

    def ask(self, *words: str, **more: Any) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.query_stream(self.stream_id, {"keywords": list(words), **more})
        return found

    def origin(self) -> Origin:
        with self.client() as client:
            account = client.account()
        return Origin(account["log"], account["account"], account["subject"]["id"], account["subject"]["name"])

    def header(self, lines: Sequence[bytes], previous: SliceHeader | None, **other: Any) -> tuple[SliceHeader, bytes, bytes]:
        """(H, secret, packed) of a slice of `lines`, as an honest collector makes it."""
        declared = self.state.declared[-1]
        plan = Plan.of(declared.declaration, declared.keywords, secret=declared.secret)
        start = Position(0, 0) if previous is None else previous.end
        at, records = start.offset, []
        for line in lines:
            records.append(Record(at, line))
            at += len(line) + 1
        secret, number = os.urandom(32), 0 if previous is None else previous.number + 1
        made = process(Buffer.of(records), plan, secret=secret, number=number)
        values = {
            "previous": previous,
            "start": start,
            "end": Position(start.epoch, at),
            "created_at": utc_now(),
            "kind": Kind.DATA if lines else Kind.HEARTBEAT,
            "epoch": Epoch("test", True, "first") if previous is None else None,
            **other,
        }
        header = SliceHeader.build(declared.declaration, made.commitment, **values)
        return header, secret, made.packed

    def body(self, header: SliceHeader, secret: bytes, packed: bytes) -> SliceBody:
        statement = self.origin().of_slice(header)
        return SliceBody(header, statement, signature_of(statement, self.state.signer), secret, packed)
