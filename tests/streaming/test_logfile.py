from __future__ import annotations

import os
from pathlib import Path

import pytest
from collected_world import KEY, MemorySink, OpenAt, collecting, run_to_end, running, until

from models.errors import Malformed
from models.record import MAX_PIECE_BYTES as PIECE
from models.record import Position
from streaming.logfile import LogFile, path_of
from streaming.port import Batch, SourceRefused, SourceUnavailable
from streaming.slicer import CutRule


def once(path: Path) -> OpenAt:
    async def open_at(start: Position | None, identity: str | None) -> LogFile:
        source = LogFile(path, key=KEY, follow=False)
        source.open(start, identity)
        return source

    return open_at


def following(path: Path) -> OpenAt:
    async def open_at(start: Position | None, identity: str | None) -> LogFile:
        source = LogFile(path, key=KEY, poll_s=0.005, linger_s=0.02)
        source.open(start, identity)
        return source

    return open_at


async def test_file_is_restored_byte_for_byte_from_its_slices(tmp_path: Path) -> None:
    text = b"".join(b"line %d buy AAA acct=12345678\n" % number for number in range(1000))
    text += b"\n\n\0\xff\xfe not utf-8\nlast without LF"
    path = tmp_path / "a.log"
    path.write_bytes(text)
    sink = MemorySink()
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.restored(0) == text
    assert sum(header.pieces for header in sink.headers) == 1
    assert len(sink.records) == 1004


async def test_what_one_look_has_read_is_given_also_if_the_file_is_emptied_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    text = b"".join(b"line %d of a file that two looks read\n" % number for number in range(70_000))
    path.write_bytes(text)
    assert 2 * PIECE < len(text) < 3 * PIECE
    source = LogFile(path, key=KEY, follow=False)
    source.open(None, None)
    given = (await anext(source)).payloads
    os.truncate(path, PIECE)
    given += (await anext(source)).payloads + (await anext(source)).payloads
    assert given == text[: 2 * PIECE].split(b"\n")
    emptied = await anext(source)
    assert emptied.epoch == 1
    assert emptied.opened is not None
    assert not emptied.opened.previous_complete
    await source.aclose()


async def test_second_pass_goes_on_at_the_exact_byte(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\ntw")
    await run_to_end(collecting(), once(path), sink)
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    await run_to_end(collecting(), once(path), sink)
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.payloads == [b"one", b"tw", b"o", b"three"]
    assert sink.restored(0) == path.read_bytes()
    assert sink.kinds == ["data", "data", "heartbeat"]


async def test_empty_file_gives_a_heartbeat(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.touch()
    await run_to_end(collecting(), once(path), sink)
    assert sink.kinds == ["heartbeat"]
    assert sink.headers[0].epoch is not None
    path.write_bytes(b"now\n")
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.payloads == [b"now"]


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 7])
async def test_long_line_is_cut_at_one_mebibyte(tmp_path: Path, size: int) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"x\n" + b"y" * size + b"\nz\n")
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.restored(0) == path.read_bytes()
    assert sum(header.pieces for header in sink.headers) == (size - 1) // PIECE
    assert max(map(len, sink.payloads)) <= PIECE


async def test_line_is_taken_only_when_it_is_complete(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\ntw")
    async with running(collecting(cut=CutRule(lines=1, seconds=None)), following(path), sink) as _:
        await until(lambda: len(sink.records) == 1)
        with path.open("ab") as file:
            file.write(b"o\n")
        await until(lambda: len(sink.records) == 2)
    sink.check()
    assert sink.payloads == [b"one", b"two"]


async def test_stopping_leaves_a_line_that_is_not_complete_to_the_next_run(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\ntw")
    async with running(collecting(cut=CutRule(lines=1, seconds=None)), following(path), sink):
        await until(lambda: len(sink.records) == 1)
    with path.open("ab") as file:
        file.write(b"o\n")
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.payloads == [b"one", b"two"]


async def test_renamed_file_is_read_to_its_end_before_its_successor(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\n")
    async with running(collecting(cut=CutRule(lines=1, seconds=None)), following(path), sink):
        await until(lambda: len(sink.records) == 1)
        path.rename(tmp_path / "a.log.1")
        with (tmp_path / "a.log.1").open("ab") as late:
            late.write(b"late\nlast")
        path.write_bytes(b"two\n")
        await until(lambda: len(sink.records) == 4)
    sink.check()
    assert sink.payloads == [b"one", b"late", b"last", b"two"]
    epoch = sink.headers[-1].epoch
    assert epoch is not None
    assert epoch.previous_complete
    assert sink.headers[-1].start == Position(1, 0)


async def test_files_rotated_while_nobody_followed_are_all_read(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"zero\n")
    path.rename(tmp_path / "a.log.1")
    path.write_bytes(b"one\n")
    await run_to_end(collecting(), once(path), sink)
    with path.open("ab") as file:
        file.write(b"late\n")
    (tmp_path / "a.log.1").rename(tmp_path / "a.log.4")
    path.rename(tmp_path / "a.log.3")
    (tmp_path / "a.log.2").write_bytes(b"two\n")
    (tmp_path / "a.log.1").write_bytes(b"three\n")
    path.write_bytes(b"four\n")
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.payloads == [b"one", b"late", b"two", b"three", b"four"]
    assert [epoch.previous_complete for header in sink.headers if (epoch := header.epoch)] == [True] * 4


async def test_files_rotated_by_date_are_read_in_the_order_of_their_dates(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\n")
    await run_to_end(collecting(), once(path), sink)
    path.rename(tmp_path / "a.log-20260101")
    (tmp_path / "a.log-20260102").write_bytes(b"two\n")
    (tmp_path / "a.log-20251231").write_bytes(b"before\n")
    (tmp_path / "a.log-20260103.gz").write_bytes(b"not this\n")
    path.write_bytes(b"three\n")
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.payloads == [b"one", b"two", b"three"]


async def test_file_emptied_after_copying_is_read_to_its_end_in_the_copy(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\n")
    await run_to_end(collecting(), once(path), sink)
    (tmp_path / "a.log.1").write_bytes(b"one\nunread\n")
    path.write_bytes(b"")
    path.write_bytes(b"t\n")
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.payloads == [b"one", b"unread", b"t"]
    epoch = sink.headers[-1].epoch
    assert epoch is not None
    assert epoch.previous_complete


async def test_file_emptied_without_a_copy_opens_an_epoch_that_says_so(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\ntwo\n")
    async with running(collecting(cut=CutRule(lines=1, seconds=None)), following(path), sink):
        await until(lambda: len(sink.records) == 2)
        os.truncate(path, 0)
        with path.open("ab") as file:
            file.write(b"3\n")
        await until(lambda: len(sink.records) == 3)
    sink.check()
    epoch = sink.headers[-1].epoch
    assert epoch is not None
    assert not epoch.previous_complete
    assert "emptied" in epoch.reason


async def test_file_emptied_and_filled_beyond_where_it_was_read_is_noticed(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\n")
    async with running(collecting(cut=CutRule(lines=1, seconds=None)), following(path), sink):
        await until(lambda: len(sink.records) == 1)
        path.write_bytes(b"other lines, longer\n")
        await until(lambda: len(sink.records) == 2)
    sink.check()
    assert sink.payloads == [b"one", b"other lines, longer"]
    assert sink.headers[-1].start.epoch == 1


async def test_file_replaced_while_nobody_followed_is_not_said_to_be_complete(tmp_path: Path) -> None:
    path, sink = tmp_path / "a.log", MemorySink()
    path.write_bytes(b"one\n")
    await run_to_end(collecting(), once(path), sink)
    (tmp_path / "new").write_bytes(b"one\ntwo\n")
    (tmp_path / "new").rename(path)
    await run_to_end(collecting(), once(path), sink)
    sink.check()
    assert sink.payloads == [b"one", b"one", b"two"]
    epoch = sink.headers[-1].epoch
    assert epoch is not None
    assert not epoch.previous_complete


async def test_identity_tells_nothing_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"guess\n")
    mine, other = LogFile(path, key=KEY), LogFile(path, key=bytes(16))
    mine.open(None, None)
    other.open(None, None)
    assert mine.identity.split()[:4] == other.identity.split()[:4]
    assert mine.identity.split()[4] != other.identity.split()[4]
    await mine.aclose()
    await other.aclose()


def test_refuses_what_is_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="does not exist"):
        LogFile(tmp_path / "none", key=KEY).open(None, None)
    with pytest.raises(SourceRefused):
        LogFile(tmp_path, key=KEY).open(None, None)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceRefused, match="no regular file"):
        LogFile(tmp_path / "pipe", key=KEY).open(None, None)


async def test_closed_file_says_that_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    source = LogFile(path, key=KEY)
    source.open(None, None)
    assert isinstance(await anext(source), Batch)
    await source.aclose()
    await source.aclose()
    with pytest.raises(SourceUnavailable):
        await anext(source)


@pytest.mark.parametrize(("url", "path"), [("file:a.log", "a.log"), ("file:/x/a", "/x/a"), ("file:///x/a", "/x/a")])
def test_address_names_a_path(url: str, path: str) -> None:
    assert path_of(url) == Path(path)


@pytest.mark.parametrize("url", ["file:", "file://host/x", "a.log", "file:a\0b"])
def test_refuses_an_address_that_names_no_path(url: str) -> None:
    with pytest.raises(Malformed):
        path_of(url)
