"""Which jar a session lacks, from the exceptions that say so, and the line of the settings that brings it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from icekeeper.adapters.spark.failures.causes import Cause
from icekeeper.core.catalogs.packages import driver_of, file_io_of, package_of

_DRIVER = re.compile(r"No suitable driver found for (jdbc:\w+:)")
_SCHEME = re.compile(r'No FileSystem for scheme "([a-z0-9]+)"')
_CLASS = re.compile(
    r"(?:ClassNotFoundException|NoClassDefFoundError): (?:Class )?([\w/.$]+)"
    r"|^(?:Class )?([\w$]+(?:[/.][\w$]+)+)(?: not found)?$"
)
_RAISED = frozenset({"java.lang.ClassNotFoundException", "java.lang.NoClassDefFoundError"})


def jar_advice(causes: Sequence[Cause], packages: Sequence[str], jars: Sequence[str]) -> str:
    """What to write into the settings, of which these are the session's packages and jars."""
    for cause in causes:
        if (driver := _DRIVER.search(cause.message)) is not None:
            coordinate = driver_of(driver[1])
            return (
                _line(coordinate, packages, jars)
                if coordinate
                else f"name the package of a driver for {driver[1]} in spark.packages"
            )
        if (scheme := _SCHEME.search(cause.message)) is not None and (found := file_io_of(scheme[1], packages)):
            io, coordinate = found
            line = "" if coordinate in packages else f", and {_line(coordinate, packages, jars)}"
            return f"write catalog.properties: {{io-impl: {io}}}{line}"
    for name in _classes(causes):
        coordinate = package_of(name, packages)
        if coordinate is not None and coordinate not in packages:
            return _line(coordinate, packages, jars)
    return "name the package that has it in spark.packages, in the version that fits the others"


def _classes(causes: Sequence[Cause]) -> Iterator[str]:
    """The missing classes, the innermost first: an outer exception names what could not be loaded without it."""
    for cause in reversed(causes):
        found = _CLASS.search(cause.message)
        if found is not None and (found[1] or _RAISED & set(cause.classes)):
            yield (found[1] or found[2]).replace("/", ".")


def _line(coordinate: str, packages: Sequence[str], jars: Sequence[str]) -> str:
    """The whole line: what is given replaces the defaults."""
    if packages or not jars:
        return f"write spark.packages: [{', '.join((*packages, coordinate))}]"
    return f"add the jar of {coordinate} to spark.jars"
