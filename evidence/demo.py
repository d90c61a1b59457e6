"""The whole path shown on real things: preserve, wait, issue, verify offline, and see every forgery refused.

A client like any other: it knows the service by its address and the verdicts by a trust file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evidence.client import Client
from evidence.errors import ServiceError
from evidence.promise import Promise
from evidence.verifier import verify
from models.bundle import pack, unpack
from models.canonical import JSONValue, canonical, parse
from models.commitment import hmac_sm3
from models.digest import Algorithm, Digest
from models.example import example
from models.report import Report, Verdict
from models.template import builtin
from models.trust import TrustRoots

APPENDIX_A = "tsac004.underwriting-papers@1"
APPENDIX_B = "tsac004.fund-order@1"
VERIFY_TIMEOUT_S = 300

# Run before the verifier in its own process: whatever opens a socket ends it, so its verdict cannot have come over a wire.
_NO_NETWORK = """\
import sys
def refuse(event, args):
    if event.startswith("socket."):
        raise RuntimeError("the verifier used the network: " + event)
sys.addaudithook(refuse)
from evidence.cli.main import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One thing to be preserved: what a person calls it, its submission, its file, and which of the tokens sends it."""

    what: str
    submission: Mapping[str, JSONValue] = field(repr=False)
    original: Path | None = None
    sender: int = 0


@dataclass(frozen=True, slots=True)
class Forgery:
    """A copy of a bundle with one thing changed, and what the verifier said to it."""

    change: str
    verdict: str
    step: int | None
    reason: str

    @property
    def is_refused(self) -> bool:
        """Whether it was anything but VALID."""
        return self.verdict != Verdict.VALID


@dataclass(frozen=True, slots=True)
class Shown:
    """One exhibit after the whole path."""

    what: str
    promise: Promise
    height: int | None
    verdict: str
    not_after: str | None
    forgeries: tuple[Forgery, ...]

    @property
    def holds(self) -> bool:
        """Whether it is VALID, and each forgery of it is not."""
        return self.verdict == Verdict.VALID and bool(self.forgeries) and all(each.is_refused for each in self.forgeries)

    def to_json(self) -> dict[str, JSONValue]:
        """The row for `--json`."""
        return {
            "what": self.what,
            "evidence_id": self.promise.evidence_id,
            "leaf_index": self.promise.leaf_index,
            "height": self.height,
            "verdict": self.verdict,
            "not_after": self.not_after,
            "forgeries": [
                {"change": each.change, "verdict": each.verdict, "step": each.step, "reason": each.reason}
                for each in self.forgeries
            ],
        }


def appendices(key: bytes, accounts: Sequence[str]) -> Iterator[Exhibit]:
    """The Appendix A example, and the nine stages of Appendix B one by one, by the accounts in turn; the last closes the link.

    The same key, accounts and templates give the same submissions, so that a second run repeats and conflicts with nothing.
    Source: T/SAC 004—2024 App. A, App. B.
    """
    papers, order = builtin(APPENDIX_A), builtin(APPENDIX_B)
    context = [papers.pair.sm3.hex(), order.pair.sm3.hex(), list(accounts)]
    seed = hmac_sm3(key, canonical(["cz-demo/1", context]))

    def client_key(name: str) -> str:
        return hmac_sm3(key, canonical(["cz-demo-key/1", context, name])).hex()

    yield Exhibit("附录A 投行底稿", example(papers, seed=seed, client_key=client_key("A")))
    for number, stage in enumerate(order.stages):
        submission = example(order, seed=seed, client_key=client_key(stage.name), stages=[stage.name])
        if number == len(order.stages) - 1:
            submission["link"] = {**submission["link"], "closes": True}
        yield Exhibit(f"附录B {stage.name}", submission, sender=number % max(1, len(accounts)))


def preserve(clients: Sequence[Client], exhibits: Sequence[Exhibit]) -> Iterator[Promise]:
    """A checked promise for each exhibit, in order; originals go first."""
    for exhibit in exhibits:
        client = clients[exhibit.sender % len(clients)]
        if exhibit.original is not None and "originals" in exhibit.submission:
            digest = Digest.parse(exhibit.submission["originals"][0]["digest"])
            client.upload_original(exhibit.original, Digest(Algorithm(digest.algorithm), digest.value))
        yield client.preserve(exhibit.submission)


def verify_apart(bundles: Sequence[Path], trust: Path) -> list[dict[str, JSONValue]]:
    """The reports of `evidence verify --json` in a process of its own that may not open a socket.

    Raises: ServiceError if that process gave no report.
    """
    argv = ["verify", *map(str, bundles), "--trust", str(trust), "--json", "--quiet"]
    done = subprocess.run(  # noqa: S603 - our own interpreter and our own verb
        [sys.executable, "-c", _NO_NETWORK, *argv], capture_output=True, check=False, timeout=VERIFY_TIMEOUT_S
    )
    try:
        value = json.loads(done.stdout)
    except ValueError as error:
        raise ServiceError(f"verifier gave no report: it ended with {done.returncode}") from error
    return [value] if len(bundles) == 1 else [each["report"] for each in value["items"]]


def height_of(bundle: bytes) -> int | None:
    """The height of the first block that holds the item."""
    receipt = unpack(bundle).files.get("anchors/0/receipt.json")
    height = parse(receipt, max_bytes=len(receipt)).get("height") if receipt else None
    return height if isinstance(height, int) else None


def forge(bundle: bytes, trust: TrustRoots) -> tuple[Forgery, ...]:
    """What the verifier says to copies of `bundle`, each with one thing changed."""
    return tuple(judge(change, data, trust) for change, data in _copies(bundle))


def _copies(bundle: bytes) -> Iterator[tuple[str, bytes]]:
    unpacked = unpack(bundle)
    files = dict(unpacked.files)
    place = bundle.index(files["evidence/0/evidence.json"]) + 40
    yield "证据体改一字节，清单未改", bundle[:place] + bytes([bundle[place] ^ 1]) + bundle[place + 1 :]
    name = "evidence/0/evidence.json"
    yield "证据体改期限，清单重做", pack({**files, name: _later(files[name])}, unpacked.kind)
    name = "evidence/0/disclosure.json"
    if name in files:
        yield "披露的取值被改，清单重做", pack({**files, name: _other_value(files[name])}, unpacked.kind)
    name = "anchors/0/receipt.json"
    if name in files:
        yield "回执改一字节，清单重做", pack({**files, name: _other_receipt(files[name])}, unpacked.kind)


def _later(evidence: bytes) -> bytes:
    """E with another millisecond of its deadline: well formed, and not what the log holds."""
    value = parse(evidence, max_bytes=len(evidence))
    text = value["on_chain_by"]
    value["on_chain_by"] = f"{text[:-2]}{'1' if text[-2] != '1' else '2'}Z"
    return canonical(value)


def _other_value(disclosure: bytes) -> bytes:
    value = parse(disclosure, max_bytes=len(disclosure))
    fields = value["stages"][0]["fields"]
    for number, text in enumerate(fields):
        opened = parse(text.encode())
        if isinstance(opened[4], str) and opened[4]:
            opened[4] = ("改" if opened[4][0] != "改" else "换") + opened[4][1:]
            fields[number] = canonical(opened).decode()
            break
    else:
        fields[0] = canonical([*parse(fields[0].encode())[:4], 7]).decode()
    return canonical(value)


def _other_receipt(receipt: bytes) -> bytes:
    """The receipt of another transaction, as its first digit says."""
    value = parse(receipt, max_bytes=len(receipt))
    text = value["tx_id"]
    value["tx_id"] = ("0" if text[0] != "0" else "1") + text[1:]
    return canonical(value)


def judge(change: str, data: bytes, trust: TrustRoots) -> Forgery:
    """What the verifier says to one copy, and which step says it first."""
    report: Report = verify(data, trust)
    if report.verdict is None:
        return Forgery(change, "malformed", 1, report.malformed)
    for step in report.steps:
        if step.verdict is report.verdict:
            return Forgery(change, report.verdict.value, step.number, step.detail)
    return Forgery(change, report.verdict.value, None, report.sentence)


def run(
    clients: Sequence[Client],
    exhibits: Sequence[Exhibit],
    *,
    trust: bytes,
    folder: Path,
    timeout_s: float,
    progress: Callable[[int, int, str], None],
) -> list[Shown]:
    """Every exhibit after the whole path; bundles and trust file are left in `folder`.

    Raises: what refuses an exhibit; NotFinal after `timeout_s`; VerificationError if a promise does not hold.
    """
    roots = TrustRoots.parse(trust)
    promises = []
    for promise in preserve(clients, exhibits):
        promises.append(promise)
        progress(len(promises), len(exhibits), "preserve")
    # The head that holds the last leaf holds all before it.
    for done, promise in enumerate(sorted(promises, key=lambda each: -each.leaf_index), 1):
        clients[0].wait(promise.evidence_id, timeout_s=timeout_s)
        progress(done, len(promises), "final")
    paths, bundles = [], []
    for number, (exhibit, promise) in enumerate(zip(exhibits, promises, strict=True)):
        bundles.append(clients[exhibit.sender % len(clients)].bundle(promise.evidence_id))
        paths.append(folder / f"{number:02d}.cz")
        paths[-1].write_bytes(bundles[-1])
        progress(number + 1, len(exhibits), "issue")
    trust_path = folder / "trust.toml"
    trust_path.write_bytes(trust)
    shown = []
    for exhibit, promise, bundle, report in zip(exhibits, promises, bundles, verify_apart(paths, trust_path), strict=True):
        forgeries = forge(bundle, roots)
        interval = report.get("interval") or {}
        verdict = str(report.get("verdict") or "malformed")
        shown.append(Shown(exhibit.what, promise, height_of(bundle), verdict, interval.get("not_after"), forgeries))
        progress(len(shown), len(exhibits), "verify")
    return shown
