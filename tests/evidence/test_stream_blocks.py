"""Slices name the newest final block (not-before): handed out by the service, held to its chain, proven beside an answer."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from api_service import Running, running
from stream_service import Stream

from chain_gateway.port import ChainGateway, LedgerReads
from evidence.blocks import Blocks
from evidence.bootstrap import utc_now
from evidence.chain import Chain
from evidence.client import AsyncClient
from evidence.collector import ServiceSink, end, origin_of, pipeline_of
from evidence.verifier import verify
from models.anchor import Block, BlockRef
from models.bundle import pack, unpack
from models.canonical import canonical, parse
from models.errors import Invalid
from models.report import Report, Verdict
from models.slice import SliceHeader
from models.trust import TrustRoots
from streaming.slicer import CutRule

LINES = [f"line {number} ERROR" for number in range(6)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("blocks") / "home") as found:
        first = Stream(found, tmp_path_factory.mktemp("first"), "first")
        first.write("so that the chain has a block beyond its first")
        first.collect()
        assert first.ask("ERROR")["verdict"] == "VALID"
        yield found


@pytest.fixture
def stream(service: Running, tmp_path: Path, request: pytest.FixtureRequest) -> Stream:
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())[-60:]
    return Stream(service, tmp_path, name)


def headers(stream: Stream) -> list[SliceHeader]:
    with stream.client() as client:
        return [SliceHeader.parse(each["header"].encode()) for each in client.slices(stream.stream_id)["items"]]


def answered(stream: Stream) -> bytes:
    with stream.client() as client:
        return client.stream_answer(stream.stream_id, {"keywords": ["ERROR"]})


def judged(stream: Stream, bundle: bytes, *, not_before: bool) -> Report:
    roots = TrustRoots.parse(stream.running.service.trust())
    chains = tuple(replace(chain, not_before=not_before) for chain in roots.chains)
    return verify(bundle, replace(roots, chains=chains))


async def heads(service: Running, refs: Sequence[BlockRef]) -> list[str]:
    (chain,) = service.service.anchoring.chains.values()
    return [block.hash for ref in refs async for block in chain.gateway.blocks(ref.height, ref.height + 1)]


# --- what a slice names -----------------------------------------------------------------------------------------------


def test_every_slice_names_a_block_of_the_chain_that_stood_before_it(stream: Stream, service: Running) -> None:
    stream.write(*LINES)
    stream.collect(lines=2)
    found = headers(stream)
    named = [ref for header in found for ref in header.after]
    assert len(found) == 3
    assert len(named) == 3
    assert [ref.hash for ref in named] == asyncio.run(heads(service, named))
    assert [ref.height for ref in named] == sorted(ref.height for ref in named)
    assert named[0].height > 0


def test_the_last_slice_of_an_ended_stream_names_a_block_too(stream: Stream) -> None:
    stream.write(*LINES)
    stream.collect()

    async def ended() -> None:
        async with AsyncClient(stream.running.url, token=stream.running.tokens["business"]) as client:
            await end(client, stream.state, reason="done", clock=utc_now, randomness=os.urandom)

    asyncio.run(ended())
    assert [len(header.after) for header in headers(stream)] == [1, 1]


def test_slices_of_pushed_records_name_a_block(stream: Stream) -> None:
    with stream.client() as client:
        client.declare_stream({"stream_id": stream.stream_id, "keywords": ["ERROR"]})
        client.push_records(stream.stream_id, 0, ["one ERROR"])
    assert [len(header.after) for header in headers(stream)] == [1]


def test_collector_with_a_slow_clock_names_no_block_later_than_its_slice(stream: Stream) -> None:
    def slow() -> datetime:
        return utc_now() - timedelta(hours=1)

    async def run() -> None:
        state = stream.state
        async with AsyncClient(stream.running.url, token=stream.running.tokens["business"]) as client:
            sink = ServiceSink(client, state, await origin_of(client))
            await pipeline_of(
                state,
                sink,
                url=f"file:{stream.log}",
                cut=CutRule(lines=2),
                follow=False,
                clock=slow,
                randomness=os.urandom,
            ).run()

    stream.write(*LINES)
    stream.declare()
    asyncio.run(run())
    assert [header.after for header in headers(stream)] == [(), (), ()]
    assert stream.ask("ERROR")["verdict"] == "VALID"


# --- what an answer proves --------------------------------------------------------------------------------------------


def test_answer_proves_the_blocks_that_its_slices_name(stream: Stream) -> None:
    stream.write(*LINES)
    stream.collect(lines=2)
    bundle = answered(stream)
    files = dict(unpack(bundle).files)
    blocks = sorted(name for name in files if name.startswith("blocks/"))
    assert blocks
    assert len({(parse(files[name])["chain"], parse(files[name])["height"]) for name in blocks}) == len(blocks)
    report = judged(stream, bundle, not_before=True)
    assert report.verdict is Verdict.VALID
    assert report.not_before is not None
    assert report.not_before <= headers(stream)[0].created_at
    own = judged(stream, bundle, not_before=False)
    assert (own.verdict, own.not_before) == (Verdict.VALID, None), "one party can choose the hashes of an embedded ledger"
    for name in blocks:
        del files[name]
    bare = judged(stream, pack(files, "answer"), not_before=True)
    assert (bare.verdict, bare.not_before) == (Verdict.VALID, None)


def test_answer_with_the_proof_of_another_block_is_invalid(stream: Stream) -> None:
    stream.write(*LINES)
    stream.collect(lines=2)
    files = dict(unpack(answered(stream)).files)
    name = next(name for name in files if name.startswith("blocks/"))
    value = parse(files[name])
    files[name] = canonical({**value, "height": value["height"] + 1})
    assert judged(stream, pack(files, "answer"), not_before=True).step(17).verdict is Verdict.INVALID


# --- what is refused --------------------------------------------------------------------------------------------------


def block(service: Running) -> BlockRef:
    (found,) = service.service.blocks.newest(utc_now())
    return found


def test_block_that_the_chain_holds_is_accepted_and_one_of_another_chain_is_the_collectors_word(stream: Stream) -> None:
    stream.declare()
    known = block(stream.running)
    first = stream.header([b"one ERROR"], None, after=[known])
    other = BlockRef("zz-another-chain", 5, "ab" * 32)
    second = stream.header([b"two"], first[0], after=[known, other])
    with stream.client() as client:
        client.put_slice(stream.body(*first))
        client.put_slice(stream.body(*second))
    report = judged(stream, answered(stream), not_before=True)
    assert report.verdict is Verdict.VALID


@pytest.mark.parametrize("what", ["hash", "height"])
def test_refuses_a_slice_that_names_a_block_the_chain_does_not_hold(stream: Stream, what: str) -> None:
    stream.declare()
    known = block(stream.running)
    forged = replace(known, hash="00" * 32) if what == "hash" else replace(known, height=1 << 40)
    with stream.client() as client:
        with pytest.raises(Invalid):
            client.put_slice(stream.body(*stream.header([b"one"], None, after=[forged])))
        assert client.stream(stream.stream_id)["slices"] == 0


def test_refuses_a_slice_that_names_a_block_later_than_itself(stream: Stream) -> None:
    stream.declare()
    known = block(stream.running)
    assert known.time is not None
    early = stream.header([b"one"], None, after=[known], created_at=known.time - timedelta(minutes=6))
    just = stream.header([b"one"], None, after=[known], created_at=known.time - timedelta(minutes=4))
    with stream.client() as client:
        with pytest.raises(Invalid):
            client.put_slice(stream.body(*early))
        client.put_slice(stream.body(*just))


def test_chain_out_of_reach_neither_proves_nor_refuses(tmp_path: Path) -> None:
    with running(tmp_path / "home") as found:
        stream = Stream(found, tmp_path, "away")
        stream.write(*LINES)
        stream.collect()
        stream.ask("ERROR")
        stream.write(*LINES)
        stream.collect()
        (first, second) = headers(stream)
        blocks = found.service.blocks
    assert second.after
    asyncio.run(blocks.check(second))
    assert asyncio.run(blocks.proofs([*first.after, *second.after])) == []


class Silent:
    """A chain whose node takes every question and never answers."""

    chain_id = "silent-1"

    async def block_proof(self, height: int) -> bytes | None:
        await asyncio.Event().wait()
        raise AssertionError(height)

    async def blocks(self, start: int, stop: int) -> AsyncIterator[Block]:
        await self.block_proof(start)
        yield Block(stop, "", "", utc_now(), (), "", {})

    transaction = state = history = nodes = block_proof


def test_chain_that_never_answers_is_waited_for_no_longer_than_stated(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evidence.blocks.PATIENCE_S", 0.05)
    (chain,) = stream.running.service.anchoring.chains.values()
    blocks = Blocks({Silent.chain_id: Chain(cast("ChainGateway", Silent()), chain.trust)})
    ref = BlockRef(Silent.chain_id, 3, "ab" * 32)
    stream.declare()
    header, _, _ = stream.header([b"one"], None, after=[ref])
    assert isinstance(Silent(), LedgerReads)
    asyncio.run(blocks.check(header))
    assert asyncio.run(blocks.proofs([ref])) == []
