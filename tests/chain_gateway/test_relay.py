from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chain_gateway.relay import Fault, TCPRelay


class Counter:
    """A server that counts the lines it was sent and answers each with the count."""

    def __init__(self) -> None:
        self.lines = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            self.lines += 1
            writer.write(f"{self.lines}\n".encode())
            await writer.drain()
        writer.close()


@pytest.fixture
async def counter() -> AsyncIterator[Counter]:
    found = Counter()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


@pytest.fixture
async def relay(counter: Counter) -> AsyncIterator[tuple[TCPRelay, int]]:
    found = TCPRelay("127.0.0.1", counter.port)
    port = await found.start()
    yield found, port
    await found.aclose()


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"act\n")
    answer = await reader.readline()
    writer.close()
    return answer


async def test_relay_forwards_until_a_fault_is_armed(counter: Counter, relay: tuple[TCPRelay, int]) -> None:
    assert [await ask(relay[1]) for _ in range(2)] == [b"1\n", b"2\n"]
    assert counter.lines == 2


async def test_lost_response_means_that_the_node_acted_once(counter: Counter, relay: tuple[TCPRelay, int]) -> None:
    relay[0].arm(Fault.LOSE_RESPONSE)
    assert await ask(relay[1]) == b""
    assert counter.lines == 1
    assert await ask(relay[1]) == b"2\n"


async def test_lost_request_means_that_the_node_never_heard(counter: Counter, relay: tuple[TCPRelay, int]) -> None:
    relay[0].arm(Fault.LOSE_REQUEST)
    assert await ask(relay[1]) == b""
    assert counter.lines == 0
    assert await ask(relay[1]) == b"1\n"


def test_wire_cannot_double_a_request() -> None:
    with pytest.raises(ValueError, match="double"):
        TCPRelay("127.0.0.1", 1).arm(Fault.DOUBLE_REQUEST)
