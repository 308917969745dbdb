"""Names, JSON and YAML that come from outside, read with care."""
