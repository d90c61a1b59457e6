"""The first schema: written out, so that what a home was made with stays what it was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "account",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("account", sa.String(length=128), nullable=False),
        sa.Column("roles", sa.String(length=128), nullable=False),
        sa.Column("subject_id", sa.String(length=128), nullable=False),
        sa.Column("subject_name", sa.String(length=256), nullable=False),
        sa.Column("created_ms", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("account"),
    )
    op.create_table(
        "anchor",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("chain", sa.String(length=64), nullable=False),
        sa.Column("start", COUNTER, nullable=False),
        sa.Column("end", COUNTER, nullable=False),
        sa.Column("size", COUNTER, nullable=False),
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("opened_ms", COUNTER, nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("tx_id", sa.String(length=128), nullable=True),
        sa.Column("receipt", sa.LargeBinary(), nullable=True),
        sa.Column("block_ms", COUNTER, nullable=True),
        sa.Column("final_ms", COUNTER, nullable=True),
        sa.Column("reason", sa.String(length=512), nullable=True),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("anchor_by_chain", "anchor", ["chain", "start"], unique=True)
    op.create_table(
        "audit",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("at_ms", COUNTER, nullable=False),
        sa.Column("account", sa.String(length=128), nullable=False),
        sa.Column("act", sa.String(length=32), nullable=False),
        sa.Column("object", sa.String(length=160), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "blind",
        sa.Column("tag", sa.LargeBinary(length=16), nullable=False),
        sa.Column("leaf_index", COUNTER, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("tag", "leaf_index"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "certificate",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("account", sa.String(length=128), nullable=True),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("registered_ms", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("ix_certificate_account", "certificate", ["account"], unique=False)
    op.create_table(
        "chain",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("first", COUNTER, nullable=False),
        sa.Column("joined_ms", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", COUNTER, autoincrement=False, nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("twin", sa.String(), nullable=False),
        sa.Column("signed_at_s", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("size"),
    )
    op.create_table(
        "conflict",
        sa.Column("key", sa.LargeBinary(length=16), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("leaf_index", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("key", "digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "content",
        sa.Column("leaf_index", COUNTER, autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("leaf_index"),
    )
    op.create_table(
        "evidence",
        sa.Column("leaf_index", COUNTER, autoincrement=False, nullable=False),
        sa.Column("evidence_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("entry", sa.LargeBinary(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("template", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("submitter", sa.String(length=128), nullable=False),
        sa.Column("commitment", sa.String(length=9), nullable=False),
        sa.Column("created_ms", COUNTER, nullable=False),
        sa.Column("occurred_ms", COUNTER, nullable=True),
        sa.PrimaryKeyConstraint("leaf_index"),
    )
    op.create_index("evidence_by_id", "evidence", ["evidence_id"], unique=False)
    op.create_index("evidence_by_template", "evidence", ["template", "leaf_index"], unique=False)
    op.create_table(
        "head",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(length=128), nullable=False),
        sa.Column("size", COUNTER, nullable=False),
        sa.Column("epoch", COUNTER, nullable=False),
        sa.Column("sm3_root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("sha256_root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("signed_at_s", COUNTER, nullable=False),
        sa.Column("newest_ms", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "idempotency",
        sa.Column("key", sa.LargeBinary(length=16), nullable=False),
        sa.Column("leaf_index", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "issuance",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=35), nullable=False),
        sa.Column("account", sa.String(length=128), nullable=False),
        sa.Column("created_ms", COUNTER, nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("done", COUNTER, nullable=False),
        sa.Column("total", COUNTER, nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_index", COUNTER, nullable=True),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "link_part",
        sa.Column("link", sa.LargeBinary(length=16), nullable=False),
        sa.Column("part", COUNTER, autoincrement=False, nullable=False),
        sa.Column("leaf_index", COUNTER, nullable=False),
        sa.Column("sm3", sa.LargeBinary(length=32), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("closes", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("link", "part"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "original",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("object_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("size", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("object_id"),
    )
    op.create_table(
        "revocation_list",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("issuer", sa.LargeBinary(), nullable=False),
        sa.Column("this_ms", COUNTER, nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "stream",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("stream_id", sa.String(length=64), nullable=False),
        sa.Column("submitter", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("created_ms", COUNTER, nullable=False),
        sa.Column("is_pushed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("submitter", "stream_id", name="stream_by_name"),
    )
    op.create_index("stream_by_stream_id", "stream", ["stream_id"], unique=False)
    op.create_table(
        "submitter_key",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("account", sa.String(length=128), nullable=False),
        sa.Column("key_id", sa.LargeBinary(length=4), nullable=False),
        sa.Column("public_key", sa.LargeBinary(length=65), nullable=False),
        sa.Column("vkey", sa.String(length=512), nullable=False),
        sa.Column("registered_ms", COUNTER, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("public_key"),
    )
    op.create_index("ix_submitter_key_account", "submitter_key", ["account"], unique=False)
    op.create_table(
        "tile",
        sa.Column("tree", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", COUNTER, autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tree", "level", "number"),
    )
    op.create_table(
        "token",
        sa.Column("number", COUNTER, autoincrement=True, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("account", sa.String(length=128), nullable=False),
        sa.Column("created_ms", COUNTER, nullable=False),
        sa.Column("expires_ms", COUNTER, nullable=True),
        sa.Column("revoked_ms", COUNTER, nullable=True),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("ix_token_account", "token", ["account"], unique=False)
    op.create_table(
        "original_find",
        sa.Column("tag", sa.LargeBinary(length=16), nullable=False),
        sa.Column("number", COUNTER, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["number"],
            ["original.number"],
        ),
        sa.PrimaryKeyConstraint("tag", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "original_owner",
        sa.Column("number", COUNTER, autoincrement=False, nullable=False),
        sa.Column("item", sa.LargeBinary(length=32), nullable=False),
        sa.Column("account", sa.String(length=128), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"],
            ["original.number"],
        ),
        sa.PrimaryKeyConstraint("number", "item"),
        sqlite_with_rowid=False,
    )
    op.create_index("original_owner_by_item", "original_owner", ["item"], unique=False)
    op.create_table(
        "original_part",
        sa.Column("manifest", COUNTER, autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", COUNTER, nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest"],
            ["original.number"],
        ),
        sa.ForeignKeyConstraint(
            ["number"],
            ["original.number"],
        ),
        sa.PrimaryKeyConstraint("manifest", "place"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "original_staged",
        sa.Column("number", COUNTER, autoincrement=False, nullable=False),
        sa.Column("account", sa.String(length=128), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("staged_ms", COUNTER, nullable=False),
        sa.ForeignKeyConstraint(
            ["number"],
            ["original.number"],
        ),
        sa.PrimaryKeyConstraint("number", "account"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "stream_declaration",
        sa.Column("stream", COUNTER, autoincrement=False, nullable=False),
        sa.Column("number", COUNTER, autoincrement=False, nullable=False),
        sa.Column("leaf_index", COUNTER, nullable=False),
        sa.Column("sm3", sa.LargeBinary(length=32), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("keywords", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream"],
            ["stream.id"],
        ),
        sa.PrimaryKeyConstraint("stream", "number"),
    )
    op.create_table(
        "stream_recount",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("stream", COUNTER, nullable=False),
        sa.Column("first", COUNTER, nullable=False),
        sa.Column("last", COUNTER, nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream"],
            ["stream.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("stream", "first", "last", name="stream_recount_once"),
    )
    op.create_table(
        "stream_slice",
        sa.Column("stream", COUNTER, autoincrement=False, nullable=False),
        sa.Column("number", COUNTER, autoincrement=False, nullable=False),
        sa.Column("leaf_index", COUNTER, nullable=False),
        sa.Column("declaration", COUNTER, nullable=False),
        sa.Column("epoch", COUNTER, nullable=False),
        sa.Column("created_ms", COUNTER, nullable=False),
        sa.Column("lines", COUNTER, nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.Column("object_id", sa.LargeBinary(length=16), nullable=True),
        sa.Column("counts", sa.LargeBinary(), nullable=True),
        sa.Column("hashes", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["stream"],
            ["stream.id"],
        ),
        sa.PrimaryKeyConstraint("stream", "number"),
    )
    op.create_index("stream_slice_by_epoch", "stream_slice", ["stream", "epoch", "number"], unique=False)
    op.create_index("stream_slice_by_object", "stream_slice", ["object_id"], unique=False)
    op.create_index("stream_slice_by_time", "stream_slice", ["stream", "created_ms"], unique=False)


def downgrade() -> None:
    """Evidence is append-only: there is no way back that keeps it."""
    raise RuntimeError("the first schema cannot be taken back")
