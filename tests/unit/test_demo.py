"""What the demo leaves behind, and what it says of that. The demo itself is played in full by `make demo`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from icekeeper import demo


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("end", [0, 1, 130])
def test_the_demo_removes_what_it_says_it_removes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    keep: bool,
    named: bool,
    end: int,
) -> None:
    made: list[Path] = []

    async def play(screen: object, root: Path, keep: bool, began: float) -> int:
        (root / "icekeeper.yaml").write_text("here")
        made.append(root)
        if end == 130:
            raise KeyboardInterrupt
        return end

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "_play", play)
    assert demo.run_demo(keep=keep, root=tmp_path / "named" if named else None) == end
    (root,) = made
    stays = keep or named
    assert (root / "icekeeper.yaml").exists() == root.exists() == stays
    words = " ".join(capsys.readouterr().out.split())
    assert ("removed" in words) == (not stays)
    assert (f"files stay in {root}" in words) == stays
