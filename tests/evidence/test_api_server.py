"""The bounds that the protocol adds, on a bare application; and the service as a process: ready, stopped, restarted."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from api_service import PROGRAM, process, running
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from evidence.api.server import MAX_HEAD_BYTES, BoundedProtocol, listen
from evidence.errors import SettingWrong
from evidence.settings import AnchorMode
from models.example import example
from models.template import builtin

WAIT_S = 10


class Impatient(BoundedProtocol):
    head_timeout_s = 0.2
    body_timeout_s = 0.2
    linger_s = 0.2


async def _application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once and reads no body."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def _patient(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for the body, and answers what kind of message came."""
    said = (await receive())["type"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


@contextlib.asynccontextmanager
async def _server(
    protocol: type[HttpToolsProtocol], application: ASGIApp = _application, *, date_header: bool = False
) -> AsyncIterator[int]:
    config = uvicorn.Config(
        application, http=protocol, server_header=False, date_header=date_header, ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    found = listen("127.0.0.1", 0)
    running = asyncio.ensure_future(server.serve(sockets=[found]))
    try:
        yield found.getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def _talk(port: int, data: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(WAIT_S):
            return await reader.read()
    finally:
        writer.close()


async def test_a_whole_request_is_answered_and_the_connection_kept() -> None:
    async with _server(BoundedProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(2) == b"ok"
        writer.close()


async def _shapes(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers in every shape that an application may, by the path."""
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"x", b"1")]}
    sized = {**start, "headers": [(b"content-length", b"4"), (b"x", b"1")]}
    piece = {"type": "http.response.body", "body": b"ab", "more_body": True}
    whole = {"type": "http.response.body", "body": b"abcd"}
    said = {
        "/whole": (sized, whole),
        "/capital": ({**sized, "headers": [*sized["headers"], (b"Y", b"1")]}, whole),
        "/percent": ({**sized, "headers": [*sized["headers"], (b"y%b%%", b"%b %% \xff")]}, whole),
        "/twice": ({**sized, "headers": [*sized["headers"], (b"content-length", b"5")]}, whole),
        "/chunked": ({**sized, "headers": [*sized["headers"], (b"transfer-encoding", b"chunked")]}, whole),
        "/bare": ({**start, "headers": []}, whole),
        "/pieces": (sized, piece, {**piece, "more_body": False}),
        "/unsized": (start, piece, piece, {"type": "http.response.body"}),
        "/closing": ({**sized, "headers": [*sized["headers"], (b"Connection", b"close")]}, whole),
        "/empty": ({**start, "status": 204}, {"type": "http.response.body"}),
        "/short": (sized, {**whole, "body": b"abc"}),
        "/split": ({**sized, "headers": [*sized["headers"], (b"y", b"a\r\nset-cookie: b")]}, whole),
        "/headless": (whole,),
        "/bodiless": (sized,),
        "/nothing": (),
    }.get(scope["path"])
    if said is None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        said = ({**start, "headers": [(b"content-length", b"%d" % len(body))]}, {**whole, "body": body})
    for message in said:
        await send(message)


_ASKED = [
    *(b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n" % path for path in (b"whole", b"pieces", b"unsized", b"empty", b"closing")),
    *(b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n" % path for path in (b"capital", b"short", b"split", b"headless", b"nothing")),
    *(b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n" % path for path in (b"percent", b"twice", b"chunked", b"bare")),
    *(b"HEAD /%b HTTP/1.1\r\nhost: a\r\n\r\n" % path for path in (b"whole", b"pieces", b"unsized")),
    b"GET /whole HTTP/1.0\r\nhost: a\r\n\r\n",
    b"GET /whole HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na" * 3,
    b"POST /whole HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na" + b"GET /unsized HTTP/1.1\r\nhost: a\r\n\r\n" * 2,
]


@pytest.mark.parametrize("asked", _ASKED, ids=range(len(_ASKED)))
async def test_an_answer_in_one_piece_is_what_the_server_would_have_sent_in_two(asked: bytes) -> None:
    async with _server(HttpToolsProtocol, _shapes) as theirs, _server(BoundedProtocol, _shapes) as ours:
        last = b"GET /whole HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        expected, got = await _talk(theirs, asked + last), await _talk(ours, asked + last)
    assert got == expected
    assert expected.startswith(b"HTTP/1.1 ") == (b"split" not in asked)


async def test_a_client_that_reads_nothing_is_not_answered_ahead() -> None:
    begun = 0

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (1 << 20))]})
        await send({"type": "http.response.body", "body": bytes(1 << 20)})

    async with _server(BoundedProtocol, long) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 100)
            for _ in range(5000):
                await asyncio.sleep(0)
            assert 0 < begun < 50
            while begun < 100:
                assert await reader.read(1 << 20)
        finally:
            writer.transport.abort()


async def test_an_answer_without_a_body_is_cut_and_not_half_sent() -> None:
    async with _server(BoundedProtocol, _shapes) as port:
        assert await _talk(port, b"GET /bodiless HTTP/1.1\r\nhost: a\r\n\r\n") == b""


async def test_a_body_that_comes_in_pieces_is_given_whole() -> None:
    async with _server(BoundedProtocol, _shapes) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nab", b"cd", b"ef"):
            writer.write(piece)
            await asyncio.sleep(0.02)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 6" in head
        assert await reader.readexactly(6) == b"abcdef"
        writer.close()


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nhost: a\r\n", b"G"], ids=["nothing", "half-head", "one-letter"])
async def test_a_head_that_does_not_come_ends_the_connection(beginning: bytes) -> None:
    async with _server(Impatient) as port:
        assert await _talk(port, beginning) == b""


async def test_a_second_request_has_the_same_bound_as_the_first() -> None:
    async with _server(Impatient) as port:
        answer = await _talk(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost:")
        assert answer.count(b"HTTP/1.1 200 ") == 1


async def test_a_body_of_which_nothing_comes_is_answered_as_ended() -> None:
    async with _server(Impatient, _patient) as port:
        head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n"
        assert (await _talk(port, head)).endswith(b"http.disconnect")
        assert (await _talk(port, head + b"ab")).endswith(b"http.request")


async def test_every_answer_has_its_date() -> None:
    async with _server(BoundedProtocol, _shapes, date_header=True) as port:
        for path in (b"echo", b"whole", b"pieces", b"unsized"):
            asked = b"POST /%b HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na" % path
            answer = await _talk(port, asked + b"GET /closing HTTP/1.1\r\nhost: a\r\n\r\n")
            assert answer.count(b"HTTP/1.1 200 ") == 2
            assert answer.count(b"\r\ndate: ") == 2


async def test_a_body_that_nobody_reads_ends_the_connection() -> None:
    async with _server(Impatient) as port:
        answer = await _talk(port, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc")
        assert answer.endswith(b"ok")


async def test_refuses_an_endless_head() -> None:
    async with _server(BoundedProtocol) as port:
        answer = await _talk(port, b"GET / HTTP/1.1\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1))
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_accepts_a_long_head_within_the_bound() -> None:
    async with _server(Impatient) as port:
        answer = await _talk(port, b"GET / HTTP/1.1\r\nconnection: close\r\nx: " + b"a" * (MAX_HEAD_BYTES // 2) + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"no http at all\r\n\r\n",
    ],
    ids=["negative-length", "two-lengths", "length-and-chunked", "no-http"],
)
async def test_refuses_a_head_that_can_be_read_in_two_ways(head: bytes) -> None:
    async with _server(BoundedProtocol) as port:
        assert (await _talk(port, head)).startswith(b"HTTP/1.1 400 ")


def test_a_taken_port_is_named() -> None:
    first = listen("127.0.0.1", 0)
    try:
        with pytest.raises(SettingWrong, match="address cannot be used"):
            listen("127.0.0.1", first.getsockname()[1])
    finally:
        first.close()


def _submission() -> dict[str, Any]:
    body: dict[str, Any] = example(builtin("file@1"), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))
    return body


def test_what_was_acknowledged_before_sigterm_is_there_after_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    acknowledged: list[str] = []
    refused: list[str] = []

    def send(client: httpx.Client) -> None:
        try:
            while True:
                response = client.post("/v1/evidence", json=_submission())
                if response.status_code == 201:
                    acknowledged.append(response.json()["evidence_id"])
                else:
                    refused.append(response.json()["type"])
                    return
        except httpx.TransportError:
            return  # the connection ended between two requests

    with process(home) as service:
        senders = [threading.Thread(target=send, args=(service.client(),)) for _ in range(4)]
        for sender in senders:
            sender.start()
        while len(acknowledged) < 20:
            assert service.process.poll() is None
        service.process.terminate()
        assert service.process.wait(60) == 0
        for sender in senders:
            sender.join()
        assert service.process.stdout is not None
        assert service.process.stdout.read().strip() == "ended"
    assert set(refused) <= {"/problems/unready"}
    with process(home) as service, service.client() as client:
        for evidence_id in acknowledged:
            assert client.get(f"/v1/evidence/{evidence_id}").status_code == 200
        assert client.get("/v1/evidence", params={"limit": 1}).json()["total"] == len(acknowledged)


def test_a_second_service_on_one_home_does_not_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with process(home):
        second = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(home)], capture_output=True, text=True, timeout=60, check=False
        )
    assert second.returncode != 0
    assert "http://" not in second.stdout


async def test_in_realtime_mode_an_answer_waits_for_the_chain(tmp_path: Path) -> None:
    with running(tmp_path / "home", anchor_mode=AnchorMode.REALTIME) as api, api.client() as client:
        assert client.post("/v1/evidence", json=_submission()).json()["state"] == "final"
