"""The migrations in their order; Alembic finds them by their file; no module imports them."""
