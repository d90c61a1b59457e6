"""A closed-loop load generator in a process of its own: every connection sends its next request when the last is answered.

`python load.py URL TOKEN CONNECTIONS REQUESTS SECONDS FIRST ITEMS` sends at most REQUESTS requests and
begins none after SECONDS; it prints one JSON line with the count, the time, two latencies and the promises in the last answer. It
talks to the loopback address only. ITEMS above 1 puts so many submissions into each request
(`/v1/evidence:batch`). All bodies are made before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from hashlib import new, sha256
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

BODY_BYTES = 1024
_LENGTH = b"content-length: "


def submission(number: int) -> bytes:
    """A valid file@1 submission of exactly 1 KiB, no two alike."""
    data = b"%d" % number
    text = (
        f'{{"template":"file@1","client_key":"bench-{sha256(data).hexdigest()[:32]}","stages":{{"文件":{{'
        f'"file_name":"合同-{number}.pdf","file_size":1024,"media_type":"application/pdf","object":{{'
        f'"digest":"sm3:{new("sm3", data).hexdigest()}","name":"合同-{number}.pdf","size":1024,'
        f'"twin":"sha256:{sha256(data).hexdigest()}"}},"collected_at":"2026-11-21T10:32:05+08:00","source":"'
    ).encode()
    return text + b"s" * (BODY_BYTES - len(text) - 4) + b'"}}}'


def request(host: str, token: str, first: int, items: int) -> bytes:
    """One whole request: a submission, or a batch of them."""
    path = b"/v1/evidence"
    body = submission(first)
    if items > 1:
        path = b"/v1/evidence:batch"
        body = b'{"submissions":[' + b",".join([submission(first + at) for at in range(items)]) + b"]}"
    head = (
        f"POST {path.decode()} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Run:
    """What is still to be sent, and what came of the rest."""

    requests: list[bytes]
    until: float
    done: asyncio.Future[None]
    open: int
    latencies: list[float] = field(default_factory=list)
    ended: float = 0.0
    sample: bytes = b""


class Connection(asyncio.Protocol):
    """One connection of the loop: sends, waits for the whole answer, sends again."""

    def __init__(self, run: Run, expected: bytes) -> None:
        self._run, self._expected = run, expected
        self._held = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for `begin`."""
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        """Send the next request, or end where none is left or the time is over."""
        run = self._run
        now = time.perf_counter()
        if not run.requests or now >= run.until or self._transport is None:
            run.open -= 1
            if not run.open and not run.done.done():
                run.done.set_result(None)
            return
        self._sent_at = now
        self._transport.write(run.requests.pop())

    def data_received(self, data: bytes) -> None:
        """Collect the answer; once it is whole, check it and go on."""
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self._held.find(_LENGTH, 0, end) + len(_LENGTH)
        size = int(self._held[at : self._held.index(b"\r", at)])
        if len(self._held) < end + 4 + size:
            return
        run = self._run
        if not self._held.startswith(self._expected):
            self._fail(f"answer is not the one expected: {self._held[:400]!r}")
            return
        run.ended = time.perf_counter()
        run.latencies.append(run.ended - self._sent_at)
        run.sample = self._held[end + 4 :]
        self._held = b""
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends before the run does is a failure of the run."""
        if not self._run.done.done():
            self._fail(f"connection was lost: {exc}")

    def _fail(self, why: str) -> None:
        if not self._run.done.done():
            self._run.done.set_exception(RuntimeError(why))


async def drive(url: str, connections: int, requests: list[bytes], seconds: float, expected: bytes) -> Run:
    """Send the requests over so many connections; every answer must begin with `expected`."""
    loop = asyncio.get_running_loop()
    run = Run(requests, 0.0, loop.create_future(), connections)
    address = urlsplit(url)
    if address.hostname != "127.0.0.1":
        raise SystemExit("the load generator talks to 127.0.0.1 only")
    opened = [
        await loop.create_connection(lambda: Connection(run, expected), address.hostname, address.port or 80)
        for _ in range(connections)
    ]
    run.until = time.perf_counter() + seconds
    for _, each in opened:
        each.begin()
    async with asyncio.timeout(seconds + 60):
        await run.done
    for transport, _ in opened:
        transport.close()
    return run


def percentile_ms(latencies: list[float], share: float) -> float:
    """The latency that so many of the requests kept."""
    ordered = sorted(latencies)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def promises(answer: dict[str, Any]) -> int:
    """How many items of an answer came with a signed checkpoint and a path to it."""
    kept = [one["promise"] for one in answer.get("results", [answer]) if one.get("status", 201) == 201]
    return sum(1 for each in kept if each and each["checkpoint"].count("\n") >= 5 and isinstance(each["inclusion_proof"], list))


def main() -> None:
    """Run once and print the outcome."""
    url, token, connections, count, seconds, first, items = sys.argv[1:8]
    host = url.removeprefix("http://")
    made = [request(host, token, int(first) + number * int(items), int(items)) for number in range(int(count))]
    expected = b"HTTP/1.1 201" if int(items) == 1 else b"HTTP/1.1 200"
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    run = uvloop.run(drive(url, int(connections), made, float(seconds), expected))
    outcome = {
        "requests": len(run.latencies),
        "seconds": run.ended - began,
        "p50_ms": percentile_ms(run.latencies, 0.50),
        "p99_ms": percentile_ms(run.latencies, 0.99),
        "promises": promises(json.loads(run.sample)),
    }
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
