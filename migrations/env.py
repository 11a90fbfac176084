"""Runs the migrations on the connection that identity_server.storage.schema.upgrade hands over."""

from __future__ import annotations

from alembic import context

from identity_server.storage.schema.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can't alter most of a table: a migration may ask for a copy instead.
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
