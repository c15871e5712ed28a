"""`python -m daemon` is the command `icekeeper`."""

from daemon.cli import main

main()
