"""An item's bundle proves the blocks that the item names, by proofs kept with it: the same bytes whatever the chain says then."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from homes import business, file_submission, preserve, preserved, serving, settings_of
from test_explain import TOOLS, run

from clock import ManualClock
from evidence.bootstrap import Service
from evidence.explain import explain
from evidence.settings import AnchorMode
from evidence.verifier import verify
from models.bundle import pack, unpack
from models.canonical import canonical, parse
from models.errors import EvidenceError
from models.report import Report, Verdict
from models.trust import TrustRoots

CHECK = 17


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(settings_of(tmp_path / "home", anchor_mode=AnchorMode.REALTIME), ManualClock()) as running:
        await final(running)
        yield running


async def final(service: Service) -> str:
    """The id of a new item once it is on the chain."""
    answer = await preserved(service, file_submission())
    assert await service.anchoring.wait_final(answer.leaf_index, 20) == "final"
    return answer.evidence_id


def files_of(data: bytes) -> dict[str, bytes]:
    return {name: bytes(each) for name, each in unpack(data).files.items()}


def judged(service: Service, files: dict[str, bytes], *, not_before: bool = False) -> Report:
    roots = TrustRoots.parse(service.trust())
    chains = tuple(replace(chain, not_before=not_before) for chain in roots.chains)
    return verify(pack(files, "item"), replace(roots, chains=chains))


async def bundle_of_a_new_item(service: Service) -> dict[str, bytes]:
    return files_of(await service.issuance.bundle(await final(service), business(service)))


async def test_a_bundle_proves_the_block_that_its_item_names(service: Service) -> None:
    files = await bundle_of_a_new_item(service)
    (named,) = parse(files["evidence/0/evidence.json"])["after"]
    shown = parse(files["blocks/0.json"])
    assert (shown["chain"], shown["height"]) == (named["chain"], named["height"])
    report = judged(service, files, not_before=True)
    assert report.verdict is Verdict.VALID
    assert report.not_before is not None
    assert report.not_after is not None
    assert report.not_before <= report.not_after
    # Our own trust file says that the owner of the machine can choose this ledger's blocks: then it bounds nothing.
    own = judged(service, files)
    assert (own.verdict, own.not_before) == (Verdict.VALID, None)
    del files["blocks/0.json"]
    without = judged(service, files, not_before=True)
    assert (without.verdict, without.not_before) == (Verdict.VALID, None)
    assert any("not-before is unproven" in finding for finding in without.findings)


@pytest.mark.parametrize("injury", ["seal", "header", "height", "twice"])
async def test_a_block_that_is_not_the_one_named_is_refused(service: Service, injury: str) -> None:
    files = await bundle_of_a_new_item(service)
    value = parse(files["blocks/0.json"])
    if injury == "seal":
        value["proof"]["seals"][0]["value"] = value["proof"]["seals"][1]["value"]
    elif injury == "header":
        value["proof"]["header"] = value["proof"]["header"].replace('"difficulty":0', '"difficulty":1')
    elif injury == "height":
        value["height"] += 1
    else:
        files["blocks/1.json"] = files["blocks/0.json"]
    files["blocks/0.json"] = canonical(value)
    report = judged(service, files)
    assert report.verdict is Verdict.INVALID
    assert [step.number for step in report.steps if step.verdict is Verdict.INVALID] == [CHECK]


async def test_the_same_bytes_come_again_though_the_chain_went_on_and_away(service: Service) -> None:
    name = await final(service)
    first = await service.issuance.bundle(name, business(service))
    await final(service)
    for chain in service.anchoring.chains.values():
        await chain.gateway.aclose()
    assert await service.issuance.bundle(name, business(service)) == first
    assert "blocks/0.json" in files_of(first)


async def test_one_proof_is_kept_for_all_items_that_name_a_block(service: Service) -> None:
    await preserve(service, *(file_submission() for _ in range(5)))
    with service.store.reading() as connection:
        heights = connection.exec_driver_sql("SELECT height FROM block ORDER BY height").scalars().all()
    assert len(set(heights)) == len(heights) <= service.log.state.size


async def test_a_kept_proof_that_was_altered_is_never_handed_out(service: Service) -> None:
    name = await final(service)
    with service.store.writing() as connection:
        connection.exec_driver_sql("UPDATE block SET proof = x'7b7d'")
    with pytest.raises(EvidenceError, match="does not accept"):
        await service.issuance.bundle(name, business(service))


async def test_check_17_is_repeated_with_openssl(service: Service, tmp_path: Path) -> None:
    files = await bundle_of_a_new_item(service)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        found = await asyncio.to_thread(subprocess.check_output, ["sh", "-c", f"command -v {tool}"], text=True)
        (tools / tool).symlink_to(found.strip())
    explain(pack(files, "item"), service.trust(), tmp_path / "good")
    good = await asyncio.to_thread(run, tmp_path / "good", tools)
    assert good.returncode == 0, good.stdout
    assert "check 17: blocks/0.json" in good.stdout
    assert "evidence/0 names it" in good.stdout
    value = parse(files["blocks/0.json"])
    value["proof"]["header"] = value["proof"]["header"].replace('"version":1', '"version":1 ')
    files["blocks/0.json"] = canonical(value)
    explain(pack(files, "item"), service.trust(), tmp_path / "bad")
    bad = await asyncio.to_thread(run, tmp_path / "bad", tools)
    assert bad.returncode != 0
    assert "FAIL" in bad.stdout.partition("check 17: blocks/0.json")[2]
