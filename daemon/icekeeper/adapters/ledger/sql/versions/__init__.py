"""The migrations in their order; Alembic finds them by their file, nobody imports them."""
