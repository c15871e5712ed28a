"""One table: its state, the plan for it, what may hold it back, and whether the plan was carried out. Pure."""
