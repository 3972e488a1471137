"""Room integrations."""
