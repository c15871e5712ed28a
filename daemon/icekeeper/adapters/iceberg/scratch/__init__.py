"""The scratch table of a warm-up: the catalogs that it may be in, and a store for it."""
