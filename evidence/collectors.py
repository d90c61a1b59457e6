"""The collectors of one source: all partitions of a topic at once, a stream for each, side by side in one process.

Each has its own declaration, pipeline and committed offset, and none waits for another. One that is refused ends alone; what
the source itself refuses (a password, a permission) is refused to all, and ends all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from evidence.client import AsyncClient
from evidence.collector import (
    PENDING_SLICES,
    Clock,
    CollectorState,
    Randomness,
    ServiceSink,
    Wish,
    declare,
    keep_saying_behind,
    origin_of,
    pipeline_of,
    say_behind,
    state_path,
)
from evidence.errors import Unready
from evidence.exchange import Unreachable
from models.answer import Declared
from models.declaration import check_stream_id
from models.errors import EvidenceError
from streaming.kafka import partitions_of
from streaming.kafka_client import Address
from streaming.pipeline import Pipeline, Progress
from streaming.port import (
    FINGERPRINT_KEY_BYTES,
    SourceRefused,
    SourceUnavailable,
    StreamError,
    open_source,
    scheme_of,
)
from streaming.slicer import CutRule

LOOK_S: Final = 10.0
"""How often a topic that is followed is asked for partitions that were added."""
_RETRY_S: Final = (0.5, 30.0)


@dataclass(slots=True, eq=False)
class Collector:
    """One stream of a run: where it comes from, how far it is, what ended it.

    `source` is what its declaration says, `url` what is opened; `is_added` says that the others were
    there before.
    """

    stream_id: str
    source: str
    url: str
    partition: int = 0
    is_added: bool = False
    pipeline: Pipeline | None = None
    sink: ServiceSink | None = None
    error: EvidenceError | None = None
    held: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def progress(self) -> Progress:
        """How far it is; of one that never began, nothing."""
        return Progress(self.stream_id) if self.pipeline is None else self.pipeline.progress

    @property
    def is_to_begin(self) -> bool:
        """Whether it has not begun, and nothing is in its way that will not pass."""
        return self.pipeline is None and isinstance(self.error, Unready | Unreachable | SourceUnavailable | None)


class Collectors:
    """What is wished of a source, for each of its partitions. `begin`, then `collect`.

    A topic of several partitions of which the address names none gives the streams ID-0, ID-1 and so on; every other
    source, and a topic of one partition, the stream ID. A partition keeps the stream that it was begun with.
    """

    def __init__(
        self,
        client: AsyncClient,
        folder: Path,
        wish: Wish,
        *,
        cut: Callable[[Wish, CollectorState], CutRule],
        follow: bool,
        clock: Clock,
        randomness: Randomness,
        look_s: float = LOOK_S,
    ) -> None:
        self._client, self._folder, self._wish = client, folder, wish
        self._cut, self._follow, self._look_s = cut, follow, look_s
        self._clock, self._randomness = clock, randomness
        self._is_topic = scheme_of(wish.source) == "kafka" and Address.parse(wish.source).partition is None
        self._stopping = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self.all: list[Collector] = []
        self.in_the_way: str | None = None
        """Why the source cannot say yet which partitions it has."""
        self._refused: SourceRefused | None = None

    # --- which streams there are ------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Every stream that there is now is declared and about to be collected; one for which it cannot be says why.

        Raises: Malformed, Unknown for an address or id of wrong form; SourceRefused; SourceUnavailable with `follow` false.
        """
        check_stream_id(self._wish.stream_id)
        addresses = await self._patiently()
        if len(addresses) > 1:
            check_stream_id(self._name(max(addresses)))
        self._add(addresses)
        await asyncio.gather(*(self._begin(each) for each in self.all))

    async def _patiently(self) -> dict[int, str]:
        """The addresses, as soon as the source can be asked; a single pass waits only for what was read before."""
        wait_s, longest_s = _RETRY_S
        while True:
            try:
                return await self._addresses()
            except SourceUnavailable as error:
                if not self._follow and not any(map(self._declared, (self._wish.stream_id, self._name(0)))):
                    raise
                self.in_the_way = error.message
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    async def _addresses(self) -> dict[int, str]:
        """Shapes: partition → its address; a source that has no partitions, or one that is named, is 0."""
        found = await partitions_of(self._wish.source) if self._is_topic else [self._wish.source]
        self.in_the_way = None
        return {Address.parse(each).partition or 0: each for each in found} if self._is_topic else {0: found[0]}

    def _name(self, partition: int) -> str:
        return f"{self._wish.stream_id}-{partition}"

    def _add(self, addresses: Mapping[int, str]) -> None:
        """Those partitions of which nothing was known yet are among all."""
        missing = sorted(addresses.keys() - {each.partition for each in self.all})
        new = [self._placed(partition, addresses[partition], len(addresses)) for partition in missing]
        begun = [bool(self._declared(each.stream_id)) for each in new]
        for each, was_begun in zip(new, begun, strict=True):
            each.is_added = not was_begun and (bool(self.all) or any(begun))
        self.all += new

    def _placed(self, partition: int, address: str, count: int) -> Collector:
        """The stream at an address: the one that the partition was begun with, else by how many partitions there are."""
        stream_id, source = self._wish.stream_id, self._wish.source
        if not self._is_topic:
            return Collector(stream_id, source, address)
        at = Address.parse(address)
        for name in (self._name(partition), stream_id):
            declared = self._declared(name)
            stands = declared[-1].declaration.source if declared else "-"
            found = Address.parse(stands) if scheme_of(stands) == "kafka" else None
            if found is not None and (found.topic, found.partition or 0) == (at.topic, partition):
                # A declared source never changes, not even the order in which its options were written.
                return Collector(name, stands if found in (at, Address.parse(source)) else address, address, partition)
        return (
            Collector(stream_id, source, address) if count == 1 else Collector(self._name(partition), address, address, partition)
        )

    def _declared(self, stream_id: str) -> list[Declared]:
        """What was declared of the stream here; nothing where that cannot be read, which whoever begins it is told."""
        path = state_path(self._folder, stream_id)
        with suppress(EvidenceError):
            return CollectorState.open(path, stream_id).declared if path.exists() else []
        return []

    # --- beginning --------------------------------------------------------------------------------------------------

    async def _begin(self, each: Collector) -> None:
        """Its state is held and its declaration stands at the service; else `error` says why not."""
        each.error = None
        with ExitStack() as held:
            try:
                state = CollectorState.open(state_path(self._folder, each.stream_id), each.stream_id)
                wish = self._wish_of(each, state)
                cut = self._cut(wish, state)
                held.callback(os.close, state.hold())
                await self._try(each, wish, state)
                await declare(self._client, state, wish, randomness=self._randomness)
                each.sink = ServiceSink(self._client, state, await origin_of(self._client))
                each.pipeline = pipeline_of(
                    state, each.sink, url=each.url, cut=cut, follow=self._follow, clock=self._clock,
                    randomness=self._randomness, pending_slices=max(1, PENDING_SLICES // len(self.all)),
                )  # fmt: skip
            except EvidenceError as error:
                each.error = error
            else:
                each.held = held.pop_all()

    def _wish_of(self, each: Collector, state: CollectorState) -> Wish:
        wish = replace(self._wish, stream_id=each.stream_id, source=each.source)
        if wish.keywords is not None or state.declared:
            return wish
        others = filter(None, (self._declared(other.stream_id) for other in self.all))
        return next((wish.like(declared[-1]) for declared in others), wish)

    async def _try(self, each: Collector, wish: Wish, state: CollectorState) -> None:
        """The source can be opened, before a declaration names it; one that is followed may still be on its way.

        Raises: Malformed, Unknown for an address of wrong form; SourceRefused; SourceUnavailable with `follow` false.
        """
        if scheme_of(each.url) == "stdin" or (state.declared and wish.is_met_by(state.declared[-1])):
            return
        try:
            source = await open_source(each.url, follow=self._follow, key=self._randomness(FINGERPRINT_KEY_BYTES))
        except SourceUnavailable:
            if not self._follow:
                raise
        else:
            await source.aclose()

    # --- collecting -------------------------------------------------------------------------------------------------

    async def collect(self) -> None:
        """Every stream that could begin has come to its end: the source's, that of `stop`, or an error of its own.

        What the source refuses to one it refuses to all: they are stopped.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._start(group, self.all)
                looking = group.create_task(self._look(group)) if self._is_topic and self._follow else None
                while self._running:
                    await asyncio.wait(self._running)
                    self._running = {task for task in self._running if not task.done()}
                if looking is not None:
                    looking.cancel()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            for each in self.all:
                each.held.close()

    @property
    def reason(self) -> EvidenceError | None:
        """What ended all of them, if it was the same; of several that ended for reasons of their own, None."""
        reasons = {None if each.error is None else each.error.message for each in self.all}
        return self._refused or (self.all[0].error if len(reasons) == 1 else None)

    def stop(self) -> None:
        """What is collected so far is cut into a last slice of each stream, and `collect` returns when the service has them."""
        self._stopping.set()
        for each in self.all:
            if each.pipeline is not None:
                each.pipeline.stop()

    def _start(self, group: asyncio.TaskGroup, begun: Iterable[Collector]) -> None:
        for each in begun:
            if each.pipeline is not None:
                self._running.add(group.create_task(self._collect(each, each.pipeline)))
                if self._stopping.is_set():
                    each.pipeline.stop()

    async def _collect(self, each: Collector, pipeline: Pipeline) -> None:
        saying = asyncio.ensure_future(keep_saying_behind(self._client, pipeline))
        try:
            progress = await pipeline.run()
            if progress.error is None:
                await say_behind(self._client, pipeline)
        except EvidenceError as error:
            each.error = error
            if isinstance(error, SourceRefused):
                self._refused = error
                self.stop()
        finally:
            saying.cancel()
            each.held.close()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Partitions that are added begin too, and streams that could not be declared while the service was away."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._look_s)
                return
            # What is in the way of asking is in the way of reading, and told there.
            with suppress(StreamError):
                self._add(await self._addresses())
            for each in self.all:
                if each.is_to_begin and not self._stopping.is_set():
                    await self._begin(each)
                    self._start(group, [each])
