"""What a chain was made with: its nodes, where they lie, and how they are made. Fixed for its life."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chain_gateway.embedded.chainfile import ChainFile, Disk, Failpoint, Step, no_step
from chain_gateway.embedded.contract import MAX_PAYLOAD_BYTES, Rules
from chain_gateway.embedded.proof import ENGINE, NO_PARENT, Header, Seal, node_id, nodes_digest
from chain_gateway.embedded.stored import final_line, sealed_line
from chain_gateway.port import ChainUnavailable, Clock
from models.canonical import JSONValue, b64, canonical, members, parse_canonical, unb64
from models.errors import EvidenceError, Malformed
from models.merkle import empty_root
from models.names import check_chain_id
from models.signature import Signer, SM2Signer, check_public_key
from models.trust import TWO_THIRDS, ChainTrust, Epoch, Validator

NODES = 4
TIME_ERROR_S = 5
CONFIG_FILE = "chain.json"
LOCK_FILE = "lock"
KEY_FILE = "key.pem"
BLOCKS_FILE = "blocks.jsonl"


@dataclass(frozen=True)
class ChainConfig:
    """The chain's id, nodes and limits."""

    chain: str
    keys: tuple[bytes, ...]
    organisations: tuple[str, ...]
    first: int
    max_payload_bytes: int

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The nodes as seals name them, by number."""
        return tuple(node_id(key) for key in self.keys)

    @cached_property
    def nodes(self) -> str:
        """The member `nodes` of every header."""
        return nodes_digest(self.keys)

    @property
    def quorum(self) -> int:
        """How many nodes make a block final: more than two thirds."""
        return 2 * len(self.keys) // 3 + 1

    @property
    def rules(self) -> Rules:
        """The contract's rules: every node's key may send."""
        return Rules(self.chain, frozenset(self.keys), self.first, self.max_payload_bytes)

    @cached_property
    def trust(self) -> ChainTrust:
        """The chain as a trust file would describe it."""
        validators = tuple(Validator(b64(key), name) for key, name in zip(self.keys, self.organisations, strict=True))
        return ChainTrust(
            id=self.chain,
            engine=ENGINE,
            first=self.first,
            time_error_s=TIME_ERROR_S,
            not_before=False,
            senders=self.ids,
            params={},
            epochs=(Epoch(0, validators, TWO_THIRDS),),
        )

    def to_bytes(self) -> bytes:
        """The bytes of `chain.json`."""
        nodes = [{"key": b64(key), "organisation": name} for key, name in zip(self.keys, self.organisations, strict=True)]
        named: dict[str, JSONValue] = {
            "chain": self.chain,
            "first": self.first,
            "format": "cz-embedded/1",
            "max_payload_bytes": self.max_payload_bytes,
            "nodes": nodes,
        }
        return canonical(named)

    @classmethod
    def parse(cls, data: bytes) -> ChainConfig:
        """The configuration that `chain.json` holds.

        Raises: Malformed if its form is wrong.
        """
        value = parse_canonical(data, what=CONFIG_FILE)
        chain, first, version, limit, nodes = members(value, "chain first format max_payload_bytes nodes", CONFIG_FILE)
        if version != "cz-embedded/1" or not isinstance(nodes, list) or len(nodes) < NODES:
            raise Malformed(f"{CONFIG_FILE} has wrong form: expected cz-embedded/1 and at least {NODES} nodes")
        if type(first) is not int or type(limit) is not int or first < 0 or limit < 1:
            raise Malformed(f"{CONFIG_FILE} has wrong form: expected first ≥ 0 and max_payload_bytes ≥ 1")
        keys: list[bytes] = []
        names: list[str] = []
        for node in nodes:
            key, name = members(node, "key organisation", CONFIG_FILE)
            keys.append(unb64(key, size=65, what="node key"))
            check_public_key(keys[-1])
            names.append(str(name))
        return cls(check_chain_id(chain), tuple(keys), tuple(names), first, limit)

    @classmethod
    def read(cls, folder: Path) -> ChainConfig:
        """The configuration of the ledger in `folder`.

        Raises: ChainUnavailable if there is none or it cannot be read.
        """
        try:
            return cls.parse((folder / CONFIG_FILE).read_bytes())
        except OSError as error:
            raise ChainUnavailable("no embedded ledger here", hint="run `evidence init` first") from error
        except EvidenceError as error:
            raise ChainUnavailable(f"configuration of the embedded ledger is damaged: {error.message}") from error

    def genesis(self, time: Header | None, clock: Clock) -> Header:
        """The header of height 0, which holds no transaction."""
        moment = clock() if time is None else time.time
        empty = empty_root().hex()
        return Header.build(
            chain=self.chain,
            height=0,
            nodes=self.nodes,
            parent=NO_PARENT,
            state_root=empty,
            time=moment,
            tx_count=0,
            tx_root=empty,
        )


def node_folder(folder: Path, node: int) -> Path:
    """Where node `node` keeps its key and its copy of the chain."""
    return folder / f"node-{node}"


def open_key(folder: Path, node: int) -> SM2Signer:
    """The key of a node.

    Raises: OSError, Malformed, SigningUnavailable.
    """
    return SM2Signer.from_pem((node_folder(folder, node) / KEY_FILE).read_bytes())


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CLOEXEC | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_ledger(
    folder: Path,
    *,
    chain_id: str,
    clock: Clock,
    organisations: Sequence[str],
    first: int = 0,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    step: Failpoint = no_step,
) -> ChainConfig:
    """A ledger with its nodes' keys and a sealed genesis lies in `folder`; one that exists is left as it is.

    Shapes: one node for each of `organisations`, at least four.
    Raises: Malformed if the chain id or number of nodes is wrong; OSError; SigningUnavailable.
    """
    if folder.exists():
        return ChainConfig.read(folder)
    if len(organisations) < NODES:
        raise Malformed(f"embedded ledger has too few nodes: expected at least {NODES}, got {len(organisations)}")
    signers = [SM2Signer.generate() for _ in organisations]
    keys = tuple(signer.public_key for signer in signers)
    config = ChainConfig(check_chain_id(chain_id), keys, tuple(organisations), first, max_payload_bytes)
    making = folder.with_name(folder.name + ".making")
    # What an interrupted creation left has never been used: the rename below is what makes a ledger exist.
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True, mode=0o700)
    genesis = config.genesis(None, clock)
    seals = _genesis_seals(config, signers, genesis)
    for number, signer in enumerate(signers):
        node = node_folder(making, number)
        node.mkdir(mode=0o700)
        _write_new(node / KEY_FILE, signer.to_pem())
        _write_new(
            node / BLOCKS_FILE,
            sealed_line(genesis.data.decode(), (), seals[config.ids[number]]) + final_line(0, sorted(seals.values())),
        )
        _flush_folder(node)
    _write_new(making / CONFIG_FILE, config.to_bytes())
    _write_new(making / LOCK_FILE, b"")
    _flush_folder(making)
    step(Step.BEFORE_CREATE)
    # Dying before the rename leaves no ledger, after it a whole one.
    making.rename(folder)
    _flush_folder(folder.parent)
    step(Step.AFTER_CREATE)
    return config


def _genesis_seals(config: ChainConfig, signers: Sequence[Signer], genesis: Header) -> dict[str, Seal]:
    return {node: Seal(node, signer.sign(genesis.data)) for node, signer in zip(config.ids, signers, strict=True)}


def open_blocks(folder: Path, node: int, *, disk: Disk | None) -> ChainFile:
    """The file of a node; with a disk for writing, made empty if it is missing.

    Raises: OSError.
    """
    return ChainFile(node_folder(folder, node) / BLOCKS_FILE, disk=disk)
