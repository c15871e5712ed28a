"""Each command's own imports, as an interpreter does them that has imported nothing else of the package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import icekeeper.cli

CLI = Path(icekeeper.cli.__file__).parent

# Imports what other packages bring, which takes most of the time, and forgets ours. Then a fork for each text of stdin,
# two at a time: the state in which `icekeeper` calls a command's function.
_EACH = """
import json, os, sys, traceback
import icekeeper.cli, icekeeper.service.supervisor
for name in [name for name in sys.modules if name.partition(".")[0] == "icekeeper"]:
    del sys.modules[name]
import icekeeper.cli
failed = False
def wait():
    global failed
    failed |= os.wait()[1] != 0
for number, (function, text) in enumerate(json.load(sys.stdin).items()):
    if os.fork() == 0:
        try:
            exec(text, {})
        except BaseException:
            sys.stderr.write(f"{function}: {traceback.format_exc()}")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if number:
        wait()
wait()
sys.exit(failed)
"""

# It costs 40 CPU seconds: each command's imports begin in a process that has none of the package.
pytestmark = pytest.mark.full


def test_what_a_command_imports_can_be_imported_first() -> None:
    texts = {}
    for path in sorted(CLI.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and path.stem != "demo":
                own = [ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
                if own:
                    texts[f"{path.name} {function.name}"] = "\n".join(own)
    assert len(texts) > 12

    done = subprocess.run(
        [sys.executable, "-c", _EACH], input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
