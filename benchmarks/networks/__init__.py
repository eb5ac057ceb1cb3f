"""Networks with a shared trunk and a head for each task, and their scores."""
