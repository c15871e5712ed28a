"""The rules of the night: records and pure functions. No clock, no I/O, no asyncio lives here."""
