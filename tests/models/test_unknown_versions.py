"""A later version is unknown; what is no version of anything is malformed, wherever a format is named (formats §11, check 2)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from chain_gateway.embedded.proof import Header, Transaction
from models.anchor import ChainReceipt, Payload
from models.bundle import unpack
from models.canonical import parse
from models.checkpoint import TlogProof
from models.commitment import verify_disclosure
from models.digest import Algorithm
from models.errors import Malformed, Unknown, VerificationError
from models.evidence import Evidence
from models.template import Template

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
FILES = dict(unpack((VECTORS / "good" / "merkle.cz").read_bytes()).files)
PROOF = parse(FILES["anchors/0/receipt.json"])["proof"]
TEMPLATE = Template.parse(FILES["evidence/0/template.json"])
STAGES = Evidence.parse(FILES["evidence/0/evidence.json"]).statement.stages


def _disclosed(data: bytes) -> object:
    return verify_disclosure(TEMPLATE, STAGES, parse(data))


CASES: list[tuple[str, Callable[[bytes], object], bytes]] = [
    ("cz-evidence/", Evidence.parse, FILES["evidence/0/evidence.json"]),
    ("cz-statement/", Evidence.parse, FILES["evidence/0/evidence.json"]),
    ("cz-template/", Template.parse, FILES["evidence/0/template.json"]),
    ("cz-disclosure/", _disclosed, FILES["evidence/0/disclosure.json"]),
    ("cz-field/", _disclosed, FILES["evidence/0/disclosure.json"]),
    ("cz-anchor/", Payload.parse, FILES["anchors/0/payload.json"]),
    ("cz-receipt/", ChainReceipt.parse, FILES["anchors/0/receipt.json"]),
    ("cz-block/", Header.parse, PROOF["header"].encode()),
    ("cz-tx/", Transaction.parse, PROOF["transaction"].encode()),
    ("cz/tlog-proof-sm3@v", partial(TlogProof.parse, kind=Algorithm.SM3), FILES["evidence/0/sm3.tlog-proof"]),
    ("c2sp.org/tlog-proof@v", partial(TlogProof.parse, kind=Algorithm.SHA256), FILES["evidence/0/sha256.tlog-proof"]),
]


@pytest.mark.parametrize(("marker", "read", "data"), CASES, ids=[case[0] for case in CASES])
def test_later_version_is_unknown_and_any_other_marker_is_malformed(
    marker: str, read: Callable[[bytes], object], data: bytes
) -> None:
    assert data.count(f"{marker}1".encode()) >= 1
    read(data)
    for version in ("2", "10", "999999999"):
        with pytest.raises(Unknown):
            read(data.replace(f"{marker}1".encode(), f"{marker}{version}".encode(), 1))
    for version in ("0", "01", "02", "00", "", "-1", "1.0", "x", "1234567890"):
        with pytest.raises((Malformed, VerificationError)):
            read(data.replace(f"{marker}1".encode(), f"{marker}{version}".encode(), 1))
