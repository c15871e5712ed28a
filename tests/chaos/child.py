"""icekeeper with a clock that others can move: `python -m tests.chaos.child INSTANT FILE ARGUMENTS...`.

It begins at the instant; SIGUSR2 moves it by as many seconds as the file says.
"""

from __future__ import annotations

import signal
import sys
from datetime import datetime
from pathlib import Path

import time_machine


def main() -> None:
    start, step = sys.argv[1:3]
    del sys.argv[1:3]
    clock = time_machine.travel(datetime.fromisoformat(start), tick=True).start()
    signal.signal(signal.SIGUSR2, lambda *_: clock.shift(float(Path(step).read_text())))
    # Only now, so that nothing has looked at the other clock.
    from icekeeper.cli import main as icekeeper

    icekeeper()


if __name__ == "__main__":
    main()
