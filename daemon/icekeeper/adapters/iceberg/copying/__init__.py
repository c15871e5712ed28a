"""Copying row groups: files whose row groups are large become fewer files without being decoded."""
