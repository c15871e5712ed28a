"""The settings of icekeeper: `load` reads them, `Settings` is what they are."""

from icekeeper.settings.export import redacted, schema
from icekeeper.settings.loading.file import find_config, load, state_dir_of
from icekeeper.settings.model import Settings

__all__ = ["Settings", "find_config", "load", "redacted", "schema", "state_dir_of"]
