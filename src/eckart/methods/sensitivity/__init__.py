"""What allocators and output metrics know of the original model, measured block by block before anything is changed."""
