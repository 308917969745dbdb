"""The public verbs, and what is said and checked before they start."""
