"""Damage at random, by seed: what an audit may not call clean, and what it may not complain of. `make damage`."""
