"""Injuries to a home, each with the units that an examination must name, and nothing else.

Injuries of one group touch nothing in common, so that a group costs one examination.
"""

from __future__ import annotations

import os
import shutil
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from examined import World

from evidence.batch import idempotency_key
from evidence.examination.damage import How, Unit
from models.digest import sha256, sm3
from models.signature import SM2Signer

Found = tuple[Unit, How, str]
Act = Callable[[World], list[Found]]
INJURIES: dict[str, tuple[str, Act]] = {}


@dataclass(frozen=True)
class injury:  # noqa: N801 - read as a decorator
    group: str

    def __call__(self, act: Act) -> Act:
        INJURIES[act.__name__] = (self.group, act)
        return act


def groups() -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, (group, _) in INJURIES.items():
        found.setdefault(group, []).append(name)
    return found


def _leaf(leaf: int, unit: Unit, how: How = How.ALTERED) -> Found:
    return unit, how, f"leaf {leaf}"


# --- rows of items: one examination -----------------------------------------------------------------------------


@injury("rows")
def bit_of_e_in_a_full_tile(world: World) -> list[Found]:
    world.flip("evidence", "data", "leaf_index = ?", 300)
    return [_leaf(300, Unit.EVIDENCE)]


@injury("rows")
def bit_of_e_in_the_open_tile(world: World) -> list[Found]:
    world.flip("evidence", "data", "leaf_index = ?", 600, at=200)
    return [_leaf(600, Unit.EVIDENCE)]


@injury("rows")
def e_that_still_parses(world: World) -> list[Found]:
    data = world.one("SELECT data FROM evidence WHERE leaf_index = 610")
    altered = data.replace(b'"created_at":"2026', b'"created_at":"2027').replace(b'"on_chain_by":"2026', b'"on_chain_by":"2027')
    assert altered != data
    world.run("UPDATE evidence SET data = ? WHERE leaf_index = 610", altered)
    return [_leaf(610, Unit.EVIDENCE)]


@injury("rows")
def bit_of_an_entry(world: World) -> list[Found]:
    world.flip("evidence", "entry", "leaf_index = ?", 301)
    return [_leaf(301, Unit.ENTRY)]


@injury("rows")
def bit_of_an_entry_in_the_open_tile(world: World) -> list[Found]:
    world.flip("evidence", "entry", "leaf_index = ?", 620)
    return [_leaf(620, Unit.ENTRY)]


@injury("rows")
def e_and_entry_rewritten_together(world: World) -> list[Found]:
    data = world.one("SELECT data FROM evidence WHERE leaf_index = 302").replace(b"2026-01", b"2026-02")
    entry = sm3(data) + sha256(data)
    world.run("UPDATE evidence SET data = ?, entry = ? WHERE leaf_index = 302", data, entry)
    return [_leaf(302, Unit.EVIDENCE), _leaf(302, Unit.ENTRY)]


@injury("rows")
def two_e_swapped(world: World) -> list[Found]:
    world.swap("evidence", "data", "leaf_index = ?", 330, 331)
    return [_leaf(330, Unit.EVIDENCE), _leaf(331, Unit.EVIDENCE)]


@injury("rows")
def text_where_bytes_belong(world: World) -> list[Found]:
    world.run("UPDATE evidence SET data = 'no evidence' WHERE leaf_index = 333")
    return [_leaf(333, Unit.EVIDENCE)]


@injury("rows")
def e_deleted(world: World) -> list[Found]:
    world.run("UPDATE evidence SET data = NULL WHERE leaf_index = 335")
    return [_leaf(335, Unit.EVIDENCE, How.MISSING)]


@injury("rows")
def row_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM evidence WHERE leaf_index = 320")
    return [_leaf(320, Unit.ROW, How.MISSING)]


@injury("rows")
def row_added(world: World) -> list[Found]:
    columns = "evidence_id, entry, data, template, subject, submitter, commitment, created_ms, occurred_ms"
    world.run(f"INSERT INTO evidence (leaf_index, {columns}) SELECT 5000, {columns} FROM evidence WHERE leaf_index = 400")
    return [_leaf(5000, Unit.ROW, How.ADDED)]


def _column(name: str, leaf: int, value: str) -> None:
    def act(world: World) -> list[Found]:
        world.run(f"UPDATE evidence SET {name} = {value} WHERE leaf_index = ?", leaf)
        return [(Unit.COLUMN, How.ALTERED, f"leaf {leaf} {name}")]

    act.__name__ = f"column_{name}"
    injury("rows")(act)


for _place, (_name, _value) in enumerate(
    {
        "evidence_id": "randomblob(32)",
        "template": "'conflict@1'",
        "subject": "'another'",
        "submitter": "'another'",
        "commitment": "'hash'",
        "created_ms": "created_ms + 1",
        "occurred_ms": "1",
    }.items()
):
    _column(_name, 340 + _place, _value)


# --- content, secrets, and the tables beside items ----------------------------------------------------------------

_OF_LEAF = "item = ?"
_NOTES = ("note", "twin", "signed_at_s")


def _item(world: World, leaf: int) -> bytes:
    found: bytes = world.one("SELECT evidence_id FROM evidence WHERE leaf_index = ?", leaf)
    return found


@injury("beside")
def bit_of_content(world: World) -> list[Found]:
    world.flip("content", "data", "leaf_index = ?", 340)
    return [_leaf(340, Unit.CONTENT)]


@injury("beside")
def two_contents_swapped(world: World) -> list[Found]:
    world.swap("content", "data", "leaf_index = ?", 341, 342)
    return [_leaf(341, Unit.CONTENT), _leaf(342, Unit.CONTENT)]


@injury("beside")
def content_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM content WHERE leaf_index = 343")
    return [_leaf(343, Unit.CONTENT, How.MISSING)]


@injury("beside")
def content_given_to_a_sealed_item(world: World) -> list[Found]:
    leaf = world.leaves["sealed"][0]
    world.run("INSERT INTO content SELECT ?, data FROM content WHERE leaf_index = 344", leaf)
    return [_leaf(leaf, Unit.CONTENT, How.ADDED)]


@injury("beside")
def bit_of_a_secret(world: World) -> list[Found]:
    world.flip("secret", "wrapped", _OF_LEAF, _item(world, 345), name="secrets.db")
    return [_leaf(345, Unit.SECRET)]


@injury("beside")
def two_secrets_swapped(world: World) -> list[Found]:
    world.swap("secret", "wrapped", _OF_LEAF, _item(world, 346), _item(world, 347), name="secrets.db")
    return [_leaf(346, Unit.SECRET), _leaf(347, Unit.SECRET)]


@injury("beside")
def secret_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM secret WHERE item = ?", _item(world, 348), name="secrets.db")
    return [_leaf(348, Unit.SECRET, How.MISSING)]


@injury("beside")
def secret_destroyed_without_a_record(world: World) -> list[Found]:
    world.run("UPDATE secret SET wrapped = NULL WHERE item = ?", _item(world, 349), name="secrets.db")
    return [_leaf(349, Unit.SECRET, How.MISSING)]


def _tag(world: World, leaf: int) -> bytes:
    found: bytes = world.one("SELECT tag FROM blind WHERE leaf_index = ? ORDER BY tag", leaf)
    return found


@injury("beside")
def index_row_altered(world: World) -> list[Found]:
    tag = _tag(world, 350)
    world.run("UPDATE blind SET tag = ? WHERE tag = ? AND leaf_index = 350", b"\x01" * 16, tag)
    added = (Unit.BLIND, How.ADDED, "blind 01010101… 350")
    return [(Unit.BLIND, How.MISSING, f"blind {tag[:4].hex()}… 350"), added]


@injury("beside")
def index_row_deleted(world: World) -> list[Found]:
    tag = _tag(world, 351)
    world.run("DELETE FROM blind WHERE tag = ? AND leaf_index = 351", tag)
    return [(Unit.BLIND, How.MISSING, f"blind {tag[:4].hex()}… 351")]


@injury("beside")
def index_row_added(world: World) -> list[Found]:
    world.run("INSERT INTO blind VALUES (?, 352)", b"\x02" * 16)
    return [(Unit.BLIND, How.ADDED, "blind 02020202… 352")]


@injury("beside")
def index_row_of_no_leaf(world: World) -> list[Found]:
    world.run("INSERT INTO blind VALUES (?, 9999)", b"\x03" * 16)
    return [(Unit.BLIND, How.ADDED, "blind 03030303… 9999")]


def _key(world: World, leaf: int) -> bytes:
    found: bytes = world.one("SELECT key FROM idempotency WHERE leaf_index = ?", leaf)
    return found


@injury("beside")
def idempotency_row_deleted(world: World) -> list[Found]:
    key = _key(world, 353)
    world.run("DELETE FROM idempotency WHERE key = ?", key)
    return [(Unit.IDEMPOTENCY, How.MISSING, f"idempotency {key[:4].hex()}…")]


@injury("beside")
def idempotency_row_redirected(world: World) -> list[Found]:
    key = _key(world, 354)
    world.run("UPDATE idempotency SET leaf_index = 355 WHERE key = ?", key)
    return [(Unit.IDEMPOTENCY, How.ALTERED, f"idempotency {key[:4].hex()}…")]


@injury("beside")
def idempotency_row_added(world: World) -> list[Found]:
    key = idempotency_key("acct-1", "a key that nobody gave")
    world.run("INSERT INTO idempotency VALUES (?, 356)", key)
    return [(Unit.IDEMPOTENCY, How.ADDED, f"idempotency {key[:4].hex()}…")]


def _part(world: World, leaf: int) -> str:
    link, part = (world.one(f"SELECT {name} FROM link_part WHERE leaf_index = ?", leaf) for name in ("link", "part"))
    return f"link_part {link[:4].hex()}… {part}"


@injury("beside")
def link_part_altered(world: World) -> list[Found]:
    leaf = world.leaves["links"][5]
    world.flip("link_part", "sm3", "leaf_index = ?", leaf)
    return [(Unit.LINK, How.ALTERED, _part(world, leaf))]


@injury("beside")
def link_closed_by_hand(world: World) -> list[Found]:
    leaf = world.leaves["links"][14]
    world.run("UPDATE link_part SET closes = 1 WHERE leaf_index = ?", leaf)
    return [(Unit.LINK, How.ALTERED, _part(world, leaf))]


@injury("beside")
def link_part_deleted(world: World) -> list[Found]:
    leaf = world.leaves["links"][15]
    where = _part(world, leaf)
    world.run("DELETE FROM link_part WHERE leaf_index = ?", leaf)
    return [(Unit.LINK, How.MISSING, where)]


@injury("beside")
def conflict_row_redirected(world: World) -> list[Found]:
    key, digest = (world.one(f"SELECT {name} FROM conflict") for name in ("key", "digest"))
    world.run("UPDATE conflict SET leaf_index = 100")
    return [(Unit.CONFLICT, How.ALTERED, f"conflict {key[:4].hex()}… {digest[:4].hex()}…")]


# --- trees and checkpoints ------------------------------------------------------------------------------------------


@injury("tree")
def bit_of_a_tile(world: World) -> list[Found]:
    world.flip("tile", "data", "tree = 0 AND level = 0 AND number = ?", 0, at=32 * 17)
    return [(Unit.TILE, How.ALTERED, "sm3 tile 0/0")]


@injury("tree")
def tile_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM tile WHERE tree = 1 AND level = 0 AND number = 1")
    return [(Unit.TILE, How.MISSING, "sha256 tile 0/1")]


@injury("tree")
def tile_cut_short(world: World) -> list[Found]:
    world.run("UPDATE tile SET data = substr(data, 1, 8160) WHERE tree = 0 AND level = 0 AND number = 1")
    return [(Unit.TILE, How.ALTERED, "sm3 tile 0/1")]


@injury("tree")
def tile_added(world: World) -> list[Found]:
    world.run("INSERT INTO tile SELECT tree, 1, 0, data FROM tile WHERE tree = 0 AND number = 0")
    return [(Unit.TILE, How.ADDED, "sm3 tile 1/0")]


@injury("tree")
def note_with_another_signature(world: World) -> list[Found]:
    note = world.one("SELECT note FROM checkpoint WHERE size = 142")
    at = len(note) - 20
    world.run("UPDATE checkpoint SET note = ? WHERE size = 142", note[:at] + ("A" if note[at] != "A" else "B") + note[at + 1 :])
    return [(Unit.CHECKPOINT, How.ALTERED, "size 142 note")]


@injury("tree")
def twin_with_another_root(world: World) -> list[Found]:
    other = world.one("SELECT twin FROM checkpoint WHERE size = 222").split("\n")
    twin = world.one("SELECT twin FROM checkpoint WHERE size = 462").split("\n")
    twin[2] = other[2]
    world.run("UPDATE checkpoint SET twin = ? WHERE size = 462", "\n".join(twin))
    return [(Unit.CHECKPOINT, How.ALTERED, "size 462 twin")]


@injury("tree")
def time_of_a_checkpoint(world: World) -> list[Found]:
    world.run("UPDATE checkpoint SET signed_at_s = signed_at_s - 60 WHERE size = 302")
    return [(Unit.CHECKPOINT, How.ALTERED, "size 302 signed_at_s")]


@injury("tree")
def checkpoint_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM checkpoint WHERE size = 222")
    return [(Unit.CHECKPOINT, How.MISSING, "size 222")]


@injury("tree")
def checkpoint_of_an_anchor_deleted(world: World) -> list[Found]:
    world.run("DELETE FROM checkpoint WHERE size = 542")
    return [(Unit.CHECKPOINT, How.MISSING, "size 542")]


@injury("swapped")
def two_tiles_swapped(world: World) -> list[Found]:
    where = "tree = 0 AND level = 0 AND number = ?"
    world.swap("tile", "data", where, 0, 1)
    return [(Unit.TILE, How.ALTERED, "sm3 tile 0/0"), (Unit.TILE, How.ALTERED, "sm3 tile 0/1")]


@injury("swapped")
def two_checkpoints_swapped(world: World) -> list[Found]:
    world.swap("checkpoint", "note", "size = ?", 222, 462)
    return [(Unit.CHECKPOINT, How.ALTERED, "size 222 note"), (Unit.CHECKPOINT, How.ALTERED, "size 462 note")]


@injury("swapped")
def item_rewritten_in_the_open_tile(world: World) -> list[Found]:
    """E and entry agree, and no tile holds the leaf: the signed root says that one of its commit is wrong."""
    data = world.one("SELECT data FROM evidence WHERE leaf_index = 650").replace(b"2026-01", b"2026-02")
    world.run("UPDATE evidence SET data = ?, entry = ? WHERE leaf_index = 650", data, sm3(data) + sha256(data))
    return [(Unit.ROOT, How.ALTERED, "leaves 622 to 701"), (Unit.COLUMN, How.ALTERED, "leaf 650 created_ms")]


@injury("head")
def head_root(world: World) -> list[Found]:
    world.flip("head", "sm3_root", "id = ?", 1)
    return [(Unit.HEAD, How.ALTERED, "head sm3_root")]


@injury("head")
def head_twin_root(world: World) -> list[Found]:
    world.flip("head", "sha256_root", "id = ?", 1)
    return [(Unit.HEAD, How.ALTERED, "head sha256_root")]


@injury("head")
def head_times(world: World) -> list[Found]:
    world.run("UPDATE head SET newest_ms = 1, signed_at_s = 1")
    return [(Unit.HEAD, How.ALTERED, "head newest_ms"), (Unit.HEAD, How.ALTERED, "head signed_at_s")]


@injury("head")
def head_origin(world: World) -> list[Found]:
    world.run("UPDATE head SET origin = 'sandbox.localhost/log/2'")
    return [(Unit.HEAD, How.ALTERED, "head origin")]


@injury("head")
def head_set_back(world: World) -> list[Found]:
    world.run("UPDATE head SET size = 622")
    return [(Unit.HEAD, How.ALTERED, "head size")]


@injury("set back")
def whole_log_set_back(world: World) -> list[Found]:
    """The last commit undone in every table of the log; the chain, and the tables beside, still know it."""
    for table in ("evidence", "content", "idempotency", "blind"):
        world.run(f"DELETE FROM {table} WHERE leaf_index >= 622")
    world.run("DELETE FROM checkpoint WHERE size > 622")
    note, twin, signed = (world.one(f"SELECT {name} FROM checkpoint WHERE size = 622") for name in _NOTES)
    created = world.one("SELECT created_ms FROM evidence WHERE leaf_index = 621")
    roots = [b64decode(text.split("\n")[2]) for text in (note, twin)]
    values = *roots, created, signed
    world.run("UPDATE head SET size = 622, sm3_root = ?, sha256_root = ?, newest_ms = ?, signed_at_s = ?", *values)
    world.run("DELETE FROM anchor WHERE start >= 542")
    return [(Unit.ANCHOR, How.MISSING, f"{world.chain} anchor 542")]


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
