"""Questions about methods, each answered by one table."""
