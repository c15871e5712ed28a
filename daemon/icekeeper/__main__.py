"""The command `icekeeper`, also as `python -m icekeeper`: sees to it that it runs with its own packages, then runs."""

from __future__ import annotations

import os
import site
import sys
import sysconfig


def main() -> None:
    """The command `icekeeper`."""
    sys.path[:] = without_pythonpath(sys.path, os.environ.get("PYTHONPATH", ""))
    from icekeeper.cli import main as command

    command()


def without_pythonpath(path: list[str], pythonpath: str) -> list[str]:
    """Where packages are looked for, without what PYTHONPATH adds.

    In a container that holds another Spark it names that one's PySpark, and comes before the one installed with us.
    """
    own = {*site.getsitepackages(), *sysconfig.get_paths().values()}
    added = {os.path.abspath(each) for each in pythonpath.split(os.pathsep) if each} - own
    return [each for each in path if os.path.abspath(each) not in added]


if __name__ == "__main__":
    main()
