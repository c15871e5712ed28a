"""The lock of whoever runs something on this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from icekeeper.execution.lock import RunLockHeld, run_lock


def test_the_lock_admits_one_and_is_free_again_afterwards(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(RunLockHeld, match="another run is under way"), run_lock(tmp_path):
        pass
    with run_lock(tmp_path):
        pass
