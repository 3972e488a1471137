"""Room hooks."""
