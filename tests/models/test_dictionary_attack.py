"""Given all of Appendix B.10 but four enumerated fields, an unsalted digest falls at once and a salted StageHash does not."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from template_vectors import CLIENT_KEY, LOG, ORDER, SUBMITTER

from models.canonical import b64u, canonical
from models.commitment import commit, disclose
from models.digest import Pair, sm3
from models.evidence import Statement
from models.example import example
from models.merkle import leaf_hashes, root
from models.template import builtin

TEMPLATE = builtin(ORDER)
STAGE = TEMPLATE.stage("存证数据-事务环节-适当性匹配信息")
HIDDEN = (
    "cust_risk_level_suitability",
    "cust_invest_kind_suitability",
    "cust_invest_term_suitability",
    "cust_affordable_of_loss_suitability",
)
VALUES: dict[str, Any] = example(TEMPLATE, seed=b"victim", client_key=CLIENT_KEY)["stages"][STAGE.name]
SECRET = bytes.fromhex("8f1b6d0c5a7e9342f7c0d2b4a6981e3c5d7f0a1b2c3e4f6071829304b5c6d7e8")


def _guesses() -> Iterator[dict[str, Any]]:
    """Every combination of the four codes, all else known: what anyone can write down from the printed enumerations."""
    codes = [list(STAGE.field(name).enum or {}) for name in HIDDEN]
    for combination in product(*codes):
        yield VALUES | dict(zip(HIDDEN, combination, strict=True))


def _unsalted(values: dict[str, Any]) -> bytes:
    return sm3(canonical({"StageName": STAGE.name, **values}))


def _commitment() -> Any:
    (made,) = commit(TEMPLATE, {STAGE.name: VALUES}, secret=SECRET, log=LOG, submitter=SUBMITTER, client_key=CLIENT_KEY)
    return made


def _without_salts(values: dict[str, Any], salt: bytes) -> list[bytes]:
    return [canonical(["cz-field/1", b64u(salt), STAGE.name, entry.name, values.get(entry.name)]) for entry in STAGE.fields]


def test_there_are_few_enough_combinations_to_try_them_all() -> None:
    assert len(list(_guesses())) == 5 * 5 * 6 * 5


def test_unsalted_digest_falls_at_once() -> None:
    published = _unsalted(VALUES)
    assert [guess for guess in _guesses() if _unsalted(guess) == published] == [VALUES]


def test_unsalted_tree_falls_at_once() -> None:
    published = root(leaf_hashes(_without_salts(VALUES, bytes(16))))
    assert [guess for guess in _guesses() if root(leaf_hashes(_without_salts(guess, bytes(16)))) == published] == [VALUES]


def test_stage_hash_and_twin_do_not_fall_without_the_secret() -> None:
    published = _commitment().pair
    for secret in (bytes(32), bytes(range(32)), sm3(b""), sm3(CLIENT_KEY.encode()), sm3(LOG.encode())):
        for guess in _guesses():
            (made,) = commit(TEMPLATE, {STAGE.name: guess}, secret=secret, log=LOG, submitter=SUBMITTER, client_key=CLIENT_KEY)
            assert made.pair.sm3 != published.sm3
            assert made.pair.sha256 != published.sha256


def test_stage_hash_falls_to_whoever_has_the_secret_so_the_test_can_tell() -> None:
    published = _commitment().pair
    fallen = []
    for guess in _guesses():
        (made,) = commit(TEMPLATE, {STAGE.name: guess}, secret=SECRET, log=LOG, submitter=SUBMITTER, client_key=CLIENT_KEY)
        fallen += [guess] if made.pair == published else []
    assert fallen == [VALUES]


def test_all_other_fields_disclosed_with_their_salts_do_not_betray_the_four() -> None:
    """The asker holds d of fifteen fields and the subset proof: the hidden leaves' salts are 128 unknown bits each."""
    made = _commitment()
    shown = [(STAGE.name, entry.name) for entry in STAGE.fields if entry.name not in HIDDEN]
    value = disclose(TEMPLATE, [made], shown)
    assert value is not None
    known_salts = {entry.split('"')[3] for entry in value["stages"][0]["fields"]}
    hidden = [made.leaves[STAGE.field(name).place - STAGE.start] for name in HIDDEN]
    for name, leaf in zip(HIDDEN, hidden, strict=True):
        for code in STAGE.field(name).enum or {}:
            tried = {canonical(["cz-field/1", salt, STAGE.name, name, code]) for salt in {*known_salts, b64u(bytes(16))}}
            assert leaf not in tried
    assert not {leaf.decode().split('"')[3] for leaf in hidden} & known_salts
    assert not any(hash_.hex() in canonical(value).decode() for hash_ in leaf_hashes(hidden))


def test_evidence_id_does_not_fall_without_the_secret() -> None:
    def statement(digests: Pair) -> Statement:
        return Statement.build(
            client_key=CLIENT_KEY, link=None, log=LOG, occurred_at=None, stages=[(STAGE.name, digests)],
            subject=("s1", "示例证券"), submitter=SUBMITTER, template=(TEMPLATE.name, TEMPLATE.pair),
        )  # fmt: skip

    published = statement(_commitment().pair).evidence_id
    for guess in _guesses():
        (made,) = commit(
            TEMPLATE, {STAGE.name: guess}, secret=bytes(range(32)), log=LOG, submitter=SUBMITTER, client_key=CLIENT_KEY
        )
        assert statement(made.pair).evidence_id != published
        unsalted = Pair(_unsalted(guess), sm3(canonical(guess)))
        assert statement(unsalted).evidence_id != published
