"""Deleting the files that an expiry leaves unreferenced, now or on a later night."""
