"""The trust file: what a verifier believes, handed over by another way than the bundle.

Parsed as strictly as evidence: an unknown member, a double, one key under two names or a time
without offset is refused, because a trust file that is read in two ways gives two verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from models.canonical import MAX_DEPTH
from models.checkpoint import COSIGNATURE_TYPE, ED25519_TYPE, NOTE_TYPE, STATEMENT_TYPE, VerifierKey
from models.digest import Algorithm, Pair, pair, unhex
from models.errors import EvidenceError, Malformed
from models.names import TWIN_SUFFIX, check_chain_id, check_name, check_origin
from models.quorum import WitnessPolicy
from models.toml import Table, count_of, lines_of, moment_of, read_toml, table_of, tables_of, text_of, value_of

MAX_TRUST_BYTES = 1 << 20
FORMAT = "cz-trust/1"
TWO_THIRDS: Literal["2/3"] = "2/3"
ALGORITHMS = ("sm3", "sha256", "sm2-sm3", "ed25519", "secp256k1", "keccak256", "ripemd160", "rsa", "ecdsa")
Demand = Literal["if-present", "required"]
_ENGINE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+\n-----END CERTIFICATE-----\n?", re.ASCII)
_POLICY_NAMES = ("chains", "signature", "twin", "timestamps", "third_parties", "skew_s")
_CHAIN_NAMES = ("id", "engine", "first", "time_error_s", "not_before")


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, half open: `start` ≤ t < `until`; None is unbounded."""

    start: datetime | None = None
    until: datetime | None = None

    def holds(self, moment: datetime) -> bool:
        """Whether `moment` lies in the span."""
        return (self.start is None or self.start <= moment) and (self.until is None or moment < self.until)


@dataclass(frozen=True, slots=True)
class LogKey:
    """A key of a log, who holds it, and when its lines count (at the chain's time, formats §3.5)."""

    key: VerifierKey
    organisation: str
    window: Window = Window()


@dataclass(frozen=True, slots=True)
class LogTrust:
    """One tree of one log; the SHA-256 twin is another with `twin_of`."""

    origin: str
    tree: Algorithm
    keys: tuple[LogKey, ...]
    twin_of: str | None = None


@dataclass(frozen=True, slots=True)
class Validator:
    """A node that takes part in a chain's consensus: its key as its engine writes keys, and who runs it."""

    key: str
    organisation: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """The validators of a chain from a height on, and how many must have signed: a number, or "2/3" (more than)."""

    from_height: int
    validators: tuple[Validator, ...]
    quorum: int | Literal["2/3"] = TWO_THIRDS

    def needed(self) -> int:
        """How many distinct validators make a block final."""
        return self.quorum if isinstance(self.quorum, int) else len(self.validators) * 2 // 3 + 1


@dataclass(frozen=True, slots=True)
class ChainTrust:
    """What is believed of one chain: its engine, its nodes, and what its times are worth."""

    id: str
    engine: str
    first: int = 0
    time_error_s: int = 0
    not_before: bool = False
    senders: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()

    def epoch(self, height: int) -> Epoch | None:
        """The last epoch that begins at or below `height`, if any (formats §11)."""
        found = [epoch for epoch in self.epochs if epoch.from_height <= height]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class Authority:
    """A certification or time-stamp authority: its certificate (PEM) and when it is believed."""

    certificate: str
    window: Window = Window()


@dataclass(frozen=True, slots=True)
class Recounter:
    """Someone whose recount of a stream is believed (formats §5.7)."""

    name: str
    vkey: VerifierKey


@dataclass(frozen=True, slots=True)
class Submitter:
    """An account and its key: a verifier key, or a certificate's digest or subject name (exactly one)."""

    account: str
    vkey: VerifierKey | None = None
    certificate: bytes | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What VALID demands (formats §6.3)."""

    chains: int | Literal["all"] = 1
    signature: Demand = "if-present"
    twin: Demand = "if-present"
    timestamps: int = 0
    third_parties: int = 0
    skew_s: int = 300
    witnesses: WitnessPolicy = field(default_factory=lambda: WitnessPolicy.parse("quorum none\n"))


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """A whole trust file; `pair` are the digests of its bytes."""

    policy: Policy
    logs: tuple[LogTrust, ...]
    chains: tuple[ChainTrust, ...]
    issued_at: datetime | None = None
    refresh_by: datetime | None = None
    algorithms: Mapping[str, datetime] = field(default_factory=dict)
    authorities: tuple[Authority, ...] = ()
    timestampers: tuple[Authority, ...] = ()
    recounters: tuple[Recounter, ...] = ()
    submitters: tuple[Submitter, ...] = ()
    pair: Pair = field(default=Pair(b"", b""), repr=False)

    def log(self, origin: str) -> LogTrust | None:
        """What is believed of the log or twin `origin`."""
        return next((log for log in self.logs if log.origin == origin), None)

    def chain(self, chain_id: str) -> ChainTrust | None:
        """What is believed of the chain `chain_id`."""
        return next((chain for chain in self.chains if chain.id == chain_id), None)

    @classmethod
    def parse(cls, data: bytes) -> TrustRoots:
        """The trust roots that the bytes of a trust file state.

        Shapes: TOML 1.0, UTF-8, ≤ 1 MiB; policy, one [[log]] and one [[chain]] are needed.
        Raises: Malformed on anything the format page does not name.
        Source: formats §6.3, §11 (Trust file, Values).
        """
        if len(data) > MAX_TRUST_BYTES:
            raise Malformed(f"trust file is too long: expected at most {MAX_TRUST_BYTES} bytes, got {len(data)}")
        value = read_toml(data)
        try:
            return _roots(value, pair(data))
        except Malformed:
            raise
        except EvidenceError as error:
            raise Malformed(f"trust file cannot be read: {error.message}") from error


def _window(value: Table, what: str) -> Window:
    start, until = moment_of(value.get("from"), f"from of {what}"), moment_of(value.get("until"), f"until of {what}")
    if start is not None and until is not None and start >= until:
        raise Malformed(f"{what} of the trust file has an empty window: expected from before until")
    return Window(start, until)


def _demand(value: Table, name: str) -> Demand:
    found = value.get(name, "if-present")
    if found == "required":
        return "required"
    if found != "if-present":
        raise Malformed(f"{name} in the policy has wrong value: expected if-present or required")
    return "if-present"


MAX_SECONDS = 10**9
"""Allowances above this (30 years) are cut to it, so that adding one to a time stays within reason."""


def _policy(value: object) -> Policy:
    table = table_of(value, "policy", "chains signature twin timestamps third_parties skew_s witnesses")
    chains = table.get("chains", 1)
    return Policy(
        "all" if chains == "all" else count_of(chains, "chains in the policy", 1),
        _demand(table, "signature"),
        _demand(table, "twin"),
        count_of(table.get("timestamps", 0), "timestamps in the policy"),
        count_of(table.get("third_parties", 0), "third_parties in the policy"),
        min(count_of(table.get("skew_s", 300), "skew_s in the policy"), MAX_SECONDS),
        WitnessPolicy.parse(table.get("witnesses", "quorum none\n")),
    )


def _log(value: object) -> LogTrust:
    table = table_of(value, "log", "origin tree twin_of keys", "origin")
    origin, tree, twin_of = check_origin(table["origin"]), table.get("tree", "sm3"), table.get("twin_of")
    if tree not in ("sm3", "sha256"):
        raise Malformed("tree of a log has wrong value: expected sm3 or sha256")
    if (tree == "sha256") != (twin_of is not None) or (twin_of is not None and check_origin(twin_of) + TWIN_SUFFIX != origin):
        raise Malformed("twin of a log is stated wrongly: expected tree sha256, twin_of and an origin ending in /sha256")
    keys: list[LogKey] = []
    for entry in tables_of(table, "keys"):
        member = table_of(entry, "key of a log", "vkey organisation from until", "vkey organisation")
        key = VerifierKey.parse(member["vkey"])
        if key.name != origin or key.type not in ((COSIGNATURE_TYPE, ED25519_TYPE) if twin_of else (COSIGNATURE_TYPE,)):
            raise Malformed("key of a log is not for its checkpoints: expected a cosignature key named as the origin")
        keys.append(LogKey(key, text_of(member["organisation"], "organisation"), _window(member, "key of a log")))
    return LogTrust(origin, Algorithm(tree), tuple(keys), twin_of)


def _epoch(value: object) -> Epoch:
    table = table_of(value, "epoch", "from_height validators quorum", "from_height validators quorum")
    validators: list[Validator] = []
    for entry in tables_of(table, "validators"):
        member = table_of(entry, "validator", "key organisation", "key organisation")
        key = text_of(member["key"], "key of a validator")
        validators.append(Validator(key, text_of(member["organisation"], "organisation")))
    _distinct([validator.key for validator in validators], "validator of an epoch")
    quorum = table["quorum"]
    needed: int | Literal["2/3"] = TWO_THIRDS if quorum == TWO_THIRDS else count_of(quorum, "quorum", 1)
    return Epoch(count_of(table["from_height"], "from_height"), tuple(validators), needed)


def _chain(value: object) -> ChainTrust:
    table = table_of(value, "chain", "id engine first time_error_s not_before senders params epochs", "id engine")
    if not isinstance(table["engine"], str) or not _ENGINE.fullmatch(table["engine"]):
        raise Malformed("engine of a chain has wrong form")
    not_before = table.get("not_before", False)
    if not isinstance(not_before, bool):
        raise Malformed("not_before of a chain has wrong form: expected true or false")
    senders = tuple(text_of(entry, "sender of a chain") for entry in tables_of(table, "senders"))
    _distinct(senders, "sender of a chain")
    epochs = tuple(_epoch(entry) for entry in tables_of(table, "epochs"))
    heights = [epoch.from_height for epoch in epochs]
    if heights != sorted(set(heights)):
        raise Malformed("epochs of a chain do not ascend by from_height")
    params = table.get("params", {})
    if not isinstance(params, dict):
        raise Malformed("params of a chain is not a table")
    _check_params(params, 1)
    return ChainTrust(
        check_chain_id(table["id"]),
        table["engine"],
        count_of(table.get("first", 0), "first of a chain"),
        min(count_of(table.get("time_error_s", 0), "time_error_s of a chain"), MAX_SECONDS),
        not_before,
        senders,
        params,
        epochs,
    )


def _check_params(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Malformed("params of a chain are nested too deep")
    if isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            _check_params(member, depth + 1)
    elif not isinstance(value, str | int):
        raise Malformed("params of a chain hold a value of a wrong type: expected texts, integers, true or false")


def _authority(value: object, what: str) -> Authority:
    table = table_of(value, what, "certificate from until", "certificate")
    pem = table["certificate"]
    if not isinstance(pem, str) or not _PEM.fullmatch(pem):
        raise Malformed(f"certificate of a {what} has wrong form: expected PEM")
    return Authority(pem, _window(table, what))


def _submitter(value: object) -> Submitter:
    table = table_of(value, "submitter", "account vkey certificate subject", "account")
    account = check_name(table["account"], "account of a submitter")
    if len(table) != 2:
        raise Malformed("submitter has wrong members: expected account and one of vkey, certificate, subject")
    if "vkey" in table:
        key = VerifierKey.parse(table["vkey"])
        if key.name != account or key.type != STATEMENT_TYPE:
            raise Malformed("key of a submitter is not for statements: expected one named as the account")
        return Submitter(account, vkey=key)
    if "certificate" in table:
        return Submitter(account, certificate=unhex(table["certificate"], what="certificate of a submitter"))
    return Submitter(account, subject=text_of(table["subject"], "subject of a submitter"))


def _recounter(value: object) -> Recounter:
    table = table_of(value, "recounter", "name vkey", "name vkey")
    key = VerifierKey.parse(table["vkey"])
    if key.type != NOTE_TYPE:
        raise Malformed("key of a recounter is not for notes")
    return Recounter(text_of(table["name"], "name of a recounter"), key)


def _distinct(found: Sequence[object], what: str) -> None:
    if len(set(found)) != len(found):
        raise Malformed(f"{what} stands twice in the trust file")


def _roots(value: Table, digests: Pair) -> TrustRoots:
    names = "format issued_at refresh_by policy algorithms log chain ca tsa recounter submitter"
    table = table_of(value, "top level", names, "policy log chain")
    if table.get("format", FORMAT) != FORMAT:
        raise Malformed(f"trust file has another format: expected {FORMAT}")
    algorithms = table_of(table.get("algorithms", {}), "algorithms", " ".join(ALGORITHMS))
    ends = {name: moment_of(moment, f"end of {name}") for name, moment in algorithms.items()}
    roots = TrustRoots(
        _policy(table["policy"]),
        tuple(_log(entry) for entry in tables_of(table, "log")),
        tuple(_chain(entry) for entry in tables_of(table, "chain")),
        moment_of(table.get("issued_at"), "issued_at"),
        moment_of(table.get("refresh_by"), "refresh_by"),
        {name: moment for name, moment in ends.items() if moment is not None},
        tuple(_authority(entry, "ca") for entry in tables_of(table, "ca")),
        tuple(_authority(entry, "tsa") for entry in tables_of(table, "tsa")),
        tuple(_recounter(entry) for entry in tables_of(table, "recounter")),
        tuple(_submitter(entry) for entry in tables_of(table, "submitter")),
        digests,
    )
    if not roots.logs or not roots.chains:
        raise Malformed("trust file names no log or no chain: expected at least one of each")
    _check_doubles(roots)
    return roots


def _check_doubles(roots: TrustRoots) -> None:
    _distinct([log.origin for log in roots.logs], "log")
    _distinct([chain.id for chain in roots.chains], "chain")
    _distinct(roots.submitters, "submitter")
    _distinct([authority.certificate for authority in roots.authorities], "ca")
    _distinct([authority.certificate for authority in roots.timestampers], "tsa")
    _distinct([recounter.name for recounter in roots.recounters], "recounter")
    named = [(entry.key.name, entry.key.public_key) for log in roots.logs for entry in log.keys]
    _distinct(named, "key of a log")
    named += [(key.name, key.public_key) for _, key in roots.policy.witnesses.witnesses]
    named += [(entry.vkey.name, entry.vkey.public_key) for entry in roots.submitters if entry.vkey is not None]
    owner: dict[bytes, str] = {}
    for name, key in named:
        if owner.setdefault(key, name) != name:
            raise Malformed("one key stands under two names in the trust file")
    tied: dict[object, str] = {}
    for entry in roots.submitters:
        mark = entry.certificate or entry.subject
        if mark is not None and tied.setdefault(mark, entry.account) != entry.account:
            raise Malformed("one certificate stands under two accounts in the trust file")


def format_trust(roots: TrustRoots) -> bytes:
    """The trust file that states `roots`, which `TrustRoots.parse` reads back as the same.

    Shapes: TOML, UTF-8, one line a member in the order of the format page.
    Raises: Malformed if `roots` could not have been read from a trust file.
    Source: formats §6.3.
    """
    policy = roots.policy
    lines = [f"format = {value_of(FORMAT)}"]
    lines += lines_of({"issued_at": roots.issued_at, "refresh_by": roots.refresh_by})
    lines += ["[policy]"]
    lines += lines_of({name: getattr(policy, name) for name in _POLICY_NAMES})
    lines += [f"witnesses = {value_of(policy.witnesses.text)}"]
    if roots.algorithms:
        lines += ["[algorithms]", *lines_of(dict(sorted(roots.algorithms.items())))]
    for log in roots.logs:
        keys = [
            {"vkey": str(entry.key), "organisation": entry.organisation, "from": entry.window.start, "until": entry.window.until}
            for entry in log.keys
        ]
        lines += ["[[log]]", *lines_of({"origin": log.origin, "tree": log.tree.value, "twin_of": log.twin_of, "keys": keys})]
    for chain in roots.chains:
        lines += ["[[chain]]", *lines_of({name: getattr(chain, name) for name in _CHAIN_NAMES})]
        epochs = [
            {
                "from_height": epoch.from_height,
                "validators": [{"key": node.key, "organisation": node.organisation} for node in epoch.validators],
                "quorum": epoch.quorum,
            }
            for epoch in chain.epochs
        ]
        lines += lines_of({"senders": list(chain.senders), "params": dict(chain.params), "epochs": epochs})
    for word, entries in (("ca", roots.authorities), ("tsa", roots.timestampers)):
        for entry in entries:
            span = {"from": entry.window.start, "until": entry.window.until}
            lines += [f"[[{word}]]", *lines_of({"certificate": entry.certificate, **span})]
    for recounter in roots.recounters:
        lines += ["[[recounter]]", *lines_of({"name": recounter.name, "vkey": str(recounter.vkey)})]
    for submitter in roots.submitters:
        mark = None if submitter.certificate is None else submitter.certificate.hex()
        key = None if submitter.vkey is None else str(submitter.vkey)
        lines += [f"[[submitter]]\naccount = {value_of(submitter.account)}"]
        lines += lines_of({"vkey": key, "certificate": mark, "subject": submitter.subject})
    data = ("\n".join(lines) + "\n").encode()
    TrustRoots.parse(data)
    return data
