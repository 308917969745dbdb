"""Many recipes at many sizes, measured the same way."""
