"""Cleans up after a sandbox whose process died without stopping it: a program of its own.

A death signal on the children (PR_SET_PDEATHSIG) would be less code, but the kernel sends it when the *thread* that
started them ends, and drops it when a child changes its user, as PostgreSQL's does under root. So this small process
waits for its parent's end instead, and does what the parent can't do any more: end children, remove their files.

It is run as a script by path (`python -I -S janitor.py PARENT_PID`), so it may import the standard library only.
It reads lines on its stdin: `pid N SIGNAL` and `gone N` (a child came, went), `path P` (remove that at the end),
`bye` (an orderly stop: do nothing). End of input, or of the parent, without `bye` means: clean up.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time

GRACE_S = 5.0  # between asking a child to stop and killing it


def _send(pidfd: int, number: int) -> None:
    # It may have ended meanwhile.
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, number)


def _clean_up(children: dict[int, tuple[int, int]], paths: list[str]) -> None:
    for pidfd, number in children.values():
        _send(pidfd, number)
    deadline = time.monotonic() + GRACE_S
    waiting = {pidfd for pidfd, _ in children.values()}
    while waiting and (left := deadline - time.monotonic()) > 0:
        # A pidfd becomes readable when its process has ended.
        ended, _, _ = select.select(list(waiting), [], [], left)
        waiting -= set(ended)
    for pidfd in waiting:
        _send(pidfd, signal.SIGKILL)
    if waiting:
        select.select(list(waiting), [], [], 1.0)
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            os.unlink(path)


def main() -> None:
    """Waits for `bye`, or for the end of the parent."""
    # Ctrl-C and a hang-up reach the whole terminal session; the janitor must outlive them.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The pipe alone isn't enough: a process forked from the parent may hold its other end open.
    parent = os.pidfd_open(int(sys.argv[1]))
    children: dict[int, tuple[int, int]] = {}
    paths: list[str] = []
    pending = b""
    while True:
        ready, _, _ = select.select([0, parent], [], [])
        if 0 not in ready:
            break
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "bye":
                return
            if word == "pid":
                pid, stop_signal = rest.split(" ")
                # A pidfd can't be mistaken for another process that gets the same number later.
                with contextlib.suppress(ProcessLookupError):
                    children[int(pid)] = (os.pidfd_open(int(pid)), int(stop_signal))
            elif word == "gone" and int(rest) in children:
                os.close(children.pop(int(rest))[0])
            elif word == "path":
                paths.append(rest)
    _clean_up(children, paths)


if __name__ == "__main__":
    main()
