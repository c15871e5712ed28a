"""One room per outside system: each implements a port of `ports.py` and translates its errors into `core.errors`."""
