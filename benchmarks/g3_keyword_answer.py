"""G3: one question about a keyword over 10⁴ slices of a stream: how long the answer with its proof takes, and how long it is.

A real service preserves a stream of slices with 32 keywords, one item of its log each, and anchors them
on the embedded ledger. Then it is asked for a keyword that no line holds, and for one that a line in every
thousandth slice holds. Measured in processor time is the whole of an answer: reading, proving, packing, and
our own verifier's pass over it before it leaves; then that verifier alone, in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial
from pathlib import Path

from harness import note, options, pin, report_limit, seconds_each

from evidence.access import Caller, Role
from evidence.bootstrap import Service, initialise, open_service, utc_now
from evidence.settings import load_settings
from evidence.stream_answers import StreamAnswer
from evidence.stream_wire import DeclareBody, SliceBody, declare_body, signature_of
from evidence.verifier import verify
from models.checkpoint import STATEMENT_TYPE, vkey
from models.declaration import Declaration
from models.record import Buffer, Position, Record
from models.report import Verdict
from models.signature import SM2Signer
from models.slice import Epoch, SliceHeader
from streaming.processing import Plan, process

STREAM = "bench"
SLICES = 10_000
HIT_EVERY = 1000
KEYWORDS = tuple(sorted([b"absent", b"seldom", *(b"word%02d" % number for number in range(30))]))
ANSWER_S, SLICE_BYTES, VERIFY_S, VERIFY_MB = 1.0, 1600, 10.0, 64

_VERIFY = """
import sys, threading, time, psutil
from evidence.verifier import verify
trust, data = open(sys.argv[2], "rb").read(), open(sys.argv[1], "rb").read()
process, done = psutil.Process(), threading.Event()
before = peak = process.memory_info().rss
def watch():
    global peak
    while not done.wait(0.02):
        peak = max(peak, process.memory_info().rss)
threading.Thread(target=watch, daemon=True).start()
began = time.thread_time()
report = verify(data, trust)
used = time.thread_time() - began
done.set()
print(report.verdict, used, (peak - before) / 1e6)
"""


class Collector:
    """A collector within the service's own process: what the network costs is not measured here."""

    def __init__(self, service: Service, caller: Caller) -> None:
        self._service, self._caller = service, caller
        self._signer, self._secret = SM2Signer.generate(), bytes(range(32))
        self._origin = service.streams.origin(caller)
        self._declaration = Declaration.build(
            stream_id=STREAM, log=self._origin.log, source="file:/var/log/bench.log", encoding="line",
            collector=vkey(caller.account, self._signer.public_key, STATEMENT_TYPE), keywords=KEYWORDS, rules=(),
            secret=self._secret, previous=None, max_silence_s=3600, slice_proof_s=86_400,
        )  # fmt: skip
        self._plan = Plan.of(self._declaration, KEYWORDS, secret=self._secret)

    async def collect(self, slices: int) -> None:
        """So many slices are preserved, one as soon as the other is."""
        body = declare_body(self._declaration, 0, KEYWORDS, origin=self._origin, secret=self._secret, signer=self._signer)
        await self._service.streams.declare(DeclareBody.parse(body), self._caller, request_id="bench")
        previous: SliceHeader | None = None
        for number in range(slices):
            made = self._slice(number, previous)
            previous = made.header
            await self._service.streams.put_slice(STREAM, made, self._caller, request_id="bench")

    def _slice(self, number: int, previous: SliceHeader | None) -> SliceBody:
        start, created_at = (Position(0, 0), utc_now()) if previous is None else (previous.end, utc_now())
        if previous is not None:
            created_at = max(created_at, previous.created_at + timedelta(milliseconds=1))
        at, records = start.offset, []
        for line in (
            b"2026-11-21T06:00:00Z INFO  word%02d order %d accepted" % (number % 30, number),
            b"2026-11-21T06:00:00Z DEBUG %s of order %d" % (b"seldom" if number % HIT_EVERY == 7 else b"end", number),
        ):
            records.append(Record(at, line))
            at += len(line) + 1
        secret = os.urandom(32)
        made = process(Buffer.of(records), self._plan, secret=secret, number=number)
        header = SliceHeader.build(
            self._declaration, made.commitment, previous=previous, start=start, end=Position(0, at),
            created_at=created_at, after=self._service.blocks.newest(created_at),
            epoch=Epoch("bench", previous_complete=True, reason="start") if previous is None else None,
        )  # fmt: skip
        statement = self._origin.of_slice(header)
        return SliceBody(header, statement, signature_of(statement, self._signer), secret, made.packed)


async def measured(work: Awaitable[object]) -> float:
    """Seconds of the processor that this whole process spent meanwhile."""
    began = time.process_time()
    await work
    return time.process_time() - began


async def ask(service: Service, caller: Caller, word: bytes) -> StreamAnswer:
    """The answer, which must be valid."""
    found = await service.stream_answers.query(STREAM, {"keywords": [word.decode()]}, caller)
    if found.report.verdict is not Verdict.VALID or found.bundle is None:
        raise RuntimeError(f"the answer is not valid: {found.value['indeterminate']}")
    return found


def verified(bundle: bytes, trust: bytes, folder: Path) -> tuple[float, float]:
    """Seconds and megabytes of the verifier, in a process of its own."""
    (folder / "answer.cz").write_bytes(bundle)
    (folder / "trust.toml").write_bytes(trust)
    command = [sys.executable, "-c", _VERIFY, str(folder / "answer.cz"), str(folder / "trust.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    verdict, seconds, megabytes = done.stdout.split()
    if verdict != "VALID":
        raise RuntimeError(f"the verifier says {verdict}")
    return float(seconds), float(megabytes)


async def run(folder: Path, slices: int, rounds: int) -> None:
    """The stream made, the questions asked, and what was measured said."""
    settings = load_settings({"EVIDENCE_HOME": str(folder / "home")}, anchor_interval_s=1.0)
    initialise(settings)
    service = await open_service(settings)
    await service.start()
    caller = Caller("local", frozenset({Role.BUSINESS}), settings.subject_id, settings.subject_name)
    try:
        collector = Collector(service, caller)
        taken = await measured(collector.collect(slices))
        note(
            f"G3 intake of {slices} slices of two lines: {1e3 * taken / slices:.2f} ms of the processor each, their making in it"
        )
        await service.anchoring.wait_final(service.log.state.size - 1, 60)
        limit = ANSWER_S * slices / SLICES
        for word, what in ((b"absent", "without hits"), (b"seldom", f"with a hit in every {HIT_EVERY}th slice")):
            found = await ask(service, caller, word)
            bundle, trust = found.bundle or b"", service.trust()
            whole = [await measured(ask(service, caller, word)) for _ in range(rounds)]
            # Its own verification, told apart: the same again in the same process.
            made = [both - seconds_each(partial(verify, bundle, trust, named=False), 1) for both in whole]
            against = f"a keyword {what} over {slices} slices"
            report_limit("G3", f"{against}, answered and verified, at most {limit:g} s", statistics.median(whole), limit, "s")
            report_limit("G3", f"{against}, the answer made, at most {limit:g} s", max(statistics.median(made), 1e-4), limit, "s")
            size = len(bundle) / slices
            report_limit("G3", f"the answer's length {what}, at most {SLICE_BYTES} bytes a slice", size, SLICE_BYTES, "bytes")
            seconds, megabytes = verified(bundle, trust, folder)
            report_limit("G3", f"the verifier on that answer, at most {VERIFY_S:g} s", seconds, VERIFY_S, "s")
            report_limit("G3", f"its memory above its input, at most {VERIFY_MB} MB", max(megabytes, 0.1), VERIFY_MB, "MB")
    finally:
        await service.stop()


def main() -> None:
    """Ten lines."""
    chosen = options(__doc__ or "")
    pin(0)
    with tempfile.TemporaryDirectory(prefix="evidence-bench-") as folder:
        asyncio.run(run(Path(folder), 40 if chosen.quick else SLICES, chosen.pairs))


if __name__ == "__main__":
    main()
