"""`icekeeper doctor`: asks every outside part and says what is wrong. One module for each part that is asked."""

from daemon.service.doctor.examine import examine
from daemon.service.doctor.finding import Finding, Level, Part, sound
from daemon.service.doctor.show import findings_document, show_findings

__all__ = ["Finding", "Level", "Part", "examine", "findings_document", "show_findings", "sound"]
