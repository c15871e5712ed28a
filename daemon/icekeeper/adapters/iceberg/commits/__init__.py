"""Commits whose answer does not say whether they landed."""
