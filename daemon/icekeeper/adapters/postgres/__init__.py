"""Connections to PostgreSQL: the pool, poolers in between, the lease. What is stored there: adapters/ledger."""
