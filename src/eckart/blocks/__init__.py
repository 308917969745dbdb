"""A model as a list of blocks that are run one at a time."""
