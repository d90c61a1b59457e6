"""S and E: the bytes they are, and that nothing else is taken for them."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.anchor import BlockRef
from models.canonical import canonical, parse
from models.digest import Pair, pair, sm3
from models.errors import EvidenceError, Malformed, Unknown, VerificationError
from models.evidence import Evidence, Link, Part, Signature, Statement, hash_together

NOW = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
ZERO = Pair(bytes(32), bytes(32))

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda text: unicodedata.is_normalized("NFC", text)
)
pairs = st.builds(Pair, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
bounds = (datetime(2000, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001 - hypothesis wants naive bounds
times = st.datetimes(*bounds, timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
links = st.none() | st.builds(Link, names, st.none() | st.binary(min_size=32, max_size=32), st.booleans())


def statement(**more: object) -> Statement:
    """The statement of the published vector (formats §10)."""
    stage = Pair(
        bytes.fromhex("f186c6693c6144e6b4370a16f3392ec91d1f753f80d250c967e6fb6544ef8a79"),
        bytes.fromhex("a424b9fe0171e8bab0161f4b9f4ad35898339620be6a2ddb9ae54121fab65901"),
    )
    given_: dict[str, object] = {
        "client_key": "key-1",
        "link": None,
        "log": "evidence.example.cn/log/1",
        "occurred_at": None,
        "stages": [("文件", stage)],
        "subject": ("s1", "示例证券"),
        "submitter": "acct-1",
        "template": ("t@1", ZERO),
        **more,
    }
    return Statement.build(**given_)  # type: ignore[arg-type]  # one dictionary for many types


def evidence(of: Statement | None = None, **more: object) -> Evidence:
    given_: dict[str, object] = {
        "after": [],
        "commitment": "merkle",
        "created_at": NOW,
        "link": None,
        "on_chain_by": NOW + timedelta(hours=1),
        "signature": None,
        "validated_by": "platform",
        **more,
    }
    return Evidence.build(of or statement(), **given_)  # type: ignore[arg-type]  # one dictionary for many types


def test_published_vector_is_met_byte_for_byte() -> None:
    made = evidence()
    assert made.evidence_id == "ev_9ae4b26dec284e8cf72b5c07c26917935fbaa11b9e29f7d940f0c742d300350b"
    assert len(made.data) == 739
    assert made.package_hash.hex() == "2272dbd220f569abfb16d3a9a29062a94e36140db06b7bdea576aa273f63969d"
    assert made.entry == sm3(made.data) + pair(made.data).sha256


@given(
    names, links, st.none() | times, st.lists(st.tuples(names, pairs), min_size=1, max_size=4, unique_by=lambda s: s[0]), names
)
def test_statement_is_canonical_and_reads_back_as_itself(
    key: str, link: Link | None, occurred: datetime | None, stages: list[tuple[str, Pair]], subject: str
) -> None:
    made = statement(client_key=key, link=link, occurred_at=occurred, stages=stages, subject=("s1", subject))
    assert canonical(parse(made.data)) == made.data
    assert Statement.parse(made.data) == made


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True), st.integers(0, 2**40)), max_size=3),
    st.none() | st.builds(Signature, st.binary(min_size=32, max_size=32).map(bytes.hex), st.binary(min_size=64, max_size=64)),
    st.none() | st.integers(0, 5),
    pairs,
)
def test_evidence_is_canonical_and_reads_back_as_itself(
    blocks: list[tuple[str, int]], signature: Signature | None, part: int | None, previous: Pair
) -> None:
    after = [BlockRef(chain, height, "ab" * 32) for chain, height in sorted(dict(blocks).items())]
    link = None if part is None else Link("tx")
    place = None if part is None else Part(part, previous if part else None)
    made = evidence(statement(link=link), after=after, signature=signature, link=place)
    assert canonical(parse(made.data)) == made.data
    assert Evidence.parse(made.data) == made


CHANGES: dict[str, tuple[Callable[[Any], object], type[EvidenceError]]] = {
    "another version of E": (lambda e: e.update(format="cz-evidence/2"), Unknown),
    "another kind of object": (lambda e: e.update(format="cz-anchor/1"), Malformed),
    "another version of S": (lambda e: e["statement"].update(format="cz-statement/2"), Unknown),
    "an unknown member": (lambda e: e.update(note="x"), Malformed),
    "a member missing": (lambda e: e.pop("after"), Malformed),
    "no stages": (lambda e: e["statement"].update(stages=[]), Malformed),
    "a stage twice": (lambda e: e["statement"]["stages"].append(e["statement"]["stages"][0]), Malformed),
    "a digest in upper case": (lambda e: e["statement"]["stages"][0].update(sm3="AB" * 32), Malformed),
    "a control character in a key": (lambda e: e["statement"].update(client_key="a\nb"), Malformed),
    "a key of 129 characters": (lambda e: e["statement"].update(client_key="k" * 129), Malformed),
    "another commitment": (lambda e: e.update(commitment="HASH"), Malformed),
    "another validator": (lambda e: e.update(validated_by="nobody"), Malformed),
    "a time without milliseconds": (lambda e: e.update(created_at="2026-11-21T06:00:00Z"), Malformed),
    "a day that does not exist": (lambda e: e.update(created_at="2026-02-30T06:00:00.000Z"), Malformed),
    "a promise of eight days": (lambda e: e.update(on_chain_by="2026-11-29T06:00:00.001Z"), VerificationError),
    "a promise before the item": (lambda e: e.update(on_chain_by="2026-11-21T05:59:59.999Z"), VerificationError),
    "sealed but unsigned": (lambda e: e.update(validated_by="submitter"), VerificationError),
    "a link in E only": (lambda e: e.update(link={"part": 0, "previous": None}), VerificationError),
    "another signature algorithm": (
        lambda e: e.update(signature={"algorithm": "rsa", "signer": "ab" * 32, "value": "x"}),
        Unknown,
    ),
    "a signer of odd form": (
        lambda e: e.update(signature={"algorithm": "sm2-sm3", "signer": "abc", "value": "AA=="}),
        Malformed,
    ),
    "a chain twice in after": (lambda e: e.update(after=[{"chain": "c", "hash": "ab", "height": 1}] * 2), Malformed),
}


@pytest.mark.parametrize("name", CHANGES)
def test_refuses(name: str) -> None:
    change, error = CHANGES[name]
    value = json.loads(evidence().data)
    change(value)
    with pytest.raises(error):
        Evidence.parse(canonical(value))


def test_refuses_bytes_that_are_not_canonical() -> None:
    with pytest.raises(Malformed, match="canonical"):
        Evidence.parse(evidence().data.replace(b'":', b'": ', 1))


@pytest.mark.parametrize("place", range(0, 739, 7))
def test_no_changed_byte_is_read_as_the_same_evidence(place: int) -> None:
    data = bytearray(evidence().data)
    data[place] ^= 1
    with contextlib.suppress(EvidenceError):
        assert Evidence.parse(bytes(data)).pair != evidence().pair


@pytest.mark.parametrize("count", [1, 7, 64])
def test_digests_made_together_are_those_of_the_bytes(count: int) -> None:
    items = [evidence(created_at=NOW + timedelta(milliseconds=number)) for number in range(count)]
    early = items[0].pair
    hash_together(items)
    assert [item.pair for item in items] == [pair(item.data) for item in items]
    assert len({item.entry for item in items}) == count
    assert items[0].pair == early
    assert replace(items[0], data=b"other").pair == pair(b"other")
