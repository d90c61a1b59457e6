"""Relays that lose, double or delay what passes between a driver and its node, after the node acted.

`GatewayRelay` stands in front of any gateway inside a process; `TCPRelay` stands on the wire, for
engines whose nodes listen on one. A conformance harness offers whichever sits closest to the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from enum import StrEnum
from typing import Protocol

from chain_gateway.port import ChainGateway, ChainUnavailable, Consensus, NotSubmitted, OutcomeUnknown
from models.anchor import Anchor, Block, BlockRef, ChainReceipt, TxId
from models.canonical import JSONValue
from models.digest import Digest

READ_BYTES = 1 << 16


class Fault(StrEnum):
    """What a relay does to the next submission, once."""

    LOSE_REQUEST = "lose-request"
    LOSE_RESPONSE = "lose-response"
    DOUBLE_REQUEST = "double-request"


class Relay(Protocol):
    """Something between a gateway and its node that can be told to fail."""

    def arm(self, fault: Fault) -> None:
        """The next submission, and only that, meets `fault`."""


class GatewayRelay:
    """A gateway in front of another: the inner one really acts, and its answer may never arrive."""

    def __init__(self, inner: ChainGateway) -> None:
        self._inner = inner
        self._fault: Fault | None = None
        self.chain_id: str = inner.chain_id
        self.engine: str = inner.engine
        self.node: int = inner.node
        self.max_payload_bytes: int = inner.max_payload_bytes
        self.consensus: Consensus = inner.consensus

    def arm(self, fault: Fault) -> None:
        """The next submission, and only that, meets `fault`."""
        self._fault = fault

    def trust(self) -> dict[str, JSONValue]:
        """What the inner gateway says of its chain."""
        return self._inner.trust()

    async def submit(self, anchor: Anchor) -> TxId:
        """As the inner gateway does, unless a fault is armed.

        Raises: OutcomeUnknown after a lost response, NotSubmitted after a lost request; what the inner gateway raises.
        """
        fault, self._fault = self._fault, None
        if fault is Fault.LOSE_REQUEST:
            raise NotSubmitted("request was lost before it reached the node")
        tx_id = await self._inner.submit(anchor)
        if fault is Fault.DOUBLE_REQUEST:
            tx_id = await self._inner.submit(anchor)
        if fault is Fault.LOSE_RESPONSE:
            raise OutcomeUnknown("response was lost after the node had acted")
        return tx_id

    async def receipt(self, tx_id: TxId) -> ChainReceipt | None:
        """As the inner gateway."""
        return await self._inner.receipt(tx_id)

    async def find(self, key: Digest) -> TxId | None:
        """As the inner gateway."""
        return await self._inner.find(key)

    async def head(self) -> BlockRef:
        """As the inner gateway."""
        return await self._inner.head()

    def blocks(self, start: int, stop: int) -> AsyncIterator[Block]:
        """As the inner gateway."""
        return self._inner.blocks(start, stop)

    async def aclose(self) -> None:
        """The inner gateway is closed."""
        await self._inner.aclose()


class TCPRelay:
    """A relay of one TCP address: forwards byte for byte until a fault is armed.

    With `LOSE_RESPONSE` the next connection that sends something is cut when its first answering
    bytes arrive: the node has acted, the driver hears nothing. With `LOSE_REQUEST` it is cut before
    anything is forwarded. `DOUBLE_REQUEST` means nothing on a wire and is refused.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._fault: Fault | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def arm(self, fault: Fault) -> None:
        """The next request on any connection meets `fault`.

        Raises: ValueError for a fault that a wire cannot have.
        """
        if fault is Fault.DOUBLE_REQUEST:
            raise ValueError("a TCP relay cannot double a request: it does not know where one ends")
        self._fault = fault

    async def start(self) -> int:
        """The relay listens on 127.0.0.1; the port is given back.

        Raises: ChainUnavailable if it cannot listen.
        """
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        except OSError as error:
            raise ChainUnavailable(f"relay cannot listen: {error.strerror}") from error
        return int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """The relay and its connections are closed."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            node_reader, node_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        pumps = {
            asyncio.create_task(self._requests(reader, node_writer)),
            asyncio.create_task(self._responses(node_reader, writer)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, node_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, node: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            if self._fault is Fault.LOSE_REQUEST:
                self._fault = None
                return
            node.write(data)
            await node.drain()

    async def _responses(self, node: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await node.read(READ_BYTES):
            if self._fault is Fault.LOSE_RESPONSE:
                self._fault = None
                return
            writer.write(data)
            await writer.drain()
