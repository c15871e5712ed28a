"""The migrations in their order. Alembic finds them by their file, no module imports them.

Each runs within the caller's transaction. There is no downgrade: the rows are people's records.
"""
