"""What was decided on each erratum of T/SAC 004—2024 in the on-chain record, trees, digests and signatures."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from template_vectors import ORDER, PAPERS, committed, encoded, field, template, template_value, vector

from chain_gateway.embedded.proof import Header, Transaction, unsigned_transaction
from models.anchor import Record, anchor_key, item_record
from models.canonical import b64, b64u, canonical, canonical_text
from models.certificate import CA_USAGE, Certificate, RevocationList, issue, make_crl, verify_path
from models.commitment import verify_disclosure
from models.digest import Algorithm, Digest, Pair, sm3
from models.errors import Malformed, Unknown, VerificationError
from models.evidence import Evidence, Signature, Statement
from models.merkle import empty_root, leaf_hash, node_hash, root
from models.signature import SM2Signer
from models.template import Template, builtin

STANDARD = vector("standard")
NOW = datetime(2022, 8, 12, 4, 1, 22, tzinfo=UTC)
HEX = "60c8847b8a2e3f8e71420d1c7756d943132e174f80674683fb70bc86c4362baa"


def _evidence(signature: Signature | None) -> Evidence:
    pair = Pair(bytes(32), bytes(32))
    statement = Statement.build(
        client_key="k", link=None, log="evidence.example.cn/log/1", occurred_at=None, stages=[("甲", pair)],
        subject=("s1", "示例证券"), submitter="acct-1", template=("t@1", pair),
    )  # fmt: skip
    return Evidence.build(
        statement, after=(), commitment="hash", created_at=NOW, link=None, on_chain_by=NOW + timedelta(hours=1),
        signature=signature, validated_by="platform",
    )  # fmt: skip


# --- the on-chain record ---------------------------------------------------------------------------------------------


def _record(name: str = PAPERS) -> dict[str, Any]:
    of = builtin(name)
    stages = [(stage.name, HEX, None) for stage in of.stages]
    return item_record(
        biz_name=of.biz_name, stages=stages, created_at=NOW, package_hash=bytes(32), upload_time=NOW + timedelta(hours=1)
    )


def _detail(name: str = PAPERS) -> dict[str, Any]:
    detail: dict[str, Any] = _record(name)["transaction_info"]["transaction_detail_info"]
    return detail


def test_j01_braces_of_the_record_balance() -> None:
    text = canonical_text({"transaction_info_array": [_record()]})
    assert text.count("{") == text.count("}") == 4 + 1 + len(builtin(PAPERS).stages) + 1
    assert text.count("[") == text.count("]") == 2
    json.loads(text)


def test_j02_necessary_data_stands_beside_biz_data() -> None:
    assert list(_detail()) == ["biz_data", "necessaryData"]
    inside = _record()
    detail = inside["transaction_info"]["transaction_detail_info"]
    detail["biz_data"]["necessaryData"] = detail.pop("necessaryData")
    Record.from_json(_record(), what="record")
    with pytest.raises(Malformed):
        Record.from_json(inside, what="record")


@pytest.mark.parametrize("length", [63, 65])
def test_j03_package_hash_has_64_hex_digits(length: int) -> None:
    record = _record()
    record["transaction_info"]["transaction_detail_info"]["necessaryData"]["PackageHash"] = "a" * length
    with pytest.raises(Malformed):
        Record.from_json(record, what="record")


def test_j04_business_data_is_an_array_of_nothing_but_stages() -> None:
    stages = _detail(ORDER)["biz_data"]["businessData"]
    assert [set(stage) for stage in stages] == [{"StageHash", "StageName"}] * 9
    record = _record(ORDER)
    record["transaction_info"]["transaction_detail_info"]["biz_data"]["businessData"].append({"necessaryData": {}})
    with pytest.raises(Malformed):
        Record.from_json(record, what="record")


def test_j05_transaction_info_array_is_closed_after_its_last_record() -> None:
    assert canonical_text({"transaction_info_array": [_record(), _record()]}).endswith("}}}]}")


def test_j06_biz_data_is_closed_before_necessary_data() -> None:
    text = canonical_text(_record(ORDER))
    assert re.search(
        r'"\}\]\},"necessaryData":\{"CreateTime":"[^"]+","PackageHash":"[0-9a-f]{64}","UploadTime":"[^"]+"\}\}\}\}$', text
    )


def test_j07_keys_are_the_printed_literals_in_their_three_spellings() -> None:
    text = canonical_text({"transaction_info_array": [_record()]})
    assert re.findall(r'"(\w+)":', text)[:12] == [
        "transaction_info_array", "transaction_info", "transaction_detail_info", "biz_data", "bizName", "businessData",
        "StageHash", "StageName", "StageHash", "StageName", "StageHash", "StageName",
    ]  # fmt: skip
    assert list(_detail()["necessaryData"]) == ["CreateTime", "PackageHash", "UploadTime"]


def test_j08_stage_names_and_biz_names_are_the_printed_literals() -> None:
    for name, model in zip((PAPERS, ORDER), STANDARD["models"], strict=True):
        assert _detail(name)["biz_data"]["bizName"] == model["bizName"]
        named = [stage["StageName"] for stage in _detail(name)["biz_data"]["businessData"]]
        assert named == [stage for stage, _ in model["stages"]]


def test_j10_package_hash_is_sm3_of_the_evidence_and_times_are_of_beijing() -> None:
    evidence = _evidence(None)
    assert evidence.pair.sm3 == sm3(evidence.data)
    assert _detail()["necessaryData"]["CreateTime"] == "2022-08-12 12:01:22"
    of = template(("甲", [field("a")]))
    (made,) = committed(of, {"甲": {"a": "x"}})
    assert made.pair.sm3 == root([leaf_hash(leaf) for leaf in made.leaves])


def test_j11_payload_keeps_to_the_printed_keys_and_the_rest_stands_in_the_statement() -> None:
    keys = set(re.findall(r'"(\w+)":', canonical_text({"transaction_info_array": [_record(ORDER)]})))
    assert keys == {
        "transaction_info_array", "transaction_info", "transaction_detail_info", "biz_data", "bizName", "businessData",
        "StageHash", "StageName", "necessaryData", "CreateTime", "PackageHash", "UploadTime",
    }  # fmt: skip
    stated = json.loads(_evidence(None).data)
    assert {"template", "subject", "link", "submitter"} <= set(stated["statement"])
    assert {"signature", "commitment"} <= set(stated)


# --- trees, digests, signatures --------------------------------------------------------------------------------------

ITEMS = [b"a", b"b", b"c", b"d"]


def test_m01_digests_of_the_items_are_the_leaves() -> None:
    assert leaf_hash(b"a") == sm3(b"\x00a")
    assert root([leaf_hash(b"a")]) == leaf_hash(b"a")


def test_m02_neighbouring_leaves_are_hashed_in_pairs() -> None:
    leaves = [leaf_hash(item) for item in ITEMS[:2]]
    assert root(leaves) == node_hash(*leaves) == sm3(b"\x01" + leaves[0] + leaves[1])


def test_m03_pairing_is_repeated_until_one_node_is_left() -> None:
    leaves = [leaf_hash(item) for item in ITEMS]
    assert root(leaves) == node_hash(node_hash(*leaves[:2]), node_hash(*leaves[2:]))


def test_m04_the_root_is_the_evidence_value_of_whatever_was_built() -> None:
    of = template(("甲", [field(name) for name in "abc"]))
    (made,) = committed(of, {"甲": {"a": "x"}})
    assert made.pair.sm3 == root([leaf_hash(leaf) for leaf in made.leaves])


def test_m07_one_construction_is_fixed_for_pairs_odd_layers_and_the_empty_list() -> None:
    leaves = [leaf_hash(item) for item in ITEMS[:3]]
    assert root(leaves) == node_hash(node_hash(*leaves[:2]), leaves[2])
    assert root(leaves) != root([*leaves, leaves[2]])
    assert root([]) == empty_root(Algorithm.SM3) == sm3(b"")
    assert leaf_hash(leaves[0] + leaves[1]) != node_hash(*leaves[:2])


@pytest.mark.parametrize("name", ["md5", "sha1", "SM3"])
def test_w04_md5_is_no_algorithm_of_ours(name: str) -> None:
    assert {algorithm.value for algorithm in Algorithm} == {"sm3", "sha256"}
    with pytest.raises(Unknown):
        Digest.parse(f"{name}:{'ab' * 16}")


def test_w09_difficulty_stands_in_the_header_and_is_zero() -> None:
    header = Header.build(
        chain="c1", height=1, nodes=HEX, parent=HEX, state_root=HEX, time=NOW, tx_count=0, tx_root=sm3(b"").hex()
    )
    value = json.loads(header.data)
    assert value["difficulty"] == 0
    with pytest.raises(Malformed, match="difficulty"):
        Header.parse(canonical(value | {"difficulty": 1}))


def test_w19_outside_the_validity_of_its_certificate_a_key_signs_nothing_that_is_accepted() -> None:
    authority, leaf = SM2Signer.generate(), SM2Signer.generate()
    until = NOW + timedelta(days=10)
    anchor = Certificate.parse(
        issue(
            "CN=root", authority.public_key, signer=authority, issuer=None, serial=1, not_before=NOW, not_after=until,
            key_usage=CA_USAGE,
        )
    )  # fmt: skip
    certificate = Certificate.parse(
        issue("CN=leaf", leaf.public_key, signer=authority, issuer=anchor, serial=2, not_before=NOW, not_after=until)
    )
    empty = make_crl(anchor, {}, signer=authority, number=1, this_update=NOW, next_update=until)
    known = [RevocationList.parse(empty)]
    verify_path(certificate, [], [anchor], at=NOW + timedelta(days=1), crls=known)
    for at in (NOW - timedelta(days=1), NOW + timedelta(days=11)):
        with pytest.raises(VerificationError):
            verify_path(certificate, [], [anchor], at=at, crls=known)


def test_w20_the_certificate_signs_the_content_and_the_node_key_the_transaction() -> None:
    person, node = SM2Signer.generate(), SM2Signer.generate()
    statement = _evidence(None).statement
    evidence = _evidence(Signature(HEX, person.sign(statement.data)))
    assert Evidence.parse(evidence.data).signature == evidence.signature
    named = unsigned_transaction("c1", anchor_key("c1", statement.log, 0), b"{}", node.public_key)
    signed = named | {"signature": b64(node.sign(canonical(named)))}
    transaction = Transaction.parse(canonical(signed))
    transaction.check_signature()
    foreign = Transaction.parse(canonical(named | {"signature": b64(person.sign(canonical(named)))}))
    with pytest.raises(VerificationError):
        foreign.check_signature()


def test_w26_personal_fields_reach_a_chain_only_where_nobody_can_restore_them() -> None:
    with pytest.raises(Malformed, match="plaintext"):
        Template.parse(encoded(template_value(("甲", [field("a", grade=2)]), commitment="plaintext")))
    assert all(builtin(name).personal for name in (PAPERS, ORDER))
    of = template(("甲", [field("a", grade=3)]))
    (made,) = committed(of, {"甲": {"a": "13800138000"}})
    assert all("13800138000" not in digest.hex() and sm3(b"13800138000") != digest for digest in made.pair)
    assert verify_disclosure(of, [("甲", made.pair)], {"format": "cz-disclosure/1", "stages": [
        {"name": "甲", "fields": [made.leaves[0].decode()], "proof": [], "flat_salt": b64u(made.flat_salt)}]})  # fmt: skip
