"""Writes a model in the formats of other runtimes, runs what was written, and compares."""
