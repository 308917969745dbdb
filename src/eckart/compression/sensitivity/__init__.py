"""Statistics that serve one benchmark."""
