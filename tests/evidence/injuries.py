"""Injuries to a home's log, each with the units that an examination must name, and nothing else.

Injuries of one group touch nothing in common, so that a group costs one examination.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from examined import World

from evidence.batch import idempotency_key
from evidence.examination.damage import How, Unit
from models.digest import sha256, sm3

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
    return [
        (Unit.ANCHOR, How.MISSING, f"{world.chain} anchor 542"),
        (Unit.HEAD, How.ALTERED, "head file size"),
        (Unit.HEAD, How.ALTERED, "head_lock new size"),
        (Unit.AUDIT, How.ADDED, "audit 623 to 702"),
    ]
