"""What is known of a model before anything is measured on it."""
