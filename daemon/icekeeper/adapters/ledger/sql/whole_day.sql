-- An audit of one whole UTC day: the session's zone is UTC.
window_start = date_trunc('day', window_start) AND window_end = window_start + interval '1 day'
