from __future__ import annotations

import httpx
import pytest

from evidence.api.multipart import MAX_PARTS, boundary_of, parse_form
from models.errors import Malformed


def _form(*parts: tuple[str, bytes]) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://a/", files=[(name, ("x.bin", data)) for name, data in parts])
    return request.headers["content-type"], request.read()


PARTS = (
    ("bundle", b"PK\x03\x04\r\n--not the boundary\r\n"),
    ("original", b""),
    ("original", bytes(range(256))),
    ("trust", b"a\r\n\r\nb"),
)


def test_a_form_gives_back_its_parts_byte_for_byte() -> None:
    kind, body = _form(*PARTS)
    assert parse_form(body, boundary_of(kind)) == list(PARTS)


def test_a_quoted_boundary_is_the_same_boundary() -> None:
    assert boundary_of('multipart/form-data; boundary="a b"; charset=utf-8') == b"a b"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B--\r\n",
        b"--B\r\n\r\nno name\r\n--B--",
        b'--B\r\nContent-Disposition: form-data; name="bundle"\r\n\r\nunclosed',
        b'--BContent-Disposition: form-data; name="bundle"\r\n\r\nx\r\n--B--',
        b'--B\r\nContent-Disposition: form-data; name="bundle"\r\n--B--',
    ],
    ids=["empty", "no-part", "no-name", "unclosed", "no-line-break", "no-data"],
)
def test_refuses_what_is_no_form(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_form(body, b"B")


def test_refuses_too_many_parts() -> None:
    kind, body = _form(*[("original", b"x")] * (MAX_PARTS + 1))
    with pytest.raises(Malformed, match="1 to 64 parts"):
        parse_form(body, boundary_of(kind))


def test_refuses_a_form_without_boundary() -> None:
    with pytest.raises(Malformed, match="no boundary"):
        boundary_of("multipart/form-data")
