"""icekeeper: a daemon that compacts, expires and audits the Iceberg cold tier of a lakehouse, every night."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("icekeeper")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
