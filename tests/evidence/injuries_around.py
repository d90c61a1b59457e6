"""Injuries around the log: anchors, the ledger's nodes, originals, keys, home.json, settings."""

from __future__ import annotations

import os
import shutil

from examined import World
from injuries import INJURIES, Found, injury

from evidence.examination.damage import How, Unit
from models.signature import SM2Signer

__all__ = ["INJURIES"]

# --- anchors ----------------------------------------------------------------------------------------------------


def _anchor(world: World, start: int, unit: Unit, how: How = How.ALTERED, more: str = "") -> Found:
    return unit, how, f"{world.chain} anchor {start}{more}"


@injury("anchors")
def bit_of_a_payload(world: World) -> list[Found]:
    world.flip("anchor", "payload", "start = ?", 0, at=100)
    return [_anchor(world, 0, Unit.PAYLOAD)]


@injury("anchors")
def bit_of_a_receipt(world: World) -> list[Found]:
    world.flip("anchor", "receipt", "start = ?", 3, at=900)
    return [_anchor(world, 3, Unit.RECEIPT)]


@injury("anchors")
def end_of_an_anchor(world: World) -> list[Found]:
    world.run("UPDATE anchor SET end = 50 WHERE start = 19")
    return [_anchor(world, 19, Unit.ANCHOR, more=" end")]


@injury("anchors")
def key_of_an_anchor(world: World) -> list[Found]:
    world.flip("anchor", "key", "start = ?", 59)
    return [_anchor(world, 59, Unit.ANCHOR, more=" key")]


@injury("anchors")
def anchor_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM anchor WHERE start = 302")
    return [_anchor(world, 302, Unit.ANCHOR, How.MISSING)]


@injury("anchors")
def start_of_an_anchor(world: World) -> list[Found]:
    world.run("UPDATE anchor SET start = 600 WHERE start = 542")
    return [_anchor(world, 542, Unit.ANCHOR, more=" start")]


@injury("anchors 2")
def begin_of_a_list(world: World) -> list[Found]:
    world.run("UPDATE chain SET first = 1")
    return [(Unit.CHAIN, How.ALTERED, world.chain)]


@injury("anchors 2")
def size_of_an_anchor(world: World) -> list[Found]:
    world.run("UPDATE anchor SET size = 100 WHERE start = 3")
    return [_anchor(world, 3, Unit.ANCHOR, more=" size")]


@injury("anchors 2")
def receipt_deleted(world: World) -> list[Found]:
    world.run("UPDATE anchor SET receipt = NULL WHERE start = 19")
    return [_anchor(world, 19, Unit.RECEIPT, How.MISSING)]


@injury("anchors 2")
def transaction_of_an_anchor(world: World) -> list[Found]:
    world.run("UPDATE anchor SET tx_id = ?, block_ms = 7 WHERE start = 59", "ab" * 32)
    return [_anchor(world, 59, Unit.ANCHOR, more=f" {name}") for name in ("tx_id", "block_ms")]


@injury("anchors 2")
def anchor_reopened(world: World) -> list[Found]:
    world.run("UPDATE anchor SET state = 'open' WHERE start = 302")
    return [_anchor(world, 302, Unit.ANCHOR, more=" state")]


@injury("anchors 2")
def last_anchor_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM anchor WHERE start = 542")
    return [_anchor(world, 542, Unit.ANCHOR, How.MISSING)]


@injury("anchors 2")
def anchor_of_a_chain_never_joined(world: World) -> list[Found]:
    columns = "end, size, key, payload, opened_ms, state, tx_id, receipt, block_ms, final_ms"
    world.run(f"INSERT INTO anchor (chain, start, {columns}) SELECT 'other-1', 5, {columns} FROM anchor WHERE start = 0")
    return [(Unit.ANCHOR, How.ADDED, "other-1 anchor 5")]


@injury("anchors 3")
def chain_of_an_anchor(world: World) -> list[Found]:
    world.run("UPDATE anchor SET chain = 'other-1' WHERE start = 19")
    return [_anchor(world, 19, Unit.ANCHOR, more=" chain")]


@injury("anchors 3")
def row_of_the_chain_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM chain")
    return [(Unit.CHAIN, How.MISSING, world.chain)]


# --- the ledger ---------------------------------------------------------------------------------------------------


@injury("beside")
def byte_of_one_nodes_copy(world: World) -> list[Found]:
    lines = world.blocks(2).read_bytes().split(b"\n")
    line = bytearray(lines[6])
    line[line.index(b"transactions") + 200] ^= 1
    lines[6] = bytes(line)
    world.blocks(2).write_bytes(b"\n".join(lines))
    return [(Unit.NODE, How.ALTERED, f"{world.chain} node 2 height 3")]


@injury("swapped")
def copy_of_a_node_cut_off(world: World) -> list[Found]:
    size = world.blocks(1).stat().st_size
    os.truncate(world.blocks(1), size * 2 // 3)
    height = world.blocks(1).read_bytes().count(b"cz-final/1")
    return [(Unit.NODE, How.ALTERED, f"{world.chain} node 1 height {height}")]


@injury("swapped")
def key_of_a_node(world: World) -> list[Found]:
    path = world.home / "chain" / "node-3" / "key.pem"
    path.write_bytes(SM2Signer.generate().to_pem())
    return [(Unit.NODE, How.ALTERED, f"{world.chain} node 3")]


# --- originals ------------------------------------------------------------------------------------------------------


@injury("tree")
def bit_of_a_segment(world: World) -> list[Found]:
    _, name = world.object_of("two segments")
    path = world.file_of(name)
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    return [(Unit.SEGMENT, How.ALTERED, f"object {name[:8]}… segment 0")]


@injury("tree")
def original_cut_off(world: World) -> list[Found]:
    _, name = world.object_of("small")
    os.truncate(world.file_of(name), world.file_of(name).stat().st_size - 3)
    return [(Unit.FILE, How.ALTERED, f"object {name[:8]}…")]


@injury("tree")
def file_of_a_part_deleted(world: World) -> list[Found]:
    number, _ = world.object_of("parts")
    part = world.one(
        "SELECT o.object_id FROM original o JOIN original_part p USING (number) WHERE p.manifest = ? AND p.place = 1", number
    ).hex()
    world.file_of(part).unlink()
    return [(Unit.FILE, How.MISSING, f"object {part[:8]}…")]


@injury("tree")
def file_copied(world: World) -> list[Found]:
    _, name = world.object_of("two segments")
    other = "ee" * 16
    world.file_of(other).parent.mkdir(exist_ok=True)
    shutil.copy(world.file_of(name), world.file_of(other))
    return [(Unit.FILE, How.ADDED, "originals eeeeeeee…")]


@injury("tree")
def stray_file(world: World) -> list[Found]:
    folder = world.home / "originals" / "ab"
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("stray")
    return [(Unit.FILE, How.ADDED, "originals ab")]


@injury("head")
def two_files_swapped(world: World) -> list[Found]:
    names = [world.object_of(what)[1] for what in ("small", "two segments")]
    first, second = (world.file_of(name) for name in names)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    return [(Unit.FILE, How.ALTERED, f"object {name[:8]}…") for name in names]


@injury("head")
def row_of_a_part_deleted(world: World) -> list[Found]:
    number, name = world.object_of("parts")
    part = world.one("SELECT number FROM original_part WHERE manifest = ? AND place = 2", number)
    lost = world.one("SELECT object_id FROM original WHERE number = ?", part).hex()
    world.run("DELETE FROM original_part WHERE manifest = ? AND place = 2", number)
    return [(Unit.ORIGINAL, How.MISSING, f"object {name[:8]}… parts"), (Unit.ORIGINAL, How.ALTERED, f"object {lost[:8]}…")]


@injury("anchors 2")
def digest_row_deleted(world: World) -> list[Found]:
    number, name = world.object_of("small")
    tag = world.one("SELECT min(tag) FROM original_find WHERE number = ?", number)
    world.run("DELETE FROM original_find WHERE tag = ?", tag)
    return [(Unit.ORIGINAL, How.MISSING, f"object {name[:8]}… digests")]


@injury("anchors 2")
def owner_deleted(world: World) -> list[Found]:
    number, name = world.object_of("two segments")
    world.run("DELETE FROM original_owner WHERE number = ?", number)
    return [(Unit.ORIGINAL, How.MISSING, f"object {name[:8]}… owner")]


@injury("anchors 2")
def key_of_an_upload(world: World) -> list[Found]:
    name = world.one("SELECT o.object_id FROM original o JOIN original_staged s USING (number)").hex()
    world.flip("original_staged", "wrapped", "1 = ?", 1)
    return [(Unit.ORIGINAL, How.ALTERED, f"object {name[:8]}… staged")]


@injury("anchors 2")
def object_row_deleted(world: World) -> list[Found]:
    number, name = world.object_of("parts")
    parts = [part for part in range(1, 10) if world.one("SELECT count(*) FROM original_part WHERE number = ?", part)]
    names = [world.one("SELECT object_id FROM original WHERE number = ?", part).hex() for part in parts]
    assert names
    world.run("DELETE FROM original WHERE number = ?", number)
    loose = ("original_find", "original_owner", "original_part")
    return [
        (Unit.FILE, How.ADDED, f"originals {name[:8]}…"),
        *((Unit.ORIGINAL, How.ADDED, f"{table} row of object number {number}") for table in loose),
    ]


# --- keys, home.json, settings, databases ---------------------------------------------------------------------------


@injury("log key")
def log_key_replaced(world: World) -> list[Found]:
    (world.home / "keys" / "log.pem").write_bytes(SM2Signer.generate().to_pem())
    return [(Unit.KEY, How.ALTERED, "keys/log.pem")]


@injury("log key")
def twin_key_open_to_others(world: World) -> list[Found]:
    (world.home / "keys" / "twin.pem").chmod(0o644)
    return [(Unit.KEY, How.ALTERED, "keys/twin.pem")]


@injury("search key")
def search_key_replaced(world: World) -> list[Found]:
    (world.home / "keys" / "find.key").write_bytes(os.urandom(32))
    return [(Unit.KEY, How.ALTERED, "keys/find.key")]


@injury("wrapping key")
def wrapping_key_replaced(world: World) -> list[Found]:
    (path,) = (world.home / "keys" / "kek").glob("*.key")
    path.write_bytes(os.urandom(16))
    name = world.one("SELECT o.object_id FROM original o JOIN original_staged s USING (number)").hex()
    return [(Unit.KEY, How.ALTERED, f"keys/kek/{path.name}"), (Unit.ORIGINAL, How.ALTERED, f"object {name[:8]}… staged")]


@injury("absent")
def twin_key_absent(world: World) -> list[Found]:
    (world.home / "keys" / "twin.pem").unlink()
    return [(Unit.KEY, How.MISSING, "keys/twin.pem")]


@injury("absent")
def secrets_absent(world: World) -> list[Found]:
    (world.home / "secrets.db").unlink()
    return [(Unit.DATABASE, How.MISSING, "secrets.db")]


@injury("absent")
def ledger_absent(world: World) -> list[Found]:
    shutil.rmtree(world.home / "chain")
    return [(Unit.NODE, How.UNREADABLE, "embedded ledger"), (Unit.KEY, How.MISSING, "node-0/key.pem")]


@injury("anchors")
def subject_of_the_home(world: World) -> list[Found]:
    world.rewrite(subject={"id": "local", "name": "另一主体"})
    return [(Unit.HOME, How.ALTERED, "home.json subject")]


@injury("anchors")
def birth_of_the_home(world: World) -> list[Found]:
    world.rewrite(created_at="2025-01-01T00:00:00.000Z")
    return [(Unit.HOME, How.ALTERED, f"home.json key {name}") for name in ("log", "node", "twin")]


@injury("anchors")
def environment_of_the_home(world: World) -> list[Found]:
    world.rewrite(environment="production")
    return [(Unit.HOME, How.ALTERED, "home.json environment")]


@injury("anchors 3")
def origin_of_the_home(world: World) -> list[Found]:
    world.rewrite(origin="sandbox.localhost/log/9")
    return [(Unit.HOME, How.ALTERED, "home.json origin")]


@injury("search key")
def home_file_deleted(world: World) -> list[Found]:
    (world.home / "home.json").unlink()
    return [(Unit.HOME, How.MISSING, "home.json")]


@injury("log key")
def another_origin_set(world: World) -> list[Found]:
    (world.home / "evidence.toml").write_text('origin = "sandbox.localhost/log/7"\n')
    return [(Unit.SETTING, How.ALTERED, "EVIDENCE_ORIGIN")]


# --- proofs of blocks -------------------------------------------------------------------------------------------


@injury("anchors 3")
def bit_of_a_block_proof(world: World) -> list[Found]:
    height = world.one("SELECT max(height) FROM block")
    world.flip("block", "proof", "height = ?", height, at=600)
    return [(Unit.BLOCK, How.ALTERED, f"block {height} of chain {world.chain}")]


@injury("anchors 3")
def block_proof_of_another_block(world: World) -> list[Found]:
    height, other = world.one("SELECT min(height) FROM block"), world.one("SELECT max(height) FROM block") - 1
    world.run("UPDATE block SET proof = (SELECT proof FROM block WHERE height = ?) WHERE height = ?", other, height)
    return [(Unit.BLOCK, How.ALTERED, f"block {height} of chain {world.chain}")]
