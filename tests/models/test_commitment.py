"""From values to StageHash, byte for byte as the format page has it."""

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_vectors import CLIENT_KEY, LOG, ORDER, SECRET, SUBMITTER, committed, field, template, vector

from models import commitment, libcrypto
from models.canonical import b64u, canonical
from models.commitment import Contents, check_secret, commit, commit_each, derive, hmac_sm3, salts
from models.digest import Algorithm, Pair, digest, sm3
from models.errors import Malformed, SigningUnavailable
from models.evidence import Evidence, Statement
from models.example import example
from models.libcrypto import Libcrypto
from models.template import Template, builtin

VECTOR = vector("commitment")
KEY = bytes.fromhex(VECTOR["key"])


def _vector_template() -> Template:
    return template((VECTOR["stage"], [field("name"), field("size", "NUMBER"), field("note")]))


def test_key_and_salt_are_those_of_the_format_page() -> None:
    assert derive(SECRET, "cz-salt/1", LOG, SUBMITTER, CLIENT_KEY) == KEY
    assert salts(KEY, 3)[0].hex() == VECTOR["salt_0"]


def test_leaves_stage_hash_and_twin_are_those_of_the_format_page() -> None:
    (stage,) = committed(_vector_template(), {VECTOR["stage"]: VECTOR["values"]})
    assert {index: stage.leaves[int(index)].decode() for index in VECTOR["d"]} == VECTOR["d"]
    assert stage.pair == Pair(bytes.fromhex(VECTOR["stage_hash"]), bytes.fromhex(VECTOR["twin"]))


def test_statement_and_evidence_over_them_are_those_of_the_format_page() -> None:
    (stage,) = committed(_vector_template(), {VECTOR["stage"]: VECTOR["values"]})
    statement = Statement.build(
        client_key=CLIENT_KEY, link=None, log=LOG, occurred_at=None, stages=[(stage.name, stage.pair)],
        subject=("s1", "示例证券"), submitter=SUBMITTER, template=("t@1", Pair(bytes(32), bytes(32))),
    )  # fmt: skip
    assert statement.evidence_id == VECTOR["evidence_id"]
    made = datetime(2026, 11, 21, 6, tzinfo=UTC)
    evidence = Evidence.build(
        statement, after=(), commitment="merkle", created_at=made, link=None, on_chain_by=made + timedelta(hours=1),
        signature=None, validated_by="platform",
    )  # fmt: skip
    assert (len(evidence.data), evidence.pair.sm3.hex()) == (739, VECTOR["package_hash"])


# --- a slow oracle, written from the page alone ------------------------------------------------------------------------


def _oracle_root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return sm3(b"\x00" + leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sm3(b"\x01" + _oracle_root(leaves[:split]) + _oracle_root(leaves[split:]))


def _oracle(of: Template, stages: dict[str, dict[str, Any]]) -> list[tuple[str, bytes, bytes]]:
    key = hmac.new(SECRET, canonical(["cz-salt/1", LOG, SUBMITTER, CLIENT_KEY]), "sm3").digest()[:16]
    places = salts(key, of.field_count)
    found = []
    for stage in of.stages:
        if stage.name not in stages:
            continue
        leaves = [
            canonical(["cz-field/1", b64u(places[entry.place]), stage.name, entry.name, stages[stage.name].get(entry.name)])
            for entry in stage.fields
        ]
        flat_key = hmac.new(SECRET, canonical(["cz-flat/1", LOG, SUBMITTER, CLIENT_KEY, stage.name]), "sm3").digest()[:16]
        flat = b"".join(len(leaf).to_bytes(4) + leaf for leaf in leaves)
        twin = hashlib.sha256(b"\x02" + salts(flat_key, 1)[0] + flat).digest()
        found.append((stage.name, _oracle_root(leaves), twin))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_whole_appendix_b_is_committed_as_the_slow_oracle_says(seed: int) -> None:
    of = builtin(ORDER)
    stages = example(of, seed=bytes([seed]), client_key="k")["stages"]
    assert [(made.name, *made.pair) for made in committed(of, stages)] == _oracle(of, stages)


def test_salts_are_those_of_the_place_in_the_template_also_when_stages_are_left_out() -> None:
    of = builtin(ORDER)
    stages = example(of, seed=b"x", client_key="k")["stages"]
    whole = {made.name: made for made in committed(of, stages)}
    for stage in of.stages:
        assert committed(of, {stage.name: stages[stage.name]}) == (whole[stage.name],)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@settings(max_examples=200)
@given(text=TEXTS, number=st.integers(1 - 2**53, 2**53 - 1), names=st.tuples(TEXTS, TEXTS, TEXTS))
def test_fast_encoding_is_canonical_json_for_every_value(text: str, number: int, names: tuple[str, str, str]) -> None:
    of = template(
        (
            '甲"\\',
            [
                field("a"),
                field("b", "NUMBER"),
                field("c", "BOOLEAN"),
                field("d", "OBJECT_ARRAY"),
                field('e"\\'),
                field("f", "FILE_OBJECT"),
            ],
        )
    )
    # U+1F600 comes before U+FF5E in the order of UTF-16, and after it in that of code points.
    file = {"\uff5e": text, "\U0001f600": number, "z": False, "a": None, '"': {"b": [text], "a": 1}}
    values = {"a": text, "b": number, "c": True, "d": [{"z": text, "a": number}], "f": file}
    try:
        canonical([text, *names])
    except Malformed:
        return
    log, submitter, client_key = names
    (made,) = commit(of, {'甲"\\': values}, secret=SECRET, log=log, submitter=submitter, client_key=client_key)
    key = derive(SECRET, "cz-salt/1", log, submitter, client_key)
    expected = [
        canonical(["cz-field/1", b64u(salt), '甲"\\', entry.name, values.get(entry.name)])
        for salt, entry in zip(salts(key, 6), of.stages[0].fields, strict=True)
    ]
    assert list(made.leaves) == expected
    assert made.flat_salt == salts(derive(SECRET, "cz-flat/1", log, submitter, client_key, '甲"\\'), 1)[0]


def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libcrypto, "_USUAL_NAMES", ("nowhere.so",))
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)


def without_sm4(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_library: Libcrypto, _key: bytes, _blocks: bytes) -> bytes:
        raise SigningUnavailable("libcrypto cannot encrypt with SM4")

    monkeypatch.setattr(Libcrypto, "sm4", refuse)


def other_sm4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Libcrypto, "sm4", lambda _library, _key, blocks: bytes(len(blocks)))


@pytest.mark.parametrize("injure", [nowhere, without_sm4, other_sm4])
def test_commitment_is_the_same_where_libcrypto_cannot_be_used(
    injure: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = builtin(ORDER)
    stages = example(of, seed=b"p", client_key="k")["stages"]
    made = committed(of, stages)
    injure(monkeypatch)
    libcrypto._loaded.cache_clear()
    commitment._sm4.cache_clear()
    try:
        assert committed(of, stages) == made
        assert commitment._sm4() is commitment._portable_sm4
    finally:
        monkeypatch.undo()
        libcrypto._loaded.cache_clear()
        commitment._sm4.cache_clear()
    assert committed(of, stages) == made
    assert commitment._sm4() is not commitment._portable_sm4


def test_items_committed_together_are_each_committed_as_alone() -> None:
    of = builtin(ORDER)
    whole = example(of, seed=b"t", client_key="k")["stages"]
    some = {name: whole[name] for name in list(whole)[3:5]}
    small = template(("甲", [field("a")]))
    items = [
        Contents(of, whole, SECRET, LOG, SUBMITTER, CLIENT_KEY),
        Contents(small, {"甲": {"a": "x"}}, SECRET, LOG, SUBMITTER, "other"),
        Contents(small, {}, SECRET, LOG, SUBMITTER, CLIENT_KEY),
        Contents(of, some, SECRET[::-1], LOG, "acct-2", CLIENT_KEY),
    ]
    alone = [
        commit(one.template, one.stages, secret=one.secret, log=one.log, submitter=one.submitter, client_key=one.client_key)
        for one in items
    ]
    assert commit_each(items) == alone
    assert [[made.name for made in each] for each in alone] == [list(whole), ["甲"], [], list(some)]
    assert commit_each([]) == []


def test_field_not_given_has_the_same_kind_of_leaf_as_null() -> None:
    of = template(("甲", [field("a"), field("b")]))
    assert committed(of, {"甲": {"a": "x"}}) == committed(of, {"甲": {"a": "x", "b": None}})


@pytest.mark.parametrize("changed", ["secret", "log", "submitter", "client_key"])
def test_every_part_of_the_context_changes_every_salt(changed: str) -> None:
    of = template(("甲", [field("a"), field("b")]))
    context: dict[str, Any] = {"secret": SECRET, "log": LOG, "submitter": SUBMITTER, "client_key": CLIENT_KEY}
    other = context | {changed: bytes(range(1, 33)) if changed == "secret" else "other"}
    (first,), (second,) = (commit(of, {"甲": {}}, **given) for given in (context, other))
    assert not set(first.leaves) & set(second.leaves)
    assert first.flat_salt != second.flat_salt


@pytest.mark.parametrize("size", [0, 1, 16, 32, 63, 64])
def test_hmac_is_that_of_the_standard_library(size: int) -> None:
    key, message = bytes(range(size)), b"message" * size
    assert hmac_sm3(key, message) == hmac.new(key, message, "sm3").digest()


def test_hmac_gives_the_published_vector() -> None:
    key = bytes.fromhex("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff")
    assert hmac_sm3(key, b"abc").hex() == "ffc69e71d1f61c25e340c23e96a51a9bd61ff491e000e6ed7dd9ebd10f85b113"


def test_good_secret_is_taken() -> None:
    check_secret(SECRET)
    check_secret(bytes(range(16)) * 2)


@pytest.mark.parametrize("secret", [b"", SECRET[:31], SECRET + b"x", bytes(32), bytes(range(15)) + bytes(17)], ids=len)
def test_refuses_secret_of_wrong_length_or_of_few_distinct_bytes(secret: bytes) -> None:
    with pytest.raises(Malformed, match="secret") as caught:
        check_secret(secret)
    assert secret.hex() not in caught.value.message or not secret


def test_digest_pair_of_a_stage_is_the_root_and_the_flat_twin() -> None:
    of = template(("甲", [field("a")]))
    (made,) = committed(of, {"甲": {"a": "x"}})
    (leaf,) = made.leaves
    assert made.pair.sm3 == sm3(b"\x00" + leaf)
    assert made.pair.sha256 == digest(Algorithm.SHA256, b"\x02" + made.flat_salt + len(leaf).to_bytes(4) + leaf)
    assert json.loads(leaf)[2:] == ["甲", "a", "x"]
