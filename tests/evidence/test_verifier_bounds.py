"""The verifier raises nothing, and stays within 10 s of CPU and 64 MB above its input, whatever it is given."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.render import render
from evidence.verifier import verify
from models.bundle import encode, manifest_of, unpack
from models.canonical import canonical, parse
from models.digest import pair
from models.report import Verdict

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
TRUST = (VECTORS / "trust.toml").read_bytes()
GOOD = (VECTORS / "good" / "merkle.cz").read_bytes()
FILES = dict(unpack(GOOD).files)
CPU_S, MEMORY_MB = 10, 64

FORBIDDEN = (
    "alembic",
    "fastapi",
    "httpx",
    "httptools",
    "psycopg",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "uvloop",
    "grpc",
    "web3",
)


def test_verifying_imports_no_web_framework_database_or_chain_client() -> None:
    code = (
        "import sys; from evidence.verifier import verify; from evidence.render import render; "
        "r = verify(open(sys.argv[1],'rb').read(), open(sys.argv[2],'rb').read()); render(r); print(r.verdict); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, str(VECTORS / "good" / "merkle.cz"), str(VECTORS / "trust.toml")]
    verdict, names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert verdict == "VALID"
    loaded = set(names.split())
    assert loaded.isdisjoint(FORBIDDEN)
    ours = {"evidence", "chain_gateway", "models"}
    assert ours <= loaded


# --- nothing is raised -----------------------------------------------------------------------------------------------


def judge(data: bytes, trust: bytes = TRUST) -> None:
    report = verify(data, trust)
    assert report.verdict is not Verdict.VALID
    assert report.to_text()
    assert render(report)


@given(st.binary(max_size=4096))
@settings(max_examples=60)
def test_random_bytes_are_no_bundle_and_no_trust_file(data: bytes) -> None:
    judge(data)
    judge(GOOD, data)
    judge(b"PK\3\4" + data)


def remade(files: dict[str, bytes], kind: str = "item") -> bytes:
    ordered = {name: files[name] for name in sorted(files)}
    return encode({"manifest.json": manifest_of(ordered, kind), **ordered})


@given(st.sampled_from(sorted(FILES)), st.binary(max_size=300), st.integers(0, 12000), st.integers(0, 300))
@settings(max_examples=60)
def test_spliced_files_raise_nothing(name: str, data: bytes, place: int, cut: int) -> None:
    old = FILES[name]
    spliced = old[:place] + data + old[place + cut :]
    if spliced != old:
        judge(remade({**FILES, name: spliced}))


NAMES = [
    "blocks/0.json", "erasure/0.json", "time/0.tsr", "certs/0.cer", "certs/0.crl", "renewal/0.er",
    "log/sm3/4-5.consistency", "log/sha256/0-0.consistency", "evidence/0/disclosure.json", "anchors/0/receipt.json",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.sampled_from(NAMES),
    st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")),
)
@settings(max_examples=80)
def test_any_content_of_any_file_raises_nothing(name: str, data: bytes) -> None:
    report = verify(remade({**FILES, name: data}), TRUST)
    assert report.verdict is not Verdict.VALID


PATHS = [
    ("evidence/0/evidence.json", "statement"), ("evidence/0/evidence.json", "signature"), ("evidence/0/evidence.json", "link"),
    ("evidence/0/evidence.json", "after"), ("evidence/0/evidence.json", "created_at"), ("evidence/0/disclosure.json", "stages"),
    ("anchors/0/receipt.json", "proof"), ("anchors/0/receipt.json", "block_time"), ("anchors/0/receipt.json", "height"),
    ("anchors/0/payload.json", "transaction_info_array"), ("anchors/0/payload.json", "range"),
    ("anchors/0/payload.json", "checkpoint"),
]  # fmt: skip


@given(st.sampled_from(PATHS), JSON)
@settings(max_examples=80)
def test_any_value_of_any_member_raises_nothing(path: tuple[str, str], value: Any) -> None:
    name, member = path
    document = parse(FILES[name])
    if document[member] == value:
        return
    document[member] = value
    judge(
        remade(
            {
                **FILES,
                name: json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8", "replace"),
            }
        )
    )


@pytest.mark.parametrize(
    "trust",
    [
        TRUST.replace(b"2026-01-01T00:00:00Z", b"0001-01-01T00:00:00+23:59"),
        TRUST.replace(b"skew_s = 300", b"skew_s = 99999999999999999999999999"),
        TRUST.replace(b"skew_s = 300", b"skew_s = " + b"9" * 5000),
        b"a = " + b"[" * 100_000,
        b".".join([b"a"] * 50_000) + b" = 1",
        b'[policy]\n[[log]]\n[[chain]]\nid = "a"\nengine = "b"\nparams = ' + b"{a = " * 400 + b"1" + b"}" * 400,
        b"x" * (1 << 21),
    ],
    ids=["time-before-time", "skew", "digits", "brackets", "dots", "params", "long"],
)
def test_hostile_trust_file_is_malformed(trust: bytes) -> None:
    assert verify(GOOD, trust).verdict is None


def test_times_at_the_end_of_time_raise_nothing() -> None:
    for old, new in ((b'"created_at":"2026', b'"created_at":"9999'), (b'"on_chain_by":"2026', b'"on_chain_by":"9999')):
        judge(remade({**FILES, "evidence/0/evidence.json": FILES["evidence/0/evidence.json"].replace(old, new)}))
    trust = TRUST.replace(b"skew_s = 300", b"skew_s = 9007199254740991").replace(
        b"time_error_s = 5", b"time_error_s = 9007199254740991"
    )
    assert verify(GOOD, trust).verdict is not None


# --- time and memory -------------------------------------------------------------------------------------------------


def _many_anchors(files: dict[str, bytes]) -> None:
    for number in range(1, 2000):
        for part in ("payload", "receipt"):
            files[f"anchors/{number}/{part}.json"] = files[f"anchors/0/{part}.json"]


def _many_items(files: dict[str, bytes]) -> None:
    for number in range(1, 580):
        for part in ("evidence.json", "template.json", "disclosure.json", "sm3.tlog-proof", "sha256.tlog-proof"):
            files[f"evidence/{number}/{part}"] = files[f"evidence/0/{part}"]


def _many_values(files: dict[str, bytes]) -> None:
    for number in range(7):
        files[f"anchors/{number}/payload.json"] = b"[" + b",".join([b"[]"] * 130_000) + b"]"
        files[f"anchors/{number}/receipt.json"] = b"[]"


def _long_texts(files: dict[str, bytes]) -> None:
    for number in range(11):
        files[f"anchors/{number}/payload.json"] = b'["' + "a\u0301\u0316".encode() * 800_000 + b'"]'
        files[f"anchors/{number}/receipt.json"] = b'["' + b"\\u0041" * 600_000 + b'"]'


def _big_payload(files: dict[str, bytes]) -> None:
    payload = parse(files["anchors/0/payload.json"])
    record = json.dumps(payload["transaction_info_array"][0])
    mark = payload["transaction_info_array"][0]["transaction_info"]["transaction_detail_info"]["necessaryData"]["PackageHash"]
    payload["transaction_info_array"] += [json.loads(record.replace(mark, f"{number:064x}")) for number in range(5200)]
    files["anchors/0/payload.json"] = canonical(payload)


def _big_receipts(files: dict[str, bytes]) -> None:
    receipt = parse(files["anchors/0/receipt.json"])
    transaction = parse(receipt["proof"]["transaction"].encode())
    transaction["payload"] = "a" * 3_900_000
    receipt["proof"]["transaction"] = canonical(transaction).decode()
    for number in range(20):
        receipt["chain"] = f"c{number}" if number else receipt["chain"]
        files[f"anchors/{number}/receipt.json"] = canonical(receipt)
        files[f"anchors/{number}/payload.json"] = files["anchors/0/payload.json"]


def _big_templates(files: dict[str, bytes]) -> None:
    codes = ",".join(f'"{number}":"a"' for number in range(18_000))
    field = f'{{"name":"f","title":"t","type":"CHARACTER","required":true,"enum":{{{codes}}}}}'
    template = (
        '{"bizName":"x","commitment":"merkle","format":"cz-template/1","name":"a","title":"t","stages":[{"name":"s","fields":['
        f"{field}]}}]}}"
    ).encode()
    evidence = parse(files["evidence/0/evidence.json"])
    evidence["statement"]["template"] = {"name": "a", **pair(template).to_json()}
    for number in range(110):
        files[f"evidence/{number}/template.json"] = template
        files[f"evidence/{number}/evidence.json"] = canonical(evidence)
    del files["evidence/0/disclosure.json"]


def _many_stages(files: dict[str, bytes]) -> None:
    evidence = parse(files["evidence/0/evidence.json"])
    stages = [{"name": str(number), "sha256": "00" * 32, "sm3": "11" * 32} for number in range(5500)]
    evidence["statement"]["stages"] = stages
    for number in range(6):
        files[f"evidence/{number}/evidence.json"] = canonical(evidence)


def _many_lines(files: dict[str, bytes]) -> None:
    note = files["evidence/0/sm3.tlog-proof"]
    for number in range(1, 120):
        lines = "".join(f"\u2014 a{number}x{line} {'A' * 800}\n" for line in range(58))
        files[f"evidence/{number}/evidence.json"] = files["evidence/0/evidence.json"]
        files[f"evidence/{number}/sm3.tlog-proof"] = note + lines.encode()


def _many_disclosures(files: dict[str, bytes]) -> None:
    inner = ",".join(['\\"x\\"'] * 1300)
    field = f'"[\\"cz-field/1\\",\\"9Gp1-hCgqHN_78IusB_gfQ\\",\\"文件\\",\\"name\\",[{inner}]]"'
    stage = f'{{"fields":[{field}],"name":"文件","proof":[]}}'
    for number in range(350):
        files[f"evidence/{number}/evidence.json"] = files["evidence/0/evidence.json"]
        files[f"evidence/{number}/template.json"] = files["evidence/0/template.json"]
        files[f"evidence/{number}/disclosure.json"] = f'{{"format":"cz-disclosure/1","stages":[{stage},{stage}]}}'.encode()


def _nested(files: dict[str, bytes]) -> None:
    for name in files:
        files[name] = b"[" * 100_000


MEASURED = """
import re, resource, sys
from evidence.verifier import verify
from evidence.render import render
def field(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
warm, data, trust = (open(path, "rb").read() for path in sys.argv[1:])
verify(warm, trust)
open("/proc/self/clear_refs", "w").write("5")
before, spent = field("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
report = verify(data, trust)
text = render(report) + report.to_text()
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime, field("VmHWM") - before, report.verdict)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "build",
    [
        _many_anchors, _many_items, _many_values, _long_texts, _big_payload, _big_receipts, _big_templates, _many_stages,
        _many_lines, _many_disclosures, _nested,
    ],
    ids=lambda build: build.__name__.strip("_"),
)  # fmt: skip
def test_time_and_memory_are_bounded(build: Callable[[dict[str, bytes]], None], tmp_path: Path) -> None:
    files = dict(FILES)
    build(files)
    path = tmp_path / "hostile.cz"
    path.write_bytes(remade(files, "transaction" if "evidence/1/evidence.json" in files else "item"))
    command = [sys.executable, "-c", MEASURED, str(VECTORS / "good" / "transaction.cz"), str(path), str(VECTORS / "trust.toml")]
    cpu_s, memory_mb, verdict = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert float(cpu_s) < CPU_S
    assert float(memory_mb) < MEMORY_MB
    assert verdict != "VALID"


def test_sizes_are_refused_before_anything_is_made_of_them() -> None:
    header = b"PK\3\4" + bytes([20, 0]) + bytes(8) + b"\xff" * 12 + bytes([13, 0, 0, 0]) + b"manifest.json"
    assert verify(header + bytes(100), TRUST).verdict is None
