"""The ledger in PostgreSQL: storing runs, reading history, findings and log lines, and its migrations."""
