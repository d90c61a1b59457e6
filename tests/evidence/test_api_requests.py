"""Bodies within bounds, whatever a client does; against the ASGI messages that a server hands in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from evidence.api.problems import BodyLate, UnsupportedMedia
from evidence.api.requests import LongBodies, RequestIds, read_body, read_json
from evidence.errors import TooLarge
from models.errors import Malformed

Message = dict[str, Any]


def _scope(**headers: str) -> Message:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "headers": given, "long_bodies": LongBodies()}


def _client(*pieces: bytes, then: Message | None = None) -> Callable[[], Awaitable[Message]]:
    """A client that sends these pieces; after the last, `then`, or nothing for ever."""
    left = list(pieces)

    async def receive() -> Message:
        if left:
            piece = left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(left) or then is not None}
        if then is not None:
            return then
        await asyncio.get_running_loop().create_future()
        raise AssertionError("never reached")

    return receive


GONE: Message = {"type": "http.disconnect"}
MORE: Message = {"type": "http.request", "body": b"x", "more_body": True}


async def test_a_body_in_pieces_is_joined() -> None:
    assert await read_body(_scope(content_length="6"), _client(b"ab", b"", b"cdef")) == b"abcdef"


async def test_a_client_that_leaves_or_dribbles_is_late() -> None:
    with pytest.raises(BodyLate, match="ended early"):
        await read_body(_scope(content_length="6"), _client(b"ab", then=GONE))
    with pytest.raises(BodyLate, match="ended early"):
        await read_body(_scope(), _client(then=GONE))

    async def dribble() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(BodyLate, match="in time"):
        await read_body(_scope(), dribble, timeout_s=0.05)


async def test_a_body_is_judged_by_its_declared_length_before_it_is_read() -> None:
    async def never() -> Message:
        raise AssertionError("the body was asked for")

    with pytest.raises(TooLarge):
        await read_body(_scope(content_length="11"), never, limit=10)
    for wrong in ("ten", "-1", "1.0", "9" * 16, "0x10"):
        with pytest.raises(Malformed, match="content-length"):
            await read_body(_scope(content_length=wrong), never)
    with pytest.raises(UnsupportedMedia):
        await read_body(_scope(content_encoding="gzip"), never)


@pytest.mark.parametrize("size", [9, 10, 11])
async def test_the_limit_is_exact_declared_or_not(size: int) -> None:
    for pieces in ((b"x" * size,), (b"x" * 5, b"x" * (size - 5))):
        for scope in (_scope(), _scope(content_length=str(size))):
            if size > 10:
                with pytest.raises(TooLarge):
                    await read_body(scope, _client(*pieces), limit=10)
            else:
                assert await read_body(scope, _client(*pieces), limit=10) == b"x" * size


async def test_an_endless_body_ends_at_the_limit() -> None:
    with pytest.raises(TooLarge):
        await read_body(_scope(), _client(then=MORE), limit=1000)


async def test_a_body_of_another_length_than_declared_is_refused() -> None:
    with pytest.raises(Malformed, match="another length"):
        await read_body(_scope(content_length="3"), _client(b"abcd"))


async def test_a_long_body_is_the_same_value_as_a_short_one() -> None:
    scope = _scope(content_type="application/json")
    body = b'{"a": [1, "\xe4\xb8\xad"]}'
    assert await read_json(scope, _client(body)) == await read_json(scope, _client(body), in_line=0) == {"a": [1, "中"]}
    with pytest.raises(Malformed):
        await read_json(scope, _client(b'{"a": 1, "a": 1}'), in_line=0)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'])
async def test_json_in_utf8_is_read_however_it_is_named(kind: str) -> None:
    assert await read_json(_scope(content_type=kind), _client(b"{}")) == {}


@pytest.mark.parametrize("kind", ["", "text/json", "application/json; charset=gbk", "application/jsonx", "application/json; a=b"])
async def test_refuses_another_content_type(kind: str) -> None:
    with pytest.raises(UnsupportedMedia):
        await read_json(_scope(content_type=kind), _client(b"{}"))


def test_fresh_request_ids_differ_and_count_from_one_draw() -> None:
    drawn: list[int] = []

    def randomness(size: int) -> bytes:
        drawn.append(size)
        return bytes(range(size))

    ids = RequestIds(randomness)
    assert len({ids.of(_scope()) for _ in range(100)}) == 100
    assert drawn == [8]
    assert ids.of(_scope(x_request_id="mine")) == "mine"


@pytest.mark.parametrize("telling", ["13800138000", "11010519491231002X", "rid-11010519491231002X"])
def test_request_id_that_tells_of_a_person_is_not_taken_over(telling: str) -> None:
    assert RequestIds(bytes).of(_scope(x_request_id=telling)) != telling
