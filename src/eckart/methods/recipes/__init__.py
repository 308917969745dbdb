"""The named recipes, and how recipes are read."""
