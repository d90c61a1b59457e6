"""Anyone repeats the verdict with sh, openssl and coreutils; a tampered copy fails there too, and no name can run anything."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_verifier_signers import signed_by_certificate

from evidence.explain import explain
from models.bundle import encode, manifest_of, pack, unpack
from models.canonical import canonical, parse
from models.errors import Malformed
from models.report import Report, Verdict
from models.trust import format_trust

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
CASES: list[dict[str, Any]] = [
    case
    for case in json.loads((VECTORS / "expected.json").read_text())
    if not case["originals"] and case["verdict"] != "MALFORMED"
]
TOOLS = ("sh", "openssl", "cat", "cmp", "cut", "dirname", "mkdir", "od", "rm", "tail", "tr")
TRUST = (VECTORS / "trust.toml").read_bytes()


def _openssl_has_sm2() -> bool:
    if any(shutil.which(tool) is None for tool in TOOLS):
        return False
    listed = subprocess.run(["openssl", "list", "-public-key-algorithms"], check=False, capture_output=True, text=True)
    return "SM2" in listed.stdout


pytestmark = pytest.mark.skipif(not _openssl_has_sm2(), reason="the openssl command, with SM2, and cmp are not here")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with these tools and nothing else: no Python."""
    folder = tmp_path_factory.mktemp("tools")
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def run(folder: Path, tools: Path) -> subprocess.CompletedProcess[str]:
    command = [str(tools / "sh"), str(folder / "explain.sh")]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={"PATH": str(tools)}, timeout=120)


def explained(name: str, trust: str, folder: Path) -> Report:
    return explain((VECTORS / name).read_bytes(), (VECTORS / trust).read_bytes(), folder)


GOOD = [case for case in CASES if case["verdict"] == "VALID"]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: f"{case['file']}-{case['trust']}")
def test_good_bundle_is_repeated_without_python(case: dict[str, Any], tmp_path: Path, tools: Path) -> None:
    report = explained(case["file"], case["trust"], tmp_path / "x")
    result = run(tmp_path / "x", tools)
    assert report.verdict is Verdict.VALID
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert "FAIL" not in result.stdout
    assert result.stdout.count("\nok") > 40
    for said in ("PackageHash", "seals of at least", "the root is the one", "line of sandbox", "sender's signature"):
        assert said in result.stdout


def test_signature_under_a_certificate_is_repeated(tmp_path: Path, tools: Path) -> None:
    _, files, roots, _ = signed_by_certificate()
    report = explain(pack(files, "item"), format_trust(roots), tmp_path / "x")
    result = run(tmp_path / "x", tools)
    assert (report.verdict, result.returncode) == (Verdict.VALID, 0), result.stdout
    assert "ok    SM2 signature under certs/0.cer" in result.stdout


BAD = [case for case in CASES if case["verdict"] != "VALID"]
SEEN_BY_COMMANDS = {
    "bad/wrong-template-digest.cz", "bad/value-edited.cz", "bad/flat-salt-wrong.cz", "bad/wrong-sm2-user-id.cz",
    "bad/index-of-another.cz", "bad/node-as-leaf.cz", "bad/t-altered-in-the-signature-line.cz", "bad/quorum-2-of-4.cz",
    "bad/receipt-s-key-of-another-start.cz",
}  # fmt: skip


@pytest.mark.parametrize("case", BAD[::7], ids=lambda case: f"{case['file']}-{case['trust']}")
def test_bundle_that_is_not_valid_fails(case: dict[str, Any], tmp_path: Path, tools: Path) -> None:
    explained(case["file"], case["trust"], tmp_path / "x")
    result = run(tmp_path / "x", tools)
    assert result.returncode == 1
    assert "FAIL" in result.stdout


@pytest.mark.parametrize("name", sorted(SEEN_BY_COMMANDS))
def test_wrong_digest_or_signature_is_seen_by_openssl_itself(name: str, tmp_path: Path, tools: Path) -> None:
    explained(name, "trust.toml", tmp_path / "x")
    failed = [line for line in run(tmp_path / "x", tools).stdout.splitlines() if line.startswith("FAIL")]
    assert any(not line.startswith("FAIL  check ") for line in failed), failed


def _altered(folder: Path) -> list[Path]:
    """One file of each folder of those that came out of the bundle or the trust file."""
    names = ("files", "item", "anchor", "sig", "keys", "history", "c", "zip")
    found = [path for name in names for path in sorted((folder / name).rglob("*")) if path.is_file() and path.stat().st_size]
    firsts = {path.parent: path for path in reversed(found)}
    return [*firsts.values(), folder / "bundle.cz"]


def test_every_extracted_file_matters(tmp_path: Path, tools: Path) -> None:
    folder = tmp_path / "x"
    explained("good/hash.cz", "trust.toml", folder)
    for path in _altered(folder)[::2]:
        data = path.read_bytes()
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert run(folder, tools).returncode == 1, path.relative_to(folder)
        path.write_bytes(data)
    assert run(folder, tools).returncode == 0


def test_another_trust_file_fails(tmp_path: Path, tools: Path) -> None:
    folder = tmp_path / "x"
    explained("good/merkle.cz", "trust.toml", folder)
    (folder / "trust.toml").write_bytes((VECTORS / "trust-foreign.toml").read_bytes())
    result = run(folder, tools)
    assert result.returncode == 1
    assert "FAIL  key of the node stands in trust.toml" in result.stdout


def test_nothing_in_a_bundle_is_run_as_a_command(tmp_path: Path, tools: Path) -> None:
    hostile = "'; touch hacked; $(touch hacked) `touch hacked` \"\\"
    files = dict(unpack((VECTORS / "good" / "merkle.cz").read_bytes()).files)
    evidence = parse(files["evidence/0/evidence.json"])
    evidence["statement"]["stages"][0]["name"] = hostile
    evidence["statement"]["template"]["name"] = hostile
    evidence["signature"] = {"algorithm": "sm2-sm3", "signer": "00000000", "value": "A" * 86 + "=="}
    disclosure = parse(files["evidence/0/disclosure.json"])
    disclosure["stages"][0]["name"] = hostile
    disclosure["stages"][1]["fields"].append(hostile)
    receipt = parse(files["anchors/0/receipt.json"])
    receipt["proof"]["seals"][0]["node"] = hostile
    changed = {
        "evidence/0/evidence.json": canonical(evidence),
        "evidence/0/disclosure.json": canonical(disclosure),
        "anchors/0/receipt.json": canonical(receipt),
    }
    for names in ([name] for name in changed):
        altered = {**files, **{name: changed[name] for name in names}}
        folder = tmp_path / names[0].replace("/", "-")
        explain(encode({"manifest.json": manifest_of(altered, "item"), **altered}), TRUST, folder)
        assert run(folder, tools).returncode == 1
        assert not list(tmp_path.rglob("hacked"))


def test_malformed_bundle_writes_nothing(tmp_path: Path) -> None:
    assert explain(b"no bundle", TRUST, tmp_path / "x").verdict is None
    assert not (tmp_path / "x").exists()


def test_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(Malformed, match="not empty"):
        explain((VECTORS / "good" / "hash.cz").read_bytes(), TRUST, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
