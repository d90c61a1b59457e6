"""One partition of a Kafka topic as a source: by assignment, from an offset, what was committed and nothing else.

Groups, their offsets and their rebalances play no part: where to read is said by whoever opens the
source. A topic is known by its id, asked anew with every fetch, so that one made anew under the same
name is never taken for the one before.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self, TypeVar

from models.errors import Malformed
from models.record import MAX_OFFSET, MAX_SLICE_BYTES, Encoding, Position, Record, kafka_payload
from models.slice import Epoch
from streaming.kafka_client import Address, Client, Fetched, OutOfRange, UnknownTopic
from streaming.port import Batch, SourceGap, SourceRefused, SourceUnavailable

_FETCH_S: Final = 0.25
_LAG_S: Final = 2.0
_BATCH_BYTES: Final = 1 << 20
_TIMES_BEYOND: Final = 3
_FIRST: Final = "first slice of the stream"
_REMADE: Final = "topic was made anew; what the one before held after the last slice is not known"
_CUT_OFF: Final = "partition lost records that had been read; it is read anew from its beginning"
_RETENTION: Final = "records were removed by retention before they were read"
_TOO_LONG: Final = "record is longer than a slice may be"
T = TypeVar("T")


class KafkaPartition:
    """Reads one partition; see `Source`. All calls of the client are made by one thread of its own."""

    encoding = Encoding.KAFKA
    bytewise = False

    def __init__(self, make: Callable[[], Client], address: Address, *, follow: bool = True) -> None:
        self._make = make
        self._topic = address.topic
        self._partition = address.partition or 0
        self._is_named = address.partition is not None
        self._follow = follow
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka")
        self._client: Client
        self._topic_id: str | None = None
        self._epoch = 0
        self._next = 0
        self._end = 0
        self._stop_at: int | None = None
        self._beyond = 0
        self._seek = True
        self._asked_at = 0.0
        self._fetching: asyncio.Future[Fetched | None] | None = None
        self._ready: deque[Batch | SourceGap] = deque()
        self._closed = False

    # --- opening ----------------------------------------------------------------------------------------------------

    async def open(self, start: Position | None, identity: str | None) -> None:
        """Ready to read from `start` on. Raises: SourceUnavailable; SourceRefused; Malformed if none of several is named."""
        try:
            await self._call(self._open, start, identity)
        except BaseException:
            await self.aclose()
            raise

    def _open(self, start: Position | None, identity: str | None) -> None:
        self._client = self._make()
        try:
            self._topic_id = self._client.topic_id()
            self._check_partition(is_new=start is None)
            first, end = self._client.offsets()
        except UnknownTopic as error:
            if start is None:
                raise
            raise SourceUnavailable("kafka has no longer the topic or partition that was read") from error
        self._end = end
        self._stop_at = None if self._follow else end
        if start is None:
            self._begin(0, Epoch(self.identity, True, _FIRST), first)
        elif self._topic_id is not None and identity != self.identity:
            self._begin(start.epoch + 1, Epoch(self.identity, False, _REMADE), first)
        else:
            self._epoch, self._next = start.epoch, start.offset
            self._lost_before(first)

    def _check_partition(self, *, is_new: bool) -> None:
        there = self._client.partitions()
        if self._partition not in there:
            raise UnknownTopic("kafka has no such topic or partition", hint="partitions count from 0")
        if is_new and not self._is_named and len(there) > 1:
            # A stream of the first partition alone would be taken for the whole topic.
            raise Malformed(f"topic has {len(there)} partitions: expected ?partition=N, and a stream for each")

    def _begin(self, epoch: int, opened: Epoch, first: int) -> None:
        self._epoch, self._next, self._seek = epoch, 0, True
        self._ready.append(Batch(epoch, 0, opened=opened))
        self._lost_before(first)

    def _lost_before(self, first: int) -> None:
        if self._next < first:
            self._ready.append(SourceGap(Position(self._epoch, self._next), Position(self._epoch, first), _RETENTION))
            self._next, self._seek = first, True

    @property
    def identity(self) -> str:
        """Topic and partition by name, and the topic by its id, which no other ever has."""
        return f"kafka {self._topic}/{self._partition} id {self._topic_id or 'unknown'}"

    # --- reading ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        while not self._ready:
            if self._closed:
                raise SourceUnavailable("kafka partition was closed")
            if self._stop_at is not None and self._next >= self._stop_at:
                raise StopAsyncIteration
            if self._fetching is None:
                self._fetching = asyncio.ensure_future(self._call(self._fetch))
            # A fetch that nobody waits for any more goes on, and what it brings is for the next call.
            fetching = self._fetching
            await asyncio.wait((fetching,))
            self._fetching = None
            fetched = fetching.result()
            if fetched is not None:
                self._keep(fetched)
        if self._closed:
            raise SourceUnavailable("kafka partition was closed")
        event = self._ready.popleft()
        if isinstance(event, SourceGap):
            raise event
        return event

    def _fetch(self) -> Fetched | None:
        """Records of the topic that is known, or None where something was found out instead."""
        client = self._client
        try:
            if self._seek:
                client.seek(self._next)
            self._seek = True
            fetched = client.fetch(_FETCH_S)
            # Asked after the fetch: an id never comes back, so what was fetched before was of this topic too.
            if client.topic_id() != self._topic_id:
                self._remade()
                return None
            if time.monotonic() - self._asked_at > _LAG_S:
                self._end = client.offsets()[1]
                self._asked_at = time.monotonic()
        except OutOfRange:
            self._out_of_range()
            return None
        except UnknownTopic as error:
            raise SourceUnavailable("kafka has no longer the topic or partition that was read") from error
        self._seek = False
        self._beyond = 0
        return fetched

    def _remade(self) -> None:
        self._topic_id = self._client.topic_id()
        first, self._end = self._client.offsets()
        self._stop_at = None if self._follow else self._end
        self._begin(self._epoch + 1, Epoch(self.identity, False, _REMADE), first)

    def _out_of_range(self) -> None:
        if self._client.topic_id() != self._topic_id:
            self._remade()
            return
        first, end = self._client.offsets()
        self._end = end
        if self._next < first:
            self._lost_before(first)
        elif self._next > end:
            # A leader that has just been chosen may not know its own end yet: only what stays so is believed.
            self._beyond += 1
            if self._beyond < _TIMES_BEYOND:
                raise SourceUnavailable("kafka partition ends before what was read; asked again later")
            self._begin(self._epoch + 1, Epoch(self.identity, False, _CUT_OFF), first)

    def _keep(self, fetched: Fetched) -> None:
        """Records become batches; one that no slice can hold becomes a gap between them."""
        records: list[Record] = []
        size = 0
        for offset, timestamp_ms, key, value in fetched.messages:
            if not self._next <= offset < MAX_OFFSET:
                continue
            payload = kafka_payload(timestamp_ms, key, value)
            size += len(payload)
            if size > _BATCH_BYTES:
                self._pass_on(records, offset)
                records, size = [], len(payload)
            if len(payload) > MAX_SLICE_BYTES:
                self._ready.append(SourceGap(Position(self._epoch, offset), Position(self._epoch, offset + 1), _TOO_LONG))
            else:
                records.append(Record(offset, payload))
            self._next = offset + 1
        self._next = max(self._next, fetched.position)
        self._pass_on(records, self._next)

    def _pass_on(self, records: list[Record], end: int) -> None:
        if records:
            self._ready.append(Batch.of(records, epoch=self._epoch, end=end))

    # --- the rest ---------------------------------------------------------------------------------------------------

    def behind(self) -> int | None:
        """Offsets up to the end that was seen last."""
        return max(0, self._end - self._next)

    def committed(self, position: Position) -> None:
        """Nothing is committed to Kafka: the slice header is the offset."""

    async def aclose(self) -> None:
        """The client is closed, after the call that it is in."""
        if self._closed:
            return
        self._closed = True
        if self._fetching is not None:
            await asyncio.gather(self._fetching, return_exceptions=True)
        if hasattr(self, "_client"):
            await self._call(self._client.close)
        self._thread.shutdown(wait=False)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def client_of(address: Address) -> Client:
    """A client for the address: the one it names, else the fast one where it is installed.

    Raises: SourceUnavailable; SourceRefused, also if the client named is not installed.
    """
    fast = importlib.util.find_spec("confluent_kafka") is not None
    if address.client == "fast" and not fast:
        raise SourceRefused("fast kafka client is not installed", hint="pip install evidence[fast]")
    if address.client == "fast" or (address.client is None and fast):
        from streaming.kafka_fast import FastClient  # noqa: PLC0415 - an extra: loaded only where it is used

        return FastClient(address)
    from streaming.kafka_python import PythonClient  # noqa: PLC0415 - as above

    return PythonClient(address)


async def partitions_of(url: str) -> list[str]:
    """The address of every partition of the topic at `url`: each is a stream of its own.

    Raises: Malformed; SourceUnavailable; SourceRefused.
    """
    address = Address.parse(url)

    def asked() -> list[int]:
        client = client_of(address)
        try:
            return client.partitions()
        finally:
            client.close()

    return [address.at(partition) for partition in await asyncio.to_thread(asked)]


async def open_source(url: str, *, start: Position | None, identity: str | None, follow: bool, key: bytes) -> KafkaPartition:
    """The partition at `kafka://HOST:PORT/TOPIC?partition=N`, of a topic with one it need not be named; see `OpenSource`."""
    del key
    address = Address.parse(url)
    source = KafkaPartition(lambda: client_of(address), address, follow=follow)
    await source.open(start, identity)
    return source
