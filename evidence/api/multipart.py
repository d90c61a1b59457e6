"""multipart/form-data from a body already in memory and within bounds: names and bytes, read strictly."""

from __future__ import annotations

import re

from models.errors import Malformed

MAX_PARTS = 64
MAX_HEAD_BYTES = 4096

_BOUNDARY = re.compile(r'boundary="?([A-Za-z0-9\'()+_,./:=? -]{1,70}?)"?\s*(?:;|$)', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:[ \t]*form-data;(?:.*;)?[ \t]*name="([A-Za-z0-9_-]{1,64})"', re.IGNORECASE)


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises: Malformed if it names none."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise Malformed("content type names no boundary: expected multipart/form-data; boundary=…")
    return match[1].encode("ascii")


def parse_form(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """The parts of a form in order, each with its name.

    Shapes: ≤ 64 parts, head of a part ≤ 4 KiB.
    Raises: Malformed if the body is no such form.
    Source: RFC 7578; RFC 2046 §5.1.1.
    """
    mark = b"\r\n--" + boundary
    sections = (b"\r\n" + body).split(mark, MAX_PARTS + 2)
    if len(sections) < 3 or len(sections) > MAX_PARTS + 2 or not sections[-1].startswith(b"--"):
        raise Malformed(f"form has wrong form: expected 1 to {MAX_PARTS} parts and the closing boundary")
    found = []
    for section in sections[1:-1]:
        if not section.startswith(b"\r\n"):
            raise Malformed("form has wrong form: expected a line break after the boundary")
        head, gap, data = section[2:].partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not gap or len(head) > MAX_HEAD_BYTES or name is None:
            raise Malformed("part of the form has no name: expected Content-Disposition: form-data with a name")
        found.append((name[1].decode("ascii"), data))
    return found
