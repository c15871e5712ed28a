"""The commands about the configuration file: init, which writes the first one, and config."""
