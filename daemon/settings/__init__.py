"""The settings of icekeeper: `load` reads them, `Settings` is what they are."""

from daemon.settings.file import find_config, load, state_dir_of
from daemon.settings.model import Settings
from daemon.settings.shown import schema, shown

__all__ = ["Settings", "find_config", "load", "schema", "shown", "state_dir_of"]
