"""Compiles Java classes in the JVM of the session by Janino, the compiler that Spark brings for its own queries."""

from __future__ import annotations

from pathlib import Path
from threading import RLock
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm

SCHEMA_FIT = "SchemaFit"
FILE_PROVER = "FileProver"
LISTED_FILES = "ListedFiles"
REWRITE_READER = "RewriteReader"
ROW_GROUP_COPIER = "RowGroupCopier"
# The class that another one uses, besides those that are before that; it is in the same folder.
_USED_BY = {
    FILE_PROVER: SCHEMA_FIT,
    REWRITE_READER: FILE_PROVER,
    ROW_GROUP_COPIER: "CopiedMetrics",
    "CopiedMetrics": "RowGroups",
    "RowGroups": "Pages",
    "Pages": "Pieces",
}
_PACKAGE = "icekeeper"
_FOLDER = Path(__file__).parent
_JAVA = 8  # the class file version that Janino writes best; any newer Java runs it
# Tables are prefetched by several threads.
_compiling = RLock()


def new_instance(jvm: IcebergJvm, name: str, *arguments: Any, folder: Path = _FOLDER) -> Any:
    """An object of this class, whose source is in the folder.

    A class is compiled once a JVM: py4j remembers methods by the name of their class, and a second class would get
    those of the first.
    """
    return _constructor(jvm, name, folder).newInstance(jvm.array(jvm.lang.Object, arguments))


def _constructor(jvm: IcebergJvm, name: str, folder: Path) -> Any:
    with _compiling:
        return jvm.once(f"{_PACKAGE}.{name}", lambda: _compiled(jvm, name, folder).getConstructors()[0])


def _compiled(jvm: IcebergJvm, name: str, folder: Path) -> Any:
    spark: Any = jvm.spark._jvm
    compiler = spark.org.codehaus.janino.SimpleCompiler()
    compiler.setTargetVersion(_JAVA)
    loader = jvm.lang.Thread.currentThread().getContextClassLoader()
    if name in _USED_BY:
        used = _constructor(jvm, _USED_BY[name], folder)
        loader = used.getDeclaringClass().getClassLoader()
    compiler.setParentClassLoader(loader)
    compiler.cook(folder.joinpath(f"{name}.java").read_text(encoding="utf-8"))
    return compiler.getClassLoader().loadClass(f"{_PACKAGE}.{name}")
