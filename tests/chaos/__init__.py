"""Hurts the real program at random instants of a night, and judges by other means than its own what came of it.

`python -m tests.chaos --runs 20 --seed 1`; each run follows from its seed alone. `plan.py` derives it, `scene.py` is
the stage, `faults.py` what can happen there, `judge.py` what must be true afterwards, `campaign.py` plays many.
"""
