"""Which method trains best."""
