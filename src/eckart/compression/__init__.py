"""The walk that compresses a model block by block, and what it leaves on record."""
