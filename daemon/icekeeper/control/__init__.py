"""The control socket: the HTTP API for commands on the daemon's host, and the client that they use."""
