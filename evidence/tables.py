"""The tables of the main database. Nothing in it opens content (formats §8.1).

Rows are a private matter of the modules that own them: `store.py` the log's, `access.py` the
tokens and keys, `archive.py` the originals. Primary keys ascend with time, because a random key
costs ten times as much at 10⁷ rows; the two indexes over random values hold 16 and 32 bytes.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table

METADATA = MetaData()
COUNTER = BigInteger().with_variant(Integer, "sqlite")

# One row: where the log stands, who may write it (epoch), and its newest signed notes.
head = Table(
    "head",
    METADATA,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("origin", String(128), nullable=False),
    Column("size", COUNTER, nullable=False),
    Column("epoch", COUNTER, nullable=False),
    Column("sm3_root", LargeBinary(32), nullable=False),
    Column("sha256_root", LargeBinary(32), nullable=False),
    Column("signed_at_s", COUNTER, nullable=False),
    Column("newest_ms", COUNTER, nullable=False),
)

# One row an item: the bytes E (null once erased with scope `all`) and the 64 bytes the log holds.
evidence = Table(
    "evidence",
    METADATA,
    Column("leaf_index", COUNTER, primary_key=True, autoincrement=False),
    Column("evidence_id", LargeBinary(32), nullable=False),
    Column("entry", LargeBinary(64), nullable=False),
    Column("data", LargeBinary, nullable=True),
    Column("template", String(128), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("submitter", String(128), nullable=False),
    Column("commitment", String(9), nullable=False),
    Column("created_ms", COUNTER, nullable=False),
    Column("occurred_ms", COUNTER, nullable=True),
    Index("evidence_by_id", "evidence_id"),
    Index("evidence_by_template", "template", "leaf_index"),
)

# Content of an item, encrypted under a key that only the item's secret gives.
content = Table(
    "content",
    METADATA,
    Column("leaf_index", COUNTER, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

# (submitter, client_key) → item, for ever. The key is 16 bytes of a digest.
idempotency = Table(
    "idempotency",
    METADATA,
    Column("key", LargeBinary(16), primary_key=True),
    Column("leaf_index", COUNTER, nullable=False),
    sqlite_with_rowid=False,
)

# Which refused statement under one client key has which record (at most 8 a key).
conflict = Table(
    "conflict",
    METADATA,
    Column("key", LargeBinary(16), primary_key=True),
    Column("digest", LargeBinary(16), primary_key=True),
    Column("leaf_index", COUNTER, nullable=False),
    sqlite_with_rowid=False,
)

# Full tiles of both trees: 256 hashes each (tlog-tiles).
tile = Table(
    "tile",
    METADATA,
    Column("tree", SmallInteger, primary_key=True, autoincrement=False),
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", COUNTER, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

# Every checkpoint ever signed, as its two notes.
checkpoint = Table(
    "checkpoint",
    METADATA,
    Column("size", COUNTER, primary_key=True, autoincrement=False),
    Column("note", String, nullable=False),
    Column("twin", String, nullable=False),
    Column("signed_at_s", COUNTER, nullable=False),
)

# Parts of a link (链式数据) in the order the sequencer gave them.
link_part = Table(
    "link_part",
    METADATA,
    Column("link", LargeBinary(16), primary_key=True),
    Column("part", COUNTER, primary_key=True, autoincrement=False),
    Column("leaf_index", COUNTER, nullable=False),
    Column("sm3", LargeBinary(32), nullable=False),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("closes", Boolean, nullable=False),
    sqlite_with_rowid=False,
)

# Blind search index: 16 bytes that only the holder of K_find can compute (formats §1).
blind = Table(
    "blind",
    METADATA,
    Column("tag", LargeBinary(16), primary_key=True),
    Column("leaf_index", COUNTER, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# One row a chain that the log was ever anchored on: where its list of anchors begins (formats §4.2).
chain = Table(
    "chain",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("first", COUNTER, nullable=False),
    Column("joined_ms", COUNTER, nullable=False),
)

# What proves a block that items name as older than themselves (E.after): stored with the first of them.
block = Table(
    "block",
    METADATA,
    Column("chain", String(64), primary_key=True),
    Column("height", COUNTER, primary_key=True, autoincrement=False),
    Column("hash", String(128), primary_key=True),
    Column("proof", LargeBinary, nullable=False),
)

# One row an anchor: the intent before any call, then the transaction, then the receipt.
anchor = Table(
    "anchor",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("chain", String(64), nullable=False),
    Column("start", COUNTER, nullable=False),
    Column("end", COUNTER, nullable=False),
    Column("size", COUNTER, nullable=False),
    Column("key", LargeBinary(32), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("opened_ms", COUNTER, nullable=False),
    Column("state", String(9), nullable=False),
    Column("tx_id", String(128), nullable=True),
    Column("receipt", LargeBinary, nullable=True),
    Column("block_ms", COUNTER, nullable=True),
    Column("final_ms", COUNTER, nullable=True),
    Column("reason", String(512), nullable=True),
    Index("anchor_by_chain", "chain", "start", unique=True),
)

# Who did what to which item: names, ids and digests only (formats §8.4).
audit = Table(
    "audit",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("at_ms", COUNTER, nullable=False),
    Column("account", String(128), nullable=False),
    Column("act", String(32), nullable=False),
    Column("object", String(160), nullable=False),
    Column("request_id", String(64), nullable=False),
)

# 出证 as an act: what was asked, how far it is, and the item that records it.
issuance = Table(
    "issuance",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("name", String(35), nullable=False, unique=True),
    Column("account", String(128), nullable=False),
    Column("created_ms", COUNTER, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("state", String(9), nullable=False),
    Column("done", COUNTER, nullable=False),
    Column("total", COUNTER, nullable=False),
    Column("result", LargeBinary, nullable=False),
    Column("leaf_index", COUNTER, nullable=True),
)
