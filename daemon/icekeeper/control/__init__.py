"""The control socket: how commands reach the daemon on their host."""
