"""Room linalg."""
