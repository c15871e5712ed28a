"""Bringing rows back to a table: comparing them by key, writing their files, and the commit that adds them."""
