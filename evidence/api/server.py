"""The service on a socket: uvicorn with httptools and uvloop, bounded against slow and endless clients, ended gracefully."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from evidence.api.app import create_app
from evidence.api.problems import MEDIA_TYPE, HeadTooLarge, encode, problem_value
from evidence.api.requests import BODY_TIMEOUT_S
from evidence.bootstrap import Service, open_service, utc_now
from evidence.errors import SettingWrong
from evidence.settings import Settings
from models.errors import EvidenceError, Malformed

MAX_CONNECTIONS = 4096
MAX_HEAD_BYTES = 32 << 10
KEEP_ALIVE_S = 15
GRACE_S = 60
BACKLOG = 1024
SWITCH_S = 0.0005
GC_THRESHOLDS = (20_000, 20, 20)


def _last_words(status_line: bytes, error: EvidenceError) -> bytes:
    """The whole answer to what never became a request; the connection ends after it."""
    value = problem_value(error, request_id=os.urandom(16).hex(), language="en")
    body = encode(value)
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (status_line, MEDIA_TYPE.encode(), len(body)) + body


@lru_cache(maxsize=256)
def _form(status: int, names: tuple[bytes, ...]) -> tuple[int, bytes | None]:
    """Which header is the length, and a head of these headers with a place for each value; None where uvicorn has to judge.

    Applications give the same few lists of names again and again; values come from callers too, and are judged each time.
    """
    judged = {b"connection", b"transfer-encoding"}
    if b"content-length" not in names or any(HEADER_RE.search(name) or name != name.lower() or name in judged for name in names):
        return 0, None
    lines = [b"%b: \0\r\n" % name for name in names]
    head = b"".join((STATUS_LINE[status], *lines, b"\r\n"))
    return names.index(b"content-length"), head.replace(b"%", b"%%").replace(b"\0", b"%b")


class WholeCycle(RequestResponseCycle):
    """uvicorn's cycle of one request, which takes a body that has come whole and writes an answer that is whole in one piece.

    Nearly every exchange is both: then nothing waits on an event, and head and body leave in one system call.
    """

    body_timeout_s: float
    _held: Any = None

    async def receive(self) -> Any:
        """The next message of the request; that the client is gone where its body stays away."""
        if self.more_body and not self.body:
            # An application's own timer begins with the first piece, so it would wait for that for ever.
            try:
                async with asyncio.timeout(self.body_timeout_s):
                    return await super().receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
        if self.more_body or not self.body or self.waiting_for_100_continue or self.disconnected or self.response_complete:
            return await super().receive()
        message = {"type": "http.request", "body": bytes(self.body), "more_body": False}
        self.body = bytearray()
        self.message_event.clear()
        self.flow.resume_reading()
        return message

    async def send(self, message: Any) -> None:
        """Send a message of the answer; its head waits for the first piece of its body."""
        if message["type"] == "http.response.start" and not self.response_started:
            self.response_started, self._held = True, message
            return
        held, self._held = self._held, None
        if held is not None:
            if self._write_whole(held, message):
                return
            self.response_started = False
            await super().send(held)
        await super().send(message)

    def _write_whole(self, start: Any, message: Any) -> bool:
        """Whether the answer could be written as a whole: its length is stated and right, and the client is reading."""
        body = message.get("body", b"")
        if message.get("more_body") or self.flow.write_paused or self.disconnected or not self.keep_alive:
            return False
        headers = [*self.default_headers, *start["headers"]]
        length_at, form = _form(start["status"], tuple([name for name, _ in headers]))
        values = tuple([value for _, value in headers])
        if form is None or values[length_at] != b"%d" % len(body) or self.scope["method"] == "HEAD":
            return False
        if HEADER_VALUE_RE.search(b"".join(values)):
            return False
        self.waiting_for_100_continue = False
        self.transport.write(form % values + body)
        self.response_complete = True
        self.message_event.set()
        self.on_response()
        return True


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with three bounds that it lacks: size of a request's head, time for it, and time to drain.

    A timer is armed only when a piece of data leaves a request unfinished, so a client that sends a
    request in one piece costs none.
    """

    head_timeout_s = 10.0
    """From the connection, or a request's first byte, to the end of its head."""
    body_timeout_s = BODY_TIMEOUT_S
    """For how long the application waits for a piece of a body."""
    linger_s = 10.0
    """For how long a body that nobody reads any more may go on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._in_message = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base class
        """Begin, unless there are too many connections already."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._arm(self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is left unfinished has a deadline."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            error = HeadTooLarge(f"request head is too large: expected at most {MAX_HEAD_BYTES} bytes")
            self.transport.write(_last_words(b"431 Request Header Fields Too Large", error))
            self.transport.close()
        elif self._in_message and self._in_head and self._deadline is None:
            self._arm(self.head_timeout_s)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the base class's text for people
        """Say that this is no HTTP request, in the form of every other refusal."""
        error = Malformed("request could not be read: expected HTTP/1.1 with one length and names of token characters")
        self.transport.write(_last_words(b"400 Bad Request", error))
        self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_message = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole; the application bounds the body."""
        self._in_head, self._head_bytes = False, 0
        self._disarm()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            # uvicorn names the class itself; nothing of the cycle has run yet.
            cycle: Any = self.cycle
            cycle.__class__, cycle.body_timeout_s = WholeCycle, self.body_timeout_s

    def on_message_complete(self) -> None:
        """All of it has come."""
        self._in_message, self._in_head, self._head_bytes = False, True, 0
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered; if its body is still coming, nobody reads it, and that too has an end."""
        super().on_response_complete()
        if self._in_message and not self.transport.is_closing():
            self._arm(self.linger_s)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; port 0 takes any free one.

    Raises: SettingWrong if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Taken over by every connection: a client that waits for an answer is not held back for 40 ms by its own acknowledgement.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise SettingWrong(
            f"address cannot be used: {host} port {port} ({error.strerror})", hint="set EVIDENCE_PORT or --port"
        ) from error
    found.listen(BACKLOG)
    return found


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it answers."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[str], object]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the service and accept connections."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def make_server(service: Service, *, listening: Callable[[str], object] = lambda _url: None) -> uvicorn.Server:
    """The server for `service`, not started yet; `serve(sockets=[…])` runs it until `should_exit`.

    `listening` is called once with the address, as soon as requests are answered.
    """
    config = uvicorn.Config(
        create_app(service),
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    return _Server(config, listening)


def serve(settings: Settings, *, listening: Callable[[str], object] = lambda _url: None) -> None:
    """The service runs until SIGTERM or SIGINT; then it accepts nothing more, finishes what it accepted, and returns.

    `listening` is called once with the address, as soon as requests are answered.

    Raises: SettingWrong if the address cannot be used; HomeRefused and what else opening the service raises.
    """
    # A thread that parses a long body gives way to the loop within half a millisecond instead of five.
    sys.setswitchinterval(SWITCH_S)
    # Items live until their commit: looking for cycles among them after every few hundred objects finds nothing.
    gc.set_threshold(*GC_THRESHOLDS)
    # A SIGTERM that comes while the service is being opened is kept until uvicorn listens to signals itself. uvicorn raises
    # the signal anew once it has ended gracefully: a SIGTERM obeyed is no failure.
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, listening, stop))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform, and nothing else depends on it
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class _Stop:
    """Tells the server to end: at once when there is one, otherwise as soon as there is."""

    def __init__(self) -> None:
        self._told = False
        self._server: uvicorn.Server | None = None

    def __call__(self, _number: int, _frame: object) -> None:
        self._told = True
        if self._server is not None:
            self._server.should_exit = True

    def watch(self, server: uvicorn.Server) -> uvicorn.Server:
        self._server = server
        server.should_exit = server.should_exit or self._told
        return server


async def _serve(settings: Settings, listening: Callable[[str], object], stop: _Stop) -> None:
    # The address first: a second service on one port must fail before it touches anything.
    found = listen(settings.host, settings.port)
    try:
        service = await open_service(settings, clock=utc_now)
        await stop.watch(make_server(service, listening=listening)).serve(sockets=[found])
    finally:
        found.close()
