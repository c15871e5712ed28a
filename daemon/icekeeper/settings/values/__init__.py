"""How values are written in the file: durations, sizes, addresses, schedules."""
