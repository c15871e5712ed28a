"""One run in this process: its parts, its lock, its recording and its log."""
