"""`icekeeper doctor`: asks every outside part and says what is wrong. One module for each part that is asked."""

from daemon.service.doctor.check import Check, Level, Part, sound
from daemon.service.doctor.examine import examine
from daemon.service.doctor.show import checks_document, show_checks

__all__ = ["Check", "Level", "Part", "checks_document", "examine", "show_checks", "sound"]
