"""The shape of the package: no module and no folder is too big, and the wheel installs it under its own name only."""

from __future__ import annotations

import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "daemon" / "icekeeper"
MOST_LINES, MOST_MODULES = 320, 16


def test_no_module_of_the_package_is_longer_than_a_reader_keeps_in_mind() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert len(lines) > 100
    too_long = {path.relative_to(PACKAGE): count for path, count in lines.items() if count > MOST_LINES}
    assert not too_long, (
        f"more than {MOST_LINES} lines; make two modules of each, or a simpler one:\n{_table(too_long)}"
    )


def test_no_folder_of_the_package_holds_more_modules_than_one_can_choose_from() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    modules = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    too_full = {folder.relative_to(PACKAGE): count for folder, count in modules.items() if count > MOST_MODULES}
    assert not too_full, f"more than {MOST_MODULES} modules; make two folders of each:\n{_table(too_full)}"


def _table(counts: dict[Path, int]) -> str:
    return "\n".join(f"{count:6d}  {path}" for path, count in sorted(counts.items(), key=lambda item: -item[1]))


def test_the_wheel_installs_icekeeper_and_nothing_else(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    version = WheelBuilder(str(ROOT)).metadata.version
    assert {name.partition("/")[0] for name in names} == {"icekeeper", f"icekeeper-{version}.dist-info"}
    # All of it, with what is no module: SQL, templates, migrations.
    ours = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    assert ours == {name for name in names if name.startswith("icekeeper/")}
