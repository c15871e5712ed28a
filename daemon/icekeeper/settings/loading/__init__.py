"""Reading the settings: a YAML file, the environment, and secret files."""
