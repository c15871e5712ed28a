"""The stages of a run, a module each: how its tasks inspect, plan, act and verify. Retrying: task.py."""
