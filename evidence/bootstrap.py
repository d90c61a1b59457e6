"""Settings → running objects: the only file that names concrete classes and reads the clock."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, select

from chain_gateway.port import ChainUnavailable, open_gateway
from evidence import anchors, tables
from evidence.access import Access, Role
from evidence.anchoring import Anchoring
from evidence.archive import Archive
from evidence.batch import Batch
from evidence.behind import Reports
from evidence.blocks import Blocks
from evidence.chain import Chain
from evidence.contents import Contents
from evidence.errors import HomeRefused, SettingWrong
from evidence.home import (
    HomeFacts,
    HomeLock,
    Signers,
    authority_folder,
    certify_nodes,
    chain_trust,
    log_trusts,
    log_vkeys,
    make_home,
    open_signers,
    read_facts,
)
from evidence.issuance import Issuance
from evidence.keys import FindKey, HomeKeys, make_folder, write_once
from evidence.keystore import KeyStore
from evidence.log import Log, LogKeys
from evidence.preparation import Intake, Preparation
from evidence.preservation import Preservation
from evidence.query import NodeSet, Query
from evidence.sandbox_ca import SandboxAuthority
from evidence.schema import check_version, upgrade
from evidence.settings import Environment, Settings
from evidence.signing import Signing
from evidence.steps import StepFunction, no_step
from evidence.store import HeadRow, Store
from evidence.stream_answers import StreamAnswers
from evidence.stream_archive import SliceArchive
from evidence.stream_keys import push_signer, recount_signer, recounter_name, recounters
from evidence.stream_push import Pushing
from evidence.stream_recounting import Recounting
from evidence.stream_shelf import Shelf
from evidence.streams import Streams
from models import libcrypto
from models.anchor import BlockRef
from models.canonical import JSONValue
from models.checkpoint import VerifierKey
from models.digest import Algorithm, sm3
from models.trust import ChainTrust, Policy, TrustRoots, format_trust

SERVICE_ACCOUNT = "service"
LOCAL_ACCOUNT = "local"
TOKEN_FILE = "token"  # noqa: S105 - the name of a file
TRUST_YEAR = timedelta(days=365)
UPLOAD_KEPT = timedelta(days=7)
"""How long an upload that no item has claimed is kept."""
NODES_ASKED = 16

Clock = Callable[[], datetime]
Randomness = Callable[[int], bytes]


def utc_now() -> datetime:
    """The present as an aware UTC time: the one place that asks the machine."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `evidence init` found or made."""

    home: Path
    is_new: bool
    origin: str
    environment: str
    token_file: Path
    vkey: str


def initialise(settings: Settings, *, clock: Clock = utc_now, randomness: Randomness = os.urandom) -> InitReport:
    """The home exists: keys, database, embedded ledger, subject, and a token of the local user. Idempotent.

    Raises: SettingWrong, HomeRefused, StorageFull, SigningUnavailable.
    Source: interface §2 (init).
    """
    if settings.libcrypto is not None:
        libcrypto.load(settings.libcrypto)
    make_folder(settings.home)
    lock = HomeLock(settings.home)
    store = Store(settings.database_url)
    try:
        upgrade(store)
        is_new = make_home(settings, store, clock=clock, randomness=randomness)
        facts = read_facts(settings)
        signers = open_signers(settings, facts, clock=clock)
        access = Access(store.writer, reader=store.reader, clock=clock, randomness=randomness)
        if settings.environment is Environment.SANDBOX:
            certify_nodes(settings, facts, signers, access, clock=clock, randomness=randomness)
        token = settings.home / TOKEN_FILE
        if not token.exists():
            if any(row.account == LOCAL_ACCOUNT for row in access.list()):
                text = access.rotate(LOCAL_ACCOUNT)
            else:
                text = access.add(LOCAL_ACCOUNT, roles=[Role.BUSINESS, Role.OPERATOR], subject=facts.subject, expires_at=None)
            write_once(token, text.encode(), randomness=randomness)
        KeyStore(settings.secrets_url, wrapping=HomeKeys(settings.home, clock=clock, randomness=randomness).wrapping).close()
    finally:
        store.close()
        lock.release()
    return InitReport(
        settings.home, is_new, facts.origin, facts.environment, token, str(log_vkeys(facts, signers)[Algorithm.SM3])
    )


@dataclass(slots=True)
class Home:
    """A home opened for reading beside a running service: what `examine`, `access` and `trust` work on."""

    settings: Settings
    facts: HomeFacts
    store: Store
    secrets: KeyStore
    find_key: FindKey
    signers: Signers
    contents: Contents
    access: Access
    originals: Archive
    signing: Signing
    clock: Clock

    def close(self) -> None:
        """Every connection is closed."""
        self.secrets.close()
        self.store.close()

    async def nodes(self) -> dict[str, NodeSet]:
        """Read-only gateways to every node of every configured chain, by chain id; a chain out of reach is left out."""
        found: dict[str, NodeSet] = {}
        for url in self.settings.chains:
            try:
                nodes = await _all_nodes(url, self.settings, self.clock)
            except ChainUnavailable:
                continue
            found[nodes.chain] = nodes
        return found

    def trust(self, chains: Sequence[ChainTrust]) -> bytes:
        """The trust file of this service, to be handed over by another way than the bundle (formats §6.3)."""
        now = self.clock().replace(microsecond=0)
        roots = TrustRoots(
            policy=Policy(chains=self.settings.quorum),
            logs=log_trusts(self.facts, self.signers, self.settings.organisation),
            chains=tuple(chains),
            issued_at=now,
            refresh_by=now + TRUST_YEAR,
            authorities=self.signing.authorities(),
            submitters=self.signing.submitters(),
            recounters=recounters(self.settings.home, self.facts, clock=self.clock),
        )
        return format_trust(roots)


def open_home(
    settings: Settings, *, clock: Clock = utc_now, randomness: Randomness = os.urandom, step: StepFunction = no_step
) -> Home:
    """The home's stores and keys, opened; nothing is started, nothing is locked.

    Raises: HomeRefused if there is no home or its schema is another; SettingWrong; SigningUnavailable.
    """
    if settings.libcrypto is not None:
        libcrypto.load(settings.libcrypto)
    facts = read_facts(settings)
    store = Store(settings.database_url)
    check_version(store)
    keys = HomeKeys(settings.home, clock=clock, randomness=randomness)
    secrets = KeyStore(settings.secrets_url, wrapping=keys.wrapping, step=step)
    access = Access(store.writer, reader=store.reader, clock=clock, randomness=randomness)
    archive = Archive(
        settings.home,
        store.writer,
        find_key=keys.find_key(),
        wrapping=keys.wrapping,
        secret_of=secrets.get,
        clock=clock,
        unit_limit_bytes=settings.unit_limit_bytes,
        reader=store.reader,
        randomness=randomness,
        step=step,
    )
    return Home(
        settings=settings,
        facts=facts,
        store=store,
        secrets=secrets,
        find_key=keys.find_key(),
        signers=open_signers(settings, facts, clock=clock),
        contents=Contents(store, secrets),
        access=access,
        originals=archive,
        signing=Signing(access, ca_folder=authority_folder(settings)),
        clock=clock,
    )


class Service:
    """Everything that runs for one log. `start`, then use, then `stop`."""

    def __init__(
        self, home: Home, lock: HomeLock, log: Log, anchoring: Anchoring, nodes: Mapping[str, NodeSet],
        randomness: Randomness, step: StepFunction,
    ) -> None:  # fmt: skip
        settings, clock = home.settings, home.clock
        self.home, self.settings, self.clock, self.log, self.anchoring = home, settings, clock, log, anchoring
        self.origin, self.store, self.access, self.originals = home.facts.origin, home.store, home.access, home.originals
        self.signing, self.contents = home.signing, home.contents
        self.chains, self.blocks = nodes, Blocks(anchoring.chains)
        self._lock = lock
        intake = Intake(
            origin=home.facts.origin,
            subject=home.facts.subject,
            service_account=SERVICE_ACCOUNT,
            promise_s=settings.promise_s,
            max_payload_bytes=anchoring.max_payload_bytes,
            state_of=anchoring.state_of,
        )
        preparation = Preparation(
            intake=intake,
            archive=home.originals,
            signing=home.signing,
            find_key=home.find_key,
            clock=clock,
            randomness=randomness,
        )
        self.preservation = Preservation(
            log=log,
            store=home.store,
            contents=home.contents,
            preparation=preparation,
            intake=intake,
            clock=clock,
            randomness=randomness,
        )
        self.query = Query(
            log=log,
            store=home.store,
            contents=home.contents,
            archive=home.originals,
            anchoring=anchoring,
            nodes=nodes,
            find_key=home.find_key,
            clock=clock,
        )
        self.issuance = Issuance(
            log=log,
            store=home.store,
            contents=home.contents,
            anchoring=anchoring,
            query=self.query,
            preservation=self.preservation,
            signing=home.signing,
            trust=self.trust,
            clock=clock,
            randomness=randomness,
        )
        self._open_streams(intake, randomness, step)

    def _open_streams(self, intake: Intake, randomness: Randomness, step: StepFunction) -> None:
        home, clock = self.home, self.clock
        folder, facts = home.settings.home, home.facts
        archive = SliceArchive(folder, randomness=randomness, step=step)
        self.shelf = Shelf(store=home.store, secrets=home.secrets, archive=archive, clock=clock)
        self.behind = Reports(clock=clock)
        self.streams = Streams(
            shelf=self.shelf,
            archive=archive,
            preservation=self.preservation,
            signing=home.signing,
            blocks=self.blocks,
            access=home.access,
            find_key=home.find_key,
            intake=intake,
            clock=clock,
            randomness=randomness,
        )
        self.stream_answers = StreamAnswers(
            shelf=self.shelf, store=home.store, issuance=self.issuance, anchoring=self.anchoring, blocks=self.blocks,
            origin=facts.origin, clock=clock,
        )  # fmt: skip
        self.recounting = Recounting(
            shelf=self.shelf,
            log=self.log,
            signer=recount_signer(folder, facts, clock=clock),
            name=recounter_name(facts.origin),
            clock=clock,
        )
        self.pushing = Pushing(
            streams=self.streams,
            shelf=self.shelf,
            contents=home.contents,
            blocks=self.blocks,
            signer_of=lambda account: push_signer(folder, facts, account, clock=clock),
            clock=clock,
            randomness=randomness,
        )

    def trust(self) -> bytes:
        """The trust file of this service as it now stands."""
        return self.home.trust([replace(chain.trust, first=chain.first) for chain in self.anchoring.chains.values()])

    def log_keys(self) -> dict[Algorithm, VerifierKey]:
        """The verifier keys of both trees."""
        return log_vkeys(self.home.facts, self.home.signers)

    def check_ready(self) -> None:
        """Return if an item could be acknowledged now; the chain is not asked. Raises: Unready, HomeRefused."""
        self.log.check_open()

    async def chain_states(self) -> list[dict[str, JSONValue]]:
        """Every chain: engine, nodes with their own heads, how far our anchors are final on it."""
        found: list[dict[str, JSONValue]] = []
        for chain in self.anchoring.chains.values():
            nodes: list[JSONValue] = []
            for gateway in self.chains[chain.id].gateways if chain.id in self.chains else ():
                try:
                    head = await gateway.head()
                    nodes.append({"node": gateway.node, "height": head.height, "hash": head.hash, "up": True})
                except ChainUnavailable as error:
                    nodes.append({"node": gateway.node, "height": None, "hash": None, "up": False, "detail": error.message})
            found.append(
                {
                    "chain": chain.id,
                    "engine": chain.gateway.engine,
                    "consensus": chain.gateway.consensus.kind,
                    "first": chain.first,
                    "final_end": chain.end,
                    "submitted_end": chain.submitted_end,
                    "last_error": chain.last_error or None,
                    "nodes": nodes,
                }
            )
        return found

    async def start(self) -> None:
        """Chains are compared, left-overs of a crash are cleared, and the service accepts items.

        Raises: HomeRefused if this home lies behind a chain or behind the head kept outside its database.
        """
        self.log.start()
        try:
            await self.anchoring.catch_up()
            self._check_head_lock()
        except HomeRefused as error:
            self.log.refuse(error)
            raise
        # Only now: what a database that was set back does not know is no left-over, and the newest one needs it.
        await asyncio.to_thread(self._sweep)
        await self.issuance.start()
        self.anchoring.start()
        await self.pushing.start()

    def _sweep(self) -> None:
        self.home.originals.sweep()
        self.home.originals.expire(self.clock() - UPLOAD_KEPT)
        self.shelf.sweep()
        if self.settings.environment is Environment.SANDBOX:
            SandboxAuthority(self.settings.home, clock=self.clock).refresh_list()
        self.home.secrets.sweep(self._known)

    def _check_head_lock(self) -> None:
        """Return if the log holds the head that was kept outside its database when secrets were last put.

        Raises: HomeRefused if the database was set back behind it: nothing is signed then.
        Source: formats §3.4; reliability R11.
        """
        lock, mark, state = self.home.secrets.head(), self._lock.mark.read(), self.log.state
        known = [] if mark is None else [mark]
        if lock is not None:
            known.append((lock.old_size, lock.old_root))
            if mark is not None and mark[0] >= lock.new_size:
                # The commit is known to have happened; else we may have died before it, and nobody was answered.
                known.append((lock.new_size, lock.new_root))
        missing = [size for size, root in known if size > state.size or state.sm3.root(size) != root]
        if not missing:
            return
        raise HomeRefused(
            f"the database is behind the head kept outside it: expected {max(missing)} entries of that history, got {state.size}",
            hint="the database was restored or is a copy: bring back the newest one; nothing is signed until then",
        )

    def _known(self, items: Sequence[bytes]) -> Collection[bytes]:
        c = tables.evidence.c
        with self.store.reading() as connection:
            return {bytes(row) for row in connection.execute(select(c.evidence_id).where(c.evidence_id.in_(items))).scalars()}

    async def stop(self) -> None:
        """Everything accepted is sealed and answered; what is open stays open for the next start."""
        await self.pushing.stop()
        await self.issuance.stop()
        await self.anchoring.stop()
        self.log.stop()
        for nodes in self.chains.values():
            for gateway in nodes.gateways:
                await gateway.aclose()
        self.home.close()
        self._lock.release()


async def _all_nodes(url: str, settings: Settings, clock: Clock) -> NodeSet:
    gateways = []
    for node in range(NODES_ASKED):
        try:
            gateways.append(await open_gateway(url, node=node, home=settings.home, clock=clock))
        except ChainUnavailable:
            if not gateways:
                raise
            break
    return NodeSet(gateways[0].chain_id, gateways)


async def open_service(
    settings: Settings, *, clock: Clock = utc_now, step: StepFunction = no_step, randomness: Randomness = os.urandom
) -> Service:
    """The service of a home, ready to `start`. The home is this process's own until `stop`.

    Raises: HomeRefused if another process has it, or it is damaged; SettingWrong; SigningUnavailable.
    """
    async with AsyncExitStack() as undo:
        lock = HomeLock(settings.home) if settings.home.is_dir() else _no_home()
        undo.callback(lock.release)
        home = open_home(settings, clock=clock, randomness=randomness, step=step)
        undo.callback(home.close)
        home.store.hold_sequencer_lock(int.from_bytes(sm3(home.facts.origin.encode())[:7]))
        chains, nodes = await _open_chains(home, undo)
        anchoring_of: list[Anchoring] = []

        def after() -> tuple[BlockRef, ...]:
            return anchoring_of[0].after()

        def guard() -> None:
            anchoring_of[0].guard()

        def batch(connection: Connection, head: HeadRow, now: datetime, blocks: Sequence[BlockRef]) -> Batch:
            proofs = anchoring_of[0].proofs
            return Batch(connection, head, now, blocks, proofs, lambda secrets, lock: home.secrets.put_many(secrets, head=lock))

        log = Log(
            home.store,
            LogKeys(home.signers.log, home.signers.twin),
            batch=batch,
            clock=clock,
            after=after,
            guard=guard,
            confirm=lambda head: lock.mark.write(head.size, head.sm3_root),
            step=step,
        )
        anchoring = Anchoring(
            chains, log=log, store=home.store, contents=home.contents, settings=settings, clock=clock, step=step
        )
        anchoring_of.append(anchoring)
        service = Service(home, lock, log, anchoring, nodes, randomness, step)
        undo.pop_all()
        return service


def _no_home() -> HomeLock:
    raise HomeRefused("there is no home here: expected one made by `evidence init`", hint="run evidence init")


async def _open_chains(home: Home, undo: AsyncExitStack) -> tuple[list[Chain], dict[str, NodeSet]]:
    chains: list[Chain] = []
    nodes: dict[str, NodeSet] = {}
    for url in home.settings.chains:
        signer = home.signers.nodes.get(url)
        gateway = await open_gateway(url, home=home.settings.home, clock=home.clock, node_signer=signer)
        undo.push_async_callback(gateway.aclose)
        with home.store.reading() as connection:
            first = anchors.first_of(connection, gateway.chain_id)
        if any(chain.id == gateway.chain_id for chain in chains):
            raise SettingWrong(f"EVIDENCE_CHAINS names one chain twice: {gateway.chain_id}")
        chains.append(Chain(gateway, chain_trust(gateway.trust(), first=first or 0)))
        nodes[gateway.chain_id] = await _all_nodes(url, home.settings, home.clock)
        for reader in nodes[gateway.chain_id].gateways:
            undo.push_async_callback(reader.aclose)
    return chains, nodes
