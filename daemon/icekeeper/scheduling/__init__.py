"""What the daemon does over time: slots, the worker, leadership, reload, the session, notifications."""
