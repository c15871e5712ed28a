"""The stages of a night, one room each: how its tasks inspect, plan, act and verify. Retrying is `task.py`'s."""
