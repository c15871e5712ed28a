"""One run in this process: its services, its lock, its recording and its log."""
