"""From a YAML file, the environment and secret files to settings."""
