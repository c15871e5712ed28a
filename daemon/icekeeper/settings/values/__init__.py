"""The syntax of values in the file: durations, sizes, addresses, schedules."""
