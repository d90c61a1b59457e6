"""A relay between a client and PostgreSQL that can lose the COMMIT, or the answer to it.

In both cases the client sees the same broken connection, and only the database knows what happened: that is the commit of
unknown outcome. The relay reads the wire protocol far enough to see it (PostgreSQL manual, "Frontend/Backend Protocol").
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104


class Loss(StrEnum):
    """What is lost of the next commit."""

    REQUEST = "request"  # the server never hears COMMIT: the transaction is rolled back
    RESPONSE = "response"  # the server commits: its answer never arrives


class Relay:
    """Listens on 127.0.0.1:`port` and passes everything on, until told to lose something.

    `lost` counts the commits it lost, so that a test can show that the fault happened.
    """

    def __init__(self, server_port: int) -> None:
        self.lost = 0
        self._server_port = server_port
        self._loss: Loss | None = None
        self._skip = 0
        self._guard = threading.Lock()
        self._connections: set[_Connection] = set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def lose(self, loss: Loss, *, after_commits: int = 0) -> None:
        """The next COMMIT, or the one `after_commits` later, is lost in the way told; later ones pass."""
        with self._guard:
            self._loss, self._skip = loss, after_commits

    def cut(self) -> None:
        """Every connection breaks now; new ones are taken."""
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            connection.close()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def take_loss(self) -> Loss | None:
        """What happens to the COMMIT that was just seen."""
        with self._guard:
            if self._loss is None:
                return None
            if self._skip:
                self._skip -= 1
                return None
            loss, self._loss = self._loss, None
            self.lost += 1
            return loss

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:  # the server is down: the client sees what it would see without the relay
                client.close()
                continue
            connection = _Connection(self, client, server)
            with self._guard:
                self._connections.add(connection)
            for pump in (connection.to_server, connection.to_client):
                threading.Thread(target=self._run, args=(connection, pump), name="relay", daemon=True).start()

    def _run(self, connection: "_Connection", pump: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, EOFError):
            pump()
        connection.close()
        with self._guard:
            self._connections.discard(connection)


class _Connection:
    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self._relay = relay
        self._client = client
        self._server = server
        self._started = threading.Event()
        self._swallow = threading.Event()
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def to_server(self) -> None:
        while True:  # before the start-up message a client may ask for encryption, which the server answers with one byte
            head = _exactly(self._client, 8)
            length, code = struct.unpack("!II", head)
            self._server.sendall(head + _exactly(self._client, length - 8))
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            self._client.sendall(_exactly(self._server, 1))
        # The first thread alone reads the server's one-byte answers; the other begins once typed messages flow.
        self._started.set()
        while True:
            message = _message(self._client)
            if _is_commit(message):
                loss = self._relay.take_loss()
                if loss is Loss.REQUEST:
                    return
                if loss is Loss.RESPONSE:
                    self._swallow.set()
            self._server.sendall(message)

    def to_client(self) -> None:
        self._started.wait()
        while True:
            message = _message(self._server)
            if not self._swallow.is_set():
                self._client.sendall(message)
            elif message[:1] == b"Z":  # ready for the next query: the commit is done, and nobody is told
                return

    def close(self) -> None:
        self._started.set()
        for side in (self._client, self._server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


def _message(source: socket.socket) -> bytes:
    head = _exactly(source, 5)
    return head + _exactly(source, int.from_bytes(head[1:], "big") - 4)


def _is_commit(message: bytes) -> bool:
    """Query and Parse messages carry SQL text; Parse has the statement's name before it."""
    if message[:1] == b"Q":
        text = message[5:]
    elif message[:1] == b"P":
        text = message[5:].partition(b"\0")[2]
    else:
        return False
    return text.lstrip()[:6].upper() == b"COMMIT"


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
