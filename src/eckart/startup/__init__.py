"""What runs when a process starts: files that are found by their paths, and import nothing of this package."""
