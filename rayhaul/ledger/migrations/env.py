"""What Alembic runs: the connection comes from migrate.py, already in a transaction."""

from alembic import context

from rayhaul.ledger import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    # SQLite changes a column by copying the table.
    render_as_batch=True,
)
context.run_migrations()
