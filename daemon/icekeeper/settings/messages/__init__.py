"""Messages about settings: mistakes, with their lines and suggestions, and warnings."""
