"""`icekeeper doctor`: asks every outside part and says what is wrong. One module for each part that is asked."""

from icekeeper.doctor.check import Check, Level, Part, sound
from icekeeper.doctor.examine import examine

__all__ = ["Check", "Level", "Part", "examine", "sound"]
