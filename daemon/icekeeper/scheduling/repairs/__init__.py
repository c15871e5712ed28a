"""Repairs of missing rows: what is chosen for one, and those that follow a night by themselves."""
