"""What it costs, counted and not timed, against what was recorded."""
