from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from models.anchor import (
    Anchor,
    BlockRef,
    ChainReceipt,
    Payload,
    ReceiptFacts,
    TxId,
    anchor_key,
    block_refs,
    build_payload,
    checkpoint_record,
    item_record,
)
from models.canonical import JSONValue, b64, canonical
from models.digest import Algorithm, Digest, pair, sha256, sm3
from models.errors import Malformed, Unknown, VerificationError

VECTORS = Path(__file__).parents[1] / "vectors" / "items"
ORIGIN = "sandbox.example.cn/log/1"
MADE = datetime(2026, 11, 21, 6, 0, 59, 999000, tzinfo=UTC)
SM3_ROOT, SHA256_ROOT = sm3(b"root"), sha256(b"root")
TEXT = f"{ORIGIN}\n9\n{b64(SM3_ROOT)}\n"
LINE = f"— {ORIGIN} {b64(bytes(76))}\n"
TWIN_LINE = f"— {ORIGIN}/sha256 {b64(bytes(76))}\n"


def t0() -> dict[str, JSONValue]:
    return checkpoint_record(TEXT, SM3_ROOT, SHA256_ROOT, created_at=MADE, upload_time=MADE)


def t1(package: bytes = sm3(b"item"), *, upload: datetime = MADE) -> dict[str, JSONValue]:
    return item_record(
        biz_name="投行底稿",
        stages=[("底稿信息", sm3(b"stage").hex(), None)],
        created_at=MADE,
        package_hash=package,
        upload_time=upload,
    )


def value(**changes: JSONValue) -> dict[str, JSONValue]:
    return {
        "chain": "c1",
        "checkpoint": f"{TEXT}\n{LINE}",
        "format": "cz-anchor/1",
        "range": [5, 9],
        "seen": [],
        "transaction_info_array": [t0(), t1()],
        "twin": f"{ORIGIN}/sha256\n9\n{b64(SHA256_ROOT)}\n\n{TWIN_LINE}",
    } | changes


def bundled(kind: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted((VECTORS / "good").glob("*.cz")):
        with zipfile.ZipFile(path) as bundle:
            for name in bundle.namelist():
                if name.endswith(kind):
                    yield f"{path.name}/{name}", bundle.read(name)


# -- the key


def test_anchor_key_is_that_of_the_format_page() -> None:
    key = anchor_key("c1", "evidence.example.cn/log/1", 0)
    assert str(key) == "sm3:cf3d12c6413e01e407291cc08c6b981e3ca5846c186479b85c660fab34d2f763"


def test_anchor_key_differs_by_chain_log_and_start() -> None:
    keys = {anchor_key(chain, origin, start).value for chain in ("c1", "c2") for origin in ("a/1", "a/2") for start in (0, 1)}
    assert len(keys) == 8


@pytest.mark.parametrize(
    ("chain", "origin", "start"), [("C1", "a/1", 0), ("", "a/1", 0), ("c1", "A/1", 0), ("c1", "a//1", 0), ("c1", "a/1", -1)]
)
def test_refuses_a_key_of_malformed_parts(chain: str, origin: str, start: int) -> None:
    with pytest.raises(Malformed):
        anchor_key(chain, origin, start)


# -- records of Appendix A c)


def test_record_prints_in_the_order_of_the_standard() -> None:
    printed = canonical(t1()).decode()
    assert printed == (
        '{"transaction_info":{"transaction_detail_info":{"biz_data":{"bizName":"投行底稿","businessData":[{"StageHash":"'
        + sm3(b"stage").hex()
        + '","StageName":"底稿信息"}]},"necessaryData":{"CreateTime":"2026-11-21 14:00:59","PackageHash":"'
        + sm3(b"item").hex()
        + '","UploadTime":"2026-11-21 14:00:59"}}}}'
    )


def test_record_times_are_beijing_and_cut_to_the_second() -> None:
    local = MADE.astimezone(timezone(timedelta(hours=-5)))
    assert t1(upload=local) == t1(upload=MADE - timedelta(milliseconds=999))
    assert t1(upload=MADE + timedelta(milliseconds=1)) != t1()


def test_record_carries_stage_data_only_where_given() -> None:
    plain = item_record(
        biz_name="公告",
        stages=[("公告", sm3(b"").hex(), ["d0", "d1"])],
        created_at=MADE,
        package_hash=sm3(b"e"),
        upload_time=MADE,
    )
    stage = plain["transaction_info"]["transaction_detail_info"]["biz_data"]["businessData"][0]
    assert stage["StageData"] == ["d0", "d1"]
    assert "StageData" not in json.dumps(t1())


def test_refuses_a_record_without_stages_or_with_a_wrong_digest() -> None:
    with pytest.raises(Malformed):
        item_record(biz_name="x", stages=[], created_at=MADE, package_hash=sm3(b""), upload_time=MADE)
    with pytest.raises(Malformed):
        item_record(biz_name="x", stages=[("s", "AB", None)], created_at=MADE, package_hash=sm3(b""), upload_time=MADE)
    with pytest.raises(Malformed):
        item_record(biz_name="x", stages=[("s", sm3(b"").hex(), None)], created_at=MADE, package_hash=b"short", upload_time=MADE)


# -- the payload


@pytest.mark.parametrize(("name", "data"), list(bundled("payload.json")), ids=lambda part: part if isinstance(part, str) else "")
def test_reads_and_rebuilds_every_payload_of_the_second_implementation(name: str, data: bytes) -> None:
    payload = Payload.parse(data)
    again = build_payload(
        chain=payload.chain,
        checkpoint=payload.checkpoint,
        twin=payload.twin,
        start=payload.start,
        end=payload.end,
        seen=payload.seen[::-1],
        records=[record.value for record in payload.records],
    )
    assert again == data


def test_payload_states_heads_range_key_and_records() -> None:
    payload = Payload.parse(canonical(value()))
    assert (payload.start, payload.end, payload.head.origin, payload.head.size) == (5, 9, ORIGIN, 9)
    assert (payload.head.root, payload.twin_head.root, payload.head.text) == (SM3_ROOT, SHA256_ROOT, TEXT)
    assert payload.key == anchor_key("c1", ORIGIN, 5)
    found = payload.record(sm3(b"item"))
    assert found is not None
    assert found.value == t1()
    assert payload.record(sm3(b"another")) is None
    assert payload.record(sm3(TEXT.encode())) is None
    assert payload.upload_time == "2026-11-21 14:00:59"


def _without(name: str) -> dict[str, JSONValue]:
    return {member: part for member, part in value().items() if member != name}


def _t0_with(**business: JSONValue) -> dict[str, JSONValue]:
    record = json.loads(json.dumps(t0()))
    record["transaction_info"]["transaction_detail_info"]["biz_data"] |= business
    return record  # type: ignore[no-any-return]


OTHER_TWIN = f"{ORIGIN}/sha256\n8\n{b64(SHA256_ROOT)}\n\n{TWIN_LINE}"
REF = {"chain": "c2", "hash": "ab" * 32, "height": 1}
REFUSED: dict[str, JSONValue] = {
    "member-missing": _without("twin"),
    "member-unknown": value(extra=1),
    "format-of-another-kind": value(format="cz-receipt/1"),
    "chain-id": value(chain="C1"),
    "range-empty": value(range=[5, 5]),
    "range-backwards": value(range=[9, 5]),
    "range-beyond-size": value(range=[5, 10]),
    "range-negative": value(range=[-1, 9]),
    "range-of-three": value(range=[1, 2, 3]),
    "range-of-booleans": value(range=[False, True]),
    "seen-own-chain": value(seen=[REF | {"chain": "c1"}]),
    "seen-twice": value(seen=[REF, REF]),
    "seen-not-in-order": value(seen=[REF | {"chain": "c3"}, REF]),
    "seen-with-time": value(seen=[REF | {"time": "2026-11-21T06:00:00.000Z"}]),
    "checkpoint-without-line": value(checkpoint=TEXT + "\n"),
    "checkpoint-with-extension": value(checkpoint=f"{TEXT}more\n\n{LINE}"),
    "checkpoint-without-final-newline": value(checkpoint=f"{TEXT}\n{LINE}"[:-1]),
    "checkpoint-size-with-zero": value(checkpoint=f"{TEXT}\n{LINE}".replace("\n9\n", "\n09\n")),
    "checkpoint-root-short": value(checkpoint=f"{ORIGIN}\n9\n{b64(SM3_ROOT[:31])}\n\n{LINE}"),
    "twin-of-another-size": value(twin=OTHER_TWIN),
    "twin-of-another-origin": value(twin=value()["twin"].replace("log/1", "log/2")),
    "no-record": value(transaction_info_array=[]),
    "first-record-is-an-item": value(transaction_info_array=[t1(), t0()]),
    "t0-with-another-name": value(transaction_info_array=[_t0_with(bizName="检查点")]),
    "t0-with-one-root": value(
        transaction_info_array=[_t0_with(businessData=[{"StageHash": SM3_ROOT.hex(), "StageName": "日志根-SM3"}])]
    ),
    "item-twice": value(transaction_info_array=[t0(), t1(), t1()]),
    "upload-time-differs": value(transaction_info_array=[t0(), t1(upload=MADE + timedelta(seconds=1))]),
    "record-with-unknown-member": value(transaction_info_array=[t0(), t1() | {"x": 1}]),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refuses_a_payload_of_wrong_form(case: str) -> None:
    with pytest.raises(Malformed):
        Payload.parse(canonical(REFUSED[case]))


def test_refuses_a_payload_that_is_not_canonical() -> None:
    data = canonical(value())
    Payload.parse(data)
    for other in (data + b"\n", data.replace(b'"seen":[]', b'"seen": []'), data[:-1]):
        with pytest.raises(Malformed):
            Payload.parse(other)


def test_unknown_version_is_unknown_not_malformed() -> None:
    with pytest.raises(Unknown):
        Payload.parse(canonical(value(format="cz-anchor/2")))
    with pytest.raises(Unknown):
        ChainReceipt.parse(receipt().data.replace(b"cz-receipt/1", b"cz-receipt/2"))


def test_build_refuses_what_a_verifier_would_refuse() -> None:
    with pytest.raises(Malformed):
        build_payload(
            chain="c1",
            checkpoint=f"{TEXT}\n{LINE}",
            twin=OTHER_TWIN,
            start=5,
            end=9,
            seen=(),
            records=[t0()],
        )


def test_seen_is_sorted_when_built_and_only_then() -> None:
    refs = [BlockRef("c3", 1, "ab"), BlockRef("c2", 1, "cd")]
    built = build_payload(
        chain="c1", checkpoint=f"{TEXT}\n{LINE}", twin=str(value()["twin"]), start=0, end=9, seen=refs, records=[t0()]
    )
    assert [ref.chain for ref in Payload.parse(built).seen] == ["c2", "c3"]
    with pytest.raises(Malformed):
        block_refs([ref.to_json() for ref in refs], what="seen")


# -- the receipt


def receipt(**changes: JSONValue) -> ChainReceipt:
    parts: dict[str, JSONValue] = {
        "block_time": MADE,
        "chain": "c1",
        "engine": "embedded",
        "height": 3,
        "key": anchor_key("c1", ORIGIN, 0),
        "proof": {"any": ["thing"]},
        "tx_id": TxId("ab" * 32),
    }
    return ChainReceipt.build(**(parts | changes))


@pytest.mark.parametrize(("name", "data"), list(bundled("receipt.json")), ids=lambda part: part if isinstance(part, str) else "")
def test_reads_and_rebuilds_every_receipt_of_the_second_implementation(name: str, data: bytes) -> None:
    parsed = ChainReceipt.parse(data)
    again = ChainReceipt.build(
        block_time=parsed.block_time,
        chain=parsed.chain,
        engine=parsed.engine,
        height=parsed.height,
        key=parsed.key,
        proof=parsed.proof,
        tx_id=parsed.tx_id,
    )
    assert again == parsed
    assert again.data == data


@pytest.mark.parametrize(
    "changes",
    [{"chain": "C"}, {"engine": "Em"}, {"height": -1}, {"height": True}, {"tx_id": ""}, {"tx_id": "a b"}, {"proof": 1.5}],
)
def test_refuses_a_receipt_of_wrong_form(changes: dict[str, JSONValue]) -> None:
    with pytest.raises(Malformed):
        receipt(**changes)


def test_refuses_a_receipt_that_is_not_canonical() -> None:
    data = receipt().data
    assert ChainReceipt.parse(data) == receipt()
    for other in (data + b"\n", data.replace(b",", b", ", 1), data.replace(b"{", b'{"extra":1,', 1)):
        with pytest.raises(Malformed):
            ChainReceipt.parse(other)


# -- facts


def facts(payload: bytes) -> ReceiptFacts:
    key = Digest(Algorithm.SM3, bytes(32))
    return ReceiptFacts(
        key=key,
        payload=payload,
        block_time=MADE,
        not_later_than_error_s=0,
        sender="",
        relied_on=(),
        not_checked=(),
        algorithms=(),
    )


def test_transaction_may_carry_the_payload_or_both_its_digests() -> None:
    payload = Anchor("c1", anchor_key("c1", ORIGIN, 0), b"payload").payload
    digests = pair(payload)
    facts(payload).check_payload(payload)
    facts(digests.sm3 + digests.sha256).check_payload(payload)
    for other in (payload + b" ", digests.sm3, digests.sha256 + digests.sm3, b""):
        with pytest.raises(VerificationError):
            facts(other).check_payload(payload)
