"""The spool: every record on disk before it reaches the ledger, and the shipper that takes it there."""
