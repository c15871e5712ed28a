"""`icekeeper doctor`: checks every system that a night needs, and advises. A module for each system or its rules."""

from icekeeper.doctor.check import Check, Level, Subject, no_errors
from icekeeper.doctor.examine import examine

__all__ = ["Check", "Level", "Subject", "examine", "no_errors"]
