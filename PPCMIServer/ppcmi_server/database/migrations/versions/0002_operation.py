"""Operation: operators' tokens and logins, quotas, chunks, leases, reports, a chained audit log"""

import json
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NEW_COLUMNS = {
    "sites": (
        sa.Column("quota_bytes", sa.BigInteger(), nullable=True),
        sa.Column("weight", sa.Double(), nullable=False, server_default="1"),
        sa.Column("certificate", sa.String(length=64), nullable=True),
    ),
    "cohorts": (
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("touched", sa.String(length=20), nullable=True),
        sa.Column("excluded", sa.String(length=20), nullable=True),
    ),
    "frames": (sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"),),
    "jobs": (
        sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("heartbeat", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("report", sa.JSON(), nullable=True),
    ),
    "job_epochs": (sa.Column("by_site", sa.JSON(), nullable=True),),
    "audit_events": (sa.Column("digest", sa.LargeBinary(), nullable=True),),
}
NEW_SCOPES = {
    "tasks": "segment",
    "map": "segment",
    "consortium": "contribute",
    "cohorts": "contribute",
    "models": "validate",
}
OLD_SCOPES = {"segment": ["tasks", "map"], "contribute": ["consortium", "cohorts"], "validate": ["models"]}


def upgrade() -> None:
    for table, columns in NEW_COLUMNS.items():
        for column in columns:
            op.add_column(
                table,
                sa.Column(column.name, column.type, nullable=column.nullable, server_default=column.server_default),
            )
    op.create_index("audit_events_digest", "audit_events", ["digest"])
    with op.batch_alter_table("tokens") as batch_op:
        batch_op.alter_column("site_id", existing_type=sa.String(length=16), nullable=True)
        batch_op.add_column(sa.Column("label", sa.String(length=60), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("expires", sa.String(length=20), nullable=True))
        batch_op.add_column(sa.Column("last_used", sa.String(length=20), nullable=True))
        batch_op.add_column(sa.Column("replaces", sa.Integer(), nullable=True))
    _rewrite_scopes(lambda scopes: sorted({NEW_SCOPES.get(scope, scope) for scope in scopes}))
    op.create_table(
        "logins",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("token_id", sa.Integer(), nullable=False),
        sa.Column("cookie_hash", sa.LargeBinary(), nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("began", sa.Double(), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("cookie_hash"),
    )
    op.create_table(
        "chunks",
        sa.Column("cohort_id", sa.String(length=32), nullable=False),
        sa.Column("index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("frame_bytes", sa.BigInteger(), nullable=False),
        sa.Column("frame_digest", sa.LargeBinary(), nullable=False),
        sa.Column("blob", sa.String(length=120), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohorts.id"]),
        sa.PrimaryKeyConstraint("cohort_id", "index", "offset"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_events_only_grow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_events_only_grow BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_events_only_grow()"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER audit_events_only_grow ON audit_events")
        op.execute("DROP FUNCTION audit_events_only_grow()")
    op.drop_table("chunks")
    op.drop_table("logins")
    op.drop_index("audit_events_digest", "audit_events")
    op.execute("DELETE FROM tokens WHERE site_id IS NULL")
    _rewrite_scopes(lambda scopes: [old for scope in scopes for old in OLD_SCOPES.get(scope, [])])
    with op.batch_alter_table("tokens") as batch_op:
        batch_op.alter_column("site_id", existing_type=sa.String(length=16), nullable=False)
        for name in ("replaces", "last_used", "expires", "label"):
            batch_op.drop_column(name)
    for table, columns in reversed(NEW_COLUMNS.items()):
        for column in reversed(columns):
            op.drop_column(table, column.name)


def _rewrite_scopes(rewritten: Callable[[list[str]], list[str]]) -> None:
    tokens = sa.table("tokens", sa.column("id", sa.Integer), sa.column("scopes", sa.JSON))
    connection = op.get_bind()
    for token, stored in connection.execute(sa.select(tokens.c.id, tokens.c.scopes)).all():
        scopes = json.loads(stored) if isinstance(stored, str) else stored
        connection.execute(tokens.update().where(tokens.c.id == token).values(scopes=rewritten(scopes)))
